"""`benchmarks.post_training_search`: what every arm tries, that trials are measured once, whose box it is."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest

from benchmarks import post_training_search as bench
from benchmarks import post_training_search_show as shown
from benchmarks.post_training import BASES
from search.run.allocation import BITS, searched_bits
from spaces.schema import load

CHANGES = {**BASES["masked"], "budget.trials": 8}
SPACE = load("dllmquant", CHANGES)
HANDS = {**bench.ARMS, **bench.SAMPLED["masked"]}


class Pretended(bench.Trials):
    """Trials that measure formulas of their settings."""

    asked = 0

    def _trial(self, config):
        def rung(index):
            self.asked += 1
            bits = sum(config.calibration.bits.values()) or 8
            return {"rung": index, "kl_to_base": 1 / bits + (config.calibration.seed or 0) / 100,
                    "size_bytes": bits, "perplexity": 9.0 + index + (config.evaluation.seed or 0),
                    "diversity": 0.4 + config.sampling.temperature / 10,
                    "generation_flops": config.sampling.steps, "other": 1.0}
        return SimpleNamespace(rung=rung)

    def losses(self, space, seed):
        return {"costs": [{"site": part, "choice": str(each), "bytes": each, "kl": 1 / each}
                          for part, bits in searched_bits(space).items() for each in bits],
                "fixed_bytes": 0, "cpu_seconds": 1.0}


def trials(folder, seconds=60.0) -> Pretended:
    return Pretended(SPACE, "nowhere", folder, time.monotonic() + seconds)


@pytest.mark.parametrize(("arm", "count"), [(arm, 18 if arm == "quant_dllm" else 72) for arm in HANDS])
def test_an_arm_tries_every_combination_once(arm, count):
    grid = bench.grid(SPACE, HANDS[arm])
    configs = {SPACE.config(point).model_dump_json() for point in grid}
    assert len(configs) == len(grid) == count
    assert {point[bench.METHOD] for point in grid} == {HANDS[arm][bench.METHOD]}
    assert all(len({value for path, value in point.items() if path.startswith(BITS)}) <= 1 for point in grid)
    assert len({str((point[bench.SAMPLER], point[bench.TEMPERATURE])) for point in grid}) == 1
    assert (grid[0][bench.SAMPLER] == "ancestral") == (arm in bench.ARMS)
    assert {point["sampling.steps"] for point in grid[:count // 3]} == {10}


def test_trials_are_measured_once_and_a_seed_acts_where_states_are_read(tmp_path):
    first = trials(tmp_path)
    plain, again = (bench.by_hand(SPACE, HANDS["rtn"], seed, 3, first) for seed in (0, 1))
    assert first.asked == 3 and plain == again and plain["trials"] == 3
    own, other = (bench.by_hand(SPACE, HANDS["gptq"], seed, 3, first) for seed in (0, 1))
    assert first.asked == 9 and own["complete"][0]["kl_to_base"] < other["complete"][0]["kl_to_base"]
    later = trials(tmp_path, seconds=-1.0)
    assert bench.by_hand(SPACE, HANDS["gptq"], 1, 3, later) == other and later.asked == 0
    with pytest.raises(bench.PausedError):
        bench.by_hand(SPACE, HANDS["gptq"], 1, 4, later)


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole = bench.searched(CHANGES, 0, trials(tmp_path / "one"))
    assert whole["trials"] == 8 and 0 < len(whole["complete"]) <= 8
    first = [row["point"] for row in whole["complete"]][:2]  # from the integer program, fewest bits first
    assert [sum(bits for path, bits in point.items() if path.startswith(BITS)) for point in first] == [8, 10]
    assert all(point[bench.METHOD] == "gptq" and point["calibration.activation_bits"] == 16
               for point in first)
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


def test_texts_are_to_be_as_diverse_as_the_unrounded_bases(tmp_path):
    found = bench.bounds(trials(tmp_path))
    assert found == ["perplexity <= 40", f"diversity >= {bench.DIVERSE * 0.45:.3f}"]


ROWS = [{"number": n, "kl_to_base": kl, "perplexity": 10.0 + kl, "size_bytes": 100.0 - kl, "diversity": 0.5,
         "generation_flops": 1.0 + kl} for n, kl in enumerate((0.0, 1.0, 2.0, 3.0, 100.0))]


def test_the_box_leaves_the_worst_quarter_out():
    assert shown.box_of(SPACE, ROWS).corners()["kl_to_base"] == pytest.approx([0.0, 3.3])
    box = shown.box_of(SPACE, ROWS, 1.0)
    assert box.corners()["kl_to_base"] == pytest.approx([0.0, 110.0])
    assert shown.volume(SPACE, box, []) == 0
    assert [row["kl_to_base"] for row in shown.front(SPACE, ROWS)] == [3.0, 2.0, 1.0, 0.0]  # 110 is beyond 40


def test_a_trial_that_breaks_a_constraint_adds_nothing_nor_does_what_is_capped():
    box = shown.box_of(SPACE, ROWS)
    better = {**ROWS[0], "generation_flops": -5.0}
    alone, more = shown.volume(SPACE, box, ROWS), [*ROWS, better]
    assert shown.volume(SPACE, box, [*ROWS, {**better, "diversity": 0.1}]) == alone
    assert shown.volume(SPACE, box, more) > alone == shown.volume(SPACE, box, more, capped=True)


def test_the_search_is_told_by_the_best_arm_that_all_seeds_were_tried_with():
    def arm(*shifts):
        return [{"complete": [{**row, "perplexity": row["perplexity"] - shift} for row in ROWS], "trials": 5,
                 "cpu_seconds": 1.0} for shift in shifts]
    found = {"gptq": arm(0.0, 0.1), "rtn": arm(-1.0, -1.0), "hqq": arm(2.0), "search": arm(1.0, 1.0)}
    for runs in found.values():
        for one in runs if len(runs) == 2 else ():
            one["again"] = one["complete"]
    for row in (row for one in found["search"] for row in one["complete"]):
        low = {"kl_to_base": row["kl_to_base"], "perplexity": -row["perplexity"], "cpu_seconds": 1.0}
        row["rungs"] = [low, {**row, "cpu_seconds": 3.0}]
    told = shown.summary(SPACE, found, ("gptq", "rtn", "hqq"))
    box = told["box"]
    assert box["best_arm"] == "gptq" and box["to_best"]["gptq"] == [1.0, 0.0]
    assert box["to_best"]["hqq"][1] is None and box["to_best"]["rtn"][0] < 1
    ratio = [one / own for one, own in zip(box["volumes"]["search"], box["volumes"]["gptq"], strict=True)]
    assert told["target"]["mean"] == box["to_best"]["search"][0] == pytest.approx(sum(ratio) / 2)
    assert box["again"] == {name: box["to_best"][name] for name in found if name != "hqq"}
    assert told["first_rung"] == {"trials": 10, "cpu_seconds": [1.0, 3.0], "spearman": pytest.approx(
        {"kl_to_base": 1.0, "perplexity": -1.0})}
    assert all("rungs" not in row for each in told["fronts"] for row in each)
