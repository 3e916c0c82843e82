"""`benchmarks.post_training_search`: what every arm tries, that trials are measured once, whose box it is."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest

from benchmarks import post_training_search as bench
from benchmarks.post_training import BASES
from spaces.schema import load

CHANGES = {**BASES["masked"], "budget.trials": 5}
SPACE = load("dllmquant", CHANGES)


class Pretended(bench.Trials):
    """Trials that measure formulas of their settings."""

    asked = 0

    def _trial(self, config):
        def rung(index):
            self.asked += 1
            bits = config.calibration.method.params.get("bits", 2)
            return {"rung": index, "kl_to_base": 1 / bits + config.calibration.seed / 100, "size_bytes": bits,
                    "perplexity": 9.0 + index, "generation_flops": config.sampling.steps, "other": 1.0}
        return SimpleNamespace(rung=rung)


def trials(folder, seconds=60.0) -> Pretended:
    return Pretended(SPACE, "nowhere", folder, time.monotonic() + seconds)


@pytest.mark.parametrize(("arm", "count"), [(arm, 18 if arm == "quant_dllm" else 72) for arm in bench.ARMS])
def test_an_arm_tries_every_combination_once(arm, count):
    grid = bench.grid(SPACE, arm)
    configs = {SPACE.config(point).model_dump_json() for point in grid}
    assert len(configs) == len(grid) == count
    assert all(point[bench.METHOD] == bench.ARMS[arm][bench.METHOD] for point in grid)
    assert {point["sampling.steps"] for point in grid[:count // 3]} == {10}


def test_trials_are_measured_once_and_a_seed_acts_where_states_are_read(tmp_path):
    first = trials(tmp_path)
    plain, again = (bench.by_hand(SPACE, "rtn", seed, 3, first) for seed in (0, 1))
    assert first.asked == 3 and plain == again and plain["trials"] == 3
    own, other = (bench.by_hand(SPACE, "gptq", seed, 3, first) for seed in (0, 1))
    assert first.asked == 9 and own["complete"][0]["kl_to_base"] < other["complete"][0]["kl_to_base"]
    later = trials(tmp_path, seconds=-1.0)
    assert bench.by_hand(SPACE, "gptq", 1, 3, later) == other and later.asked == 0
    with pytest.raises(bench.PausedError):
        bench.by_hand(SPACE, "gptq", 1, 4, later)


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole = bench.searched(CHANGES, 0, trials(tmp_path / "one"))
    assert whole["trials"] == 5 and 0 < len(whole["complete"]) <= 5
    short = trials(tmp_path / "two")
    short.until = math.inf
    measured, plain = [], short._trial
    short._trial = lambda config: measured.append(1) or (
        setattr(short, "until", 0.0) if len(measured) == 2 else None) or plain(config)
    with pytest.raises(bench.PausedError):
        bench.searched(CHANGES, 0, short)
    assert len(measured) == 2
    rest = bench.searched(CHANGES, 0, trials(tmp_path / "two"))
    assert [row["point"] for row in rest["complete"]] == [row["point"] for row in whole["complete"]]


def test_the_box_leaves_the_worst_quarter_out():
    rows = [{"kl_to_base": kl, "perplexity": 10.0 + kl, "size_bytes": 100.0 - kl,
             "generation_flops": 1.0 + kl} for kl in (0.0, 1.0, 2.0, 3.0, 100.0)]
    assert bench.box_of(SPACE, rows).corners()["kl_to_base"] == pytest.approx([0.0, 3.3])
    assert bench.box_of(SPACE, rows, 1.0).corners()["kl_to_base"] == pytest.approx([0.0, 110.0])
    assert bench.volume(SPACE, bench.box_of(SPACE, rows), []) == 0
    assert len(bench.front(SPACE, rows)) == 5
