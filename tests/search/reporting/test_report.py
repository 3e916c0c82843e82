import base64
import gzip
import json
import math
import re

import numpy as np
import optuna
import pytest
from report_runs import BOX, HOSTILE, rows, write_run

from search.cli.main import main
from search.pareto.front import Front
from search.pareto.reference_box import Box
from search.reporting.report import chosen, collect, members
from search.reporting.rows import last_rows
from search.reporting.sensitivity import sensitivity
from search.reporting.timeline import progress, volumes, working_seconds
from search.study.importance import importances
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective
from spaces.schema import Space

A, B = Objective("a", "minimize"), Objective("b", "maximize")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"), 30)


@pytest.fixture(scope="module")
def content(run):
    return collect(run)


def test_the_report_holds_the_front_the_run_has(run, content):
    space = Space.from_yaml((run / "space.yaml").read_text(), "space.yaml")
    front = Front.from_rows(rows(30), space.objectives, space.constraints)
    assert content["front"] == [row["trial"] for row in front] and content["knee"] == front.knee()["trial"]
    assert content["counts"] == {"trials": 30, "shown": 30, "complete": 19, "stopped": 8, "failed": 3}
    assert (content["progress"]["hypervolume"][-1]
            == pytest.approx(front.hypervolume(Box.of(BOX, space.objectives))))


def test_the_content_is_strict_json_and_a_trial_keeps_its_whole_record(content):
    json.dumps(content, allow_nan=False)
    trials = content["trials"]
    assert (trials["trial"] == list(range(30)) and trials["state"][9] == "failed"
            and trials["reason"][9] == HOSTILE)
    assert trials["note"][0] == HOSTILE and trials["config.quantization.quantizer"][1] == "binary"
    assert trials["feasible"] == [(value or math.inf) <= 40 for value in trials["latency_ms"]]


def test_device_hours_and_time_count_ended_trials_once(content):
    worked = content["progress"]
    assert worked["trials"][-1] == 30
    assert worked["device_hours"][-1] == pytest.approx((19 * 3 + 11 * 1) / 3600)
    assert worked["seconds"][0] == 13.0, "trial 0 ended 13 s after the run began"
    lines = {line["what"]: (line["count"], line["seconds"]) for line in content["cost"]["lines"]}
    overhead = lines.pop("starting, waiting, measuring and training the front again")
    assert lines == {"trials that completed": (19, 57.0), "trials that were stopped early": (8, 8.0),
                     "trials that failed or were lost": (3, 3.0), "corpus, teacher and base": (None, 9.0)}
    assert overhead[1] == pytest.approx(130 - 57 - 8 - 3 - 9), "one group was held from 990 to 1120"


def test_curves_stops_and_samples(content):
    curve = next(item for item in content["rungs"]["curves"] if item["trial"] == 0)
    assert (curve["steps"] == [10, 40]
            and curve["perplexity"][0] == pytest.approx(2 * curve["perplexity"][1], rel=1e-4))
    assert {(item["state"], item["reason"], item["trials"]) for item in content["stops"]} == {
        ("complete", "", 19), ("stopped", "beaten by another trial at rung 0", 8), ("failed", HOSTILE, 3)}
    assert [item["text"] for item in content["samples"]["0"]] == [HOSTILE, "a place to eat"]


def test_members_tell_their_fresh_figures_and_whether_they_held_their_place():
    rows = [{"trial": 0, "state": "complete", "a": 1.0, "b": 2.0, "again": 2, "a_again": 3.0,
             "a_se_again": 0.2, "b_again": 2.0},
            {"trial": 1, "state": "complete", "a": 2.0, "b": 3.0, "again": 2, "a_again": 2.0, "b_again": 3.0},
            {"trial": 2, "state": "complete", "a": 9.0, "b": 4.0}]
    assert members(Front.from_rows(rows, [A, B])) == [
        {"place": "lost", "of": "again", "fresh": {"a": [3.0, 0.277181], "b": [2.0, 0.0]}},
        {"place": "held", "of": "again", "fresh": {"a": [2.0, 0.0], "b": [3.0, 0.0]}},
        {"place": None, "of": "own", "fresh": {}}]


def test_pauses_between_sessions_are_not_work():
    def ended(trial, time):
        return {"event": "row", "trial": trial, "state": "complete", "time": time}

    events = [{"event": "run_started", "time": 100.0}, ended(0, 105.0), ended(1, 110.0),
              {"event": "run_started", "time": 500.0}, ended(2, 505.0), ended(0, 510.0),
              {"event": "run_ended", "time": 520.0}]
    assert working_seconds(events) == ({0: 5.0, 1: 10.0, 2: 15.0}, 30.0)


def test_volume_by_hand():
    ended = [{"trial": 0, "state": "complete", "a": 2.0, "b": 1.0},
             {"trial": 1, "state": "stopped", "a": 0.0, "b": 9.0},
             {"trial": 2, "state": "complete", "a": 1.0, "b": 0.5},
             {"trial": 3, "state": "complete", "a": 1.0, "b": 9.0}]
    curve, exact = volumes(ended, [A, B], [Constraint("b", "<=", 5.0)],
                           Box.of({"a": [0.0, 4.0], "b": [2.0, 0.0]}, [A, B]))
    assert exact and curve == [0.25, 0.25, 0.3125, 0.3125], ("2 x 1 of 8, then 1 x 0.5 more; "
                                                             "trial 3 breaks the constraint")


def test_the_estimate_in_four_dimensions_agrees_with_the_exact_volume(monkeypatch):
    noise = np.random.default_rng(1)
    names = [Objective(name, "minimize") for name in "wxyz"]
    ended = [{"trial": trial, "state": "complete", **dict(zip("wxyz", map(float, point), strict=True))}
             for trial, point in enumerate(noise.random((40, 4)))]
    box = Box.of(dict.fromkeys("wxyz", [0.0, 1.1]), names)
    exact, is_exact = volumes(ended, names, (), box)
    monkeypatch.setattr("search.reporting.timeline.EXACT", {})
    monkeypatch.setattr("search.reporting.timeline.EXACT_ABOVE", 2)
    estimate, rough = volumes(ended, names, (), box)
    assert is_exact and not rough
    assert np.abs(np.array(exact) - estimate).max() < 0.02 * exact[-1] and estimate == sorted(estimate)


def test_importance_is_that_of_optuna_and_finds_what_matters(content):
    shares = content["importance"]["perplexity"]
    assert max(shares, key=shares.get) == "lora.rank" and sum(shares.values()) == pytest.approx(1.0)
    noise = np.random.default_rng(0)
    space = Space.from_yaml("search: {lora.rank: {int: [0, 8]}, adapt.optim.lr: {float: [0.001, 1.0]}}\n"
                            "objectives: {perplexity: minimize}\nbudget: {trials: 9}\n", "s.yaml")
    table = [{"config.lora.rank": int(rank),
              "config.adapt.optim.lr": float(lr), "perplexity": float(rank), "trial": 0}
             for rank, lr in zip(noise.integers(0, 9, 60), noise.uniform(0.001, 1, 60), strict=True)]
    study = optuna.create_study()
    axes = {"lora.rank": optuna.distributions.IntDistribution(0, 8),
            "adapt.optim.lr": optuna.distributions.FloatDistribution(0.001, 1.0)}
    study.add_trials([optuna.trial.create_trial(value=row["perplexity"], distributions=axes, params={
        path: row[f"config.{path}"] for path in axes}) for row in table])
    wanted = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.2))
    assert importances(table, space.dimensions, space.objectives)["perplexity"] == pytest.approx(wanted)
    assert importances(table[:9], space.dimensions, space.objectives) == {}


def test_a_large_run_is_thinned_evenly_and_keeps_its_front():
    latest = last_rows(rows(900))
    kept = [row["trial"] for row in chosen(latest, {7, 899}, 100)]
    assert {0, 7, 899} <= set(kept) and len(kept) <= 102 and kept == sorted(kept)
    assert max(np.diff(kept)) < 60, "from all over the run"


def test_the_page_is_one_bounded_file_that_holds_no_text_of_the_run_as_markup(tmp_path, capsys):
    run = write_run(tmp_path, 1000)
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
    assert len(page) < 5_000_000 and "window.hacked" not in page and "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#)', page), "nothing is fetched"
    packed = re.search(r'id="data">([^<]+)<', page)[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["counts"]["trials"] == 1000


def test_a_run_without_a_result_has_a_report(tmp_path):
    run = write_run(tmp_path, 0, "interrupted")
    found = collect(run)
    assert found["front"] == [] and found["importance"] == {} and found["progress"]["hypervolume"] == []
    assert main(["report", str(run), "--figures", str(tmp_path / "figures")]) == 0


def test_figures_are_written_in_three_forms(run, tmp_path):
    assert (main(["report", str(run), "--out", str(tmp_path / "r.html"), "--figures", str(tmp_path / "f")])
            == 0)
    names = {path.name for path in (tmp_path / "f").iterdir()}
    figures = ("front", "dimensions", "hypervolume", "curves", "importance")
    assert names == {f"{name}.{form}" for name in figures for form in ("png", "svg", "csv")}
    front = (tmp_path / "f" / "front.csv").read_text().splitlines()
    assert front[0] == "trial,perplexity,controllability,latency_ms,kind" and len(front) == 31
    assert (tmp_path / "f" / "front.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_or_cannot_be_written_is_one_line(run, tmp_path, capsys):
    with pytest.raises(UserError, match="not a run folder"):
        collect(tmp_path)
    assert main(["report", str(run), "--out", str(tmp_path / "none" / "x.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_progress_without_a_reference_has_no_volume():
    assert progress([], [A], (), None, lambda moment: moment, 1)["hypervolume"] == []


def test_what_rounding_costs_is_shown_most_sensitive_first(content):
    assert content["sensitivity"] == {"bits": [3, 4], "rows": [
        {"part": HOSTILE, "kl_per_bit": 0.02, "kl": [None, 0.04], "bytes": [None, 900]},
        {"part": "ffn", "kl_per_bit": 0.01, "kl": [0.02, 0.01], "bytes": [1500, 2000]}]}
    assert sensitivity([{"event": "prepare", "stage": "base"}, {"event": "prepare", "costs": [3]}]) is None
