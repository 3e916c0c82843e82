"""The engine's decisions, without Ray: what is recorded, told and counted, and in which order."""

import math

import pytest

from search.engine.engine import Engine
from search.records.run_folder import RunFolder
from search.schedulers.successive_halving import Halving, NoHalving, Problem
from search.study.searcher import StudySearcher
from spaces.schema import Space


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "search": {"adapt.optim.warmup": {"int": [0, 99]}}, "budget": {"trials": 4}, "hardware": {"cpus": 2}, **changes})


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Bench:
    """An engine on real parts, with a clock in hand and an ear on its events."""

    def __init__(self, path, space=None, resume=None, eta=None, **options):
        self.space = space or make_space()
        self.folder = resume or RunFolder.create(path, "toy", self.space.to_yaml())
        space, rows = self.space, self.folder.rows()
        self.study = StudySearcher(space.dimensions, space.objectives, storage=self.folder.path / "study.journal", seed=1)
        self.restored = self.study.restore(rows)
        problem = Problem(space.objectives, rungs=2)
        scheduler = Halving(problem, eta=eta) if eta else NoHalving(problem)
        scheduler.restore(rows)
        self.clock, self.events = Clock(), []
        self.engine = Engine(space, self.study, scheduler, self.folder, observer=self.events.append, clock=self.clock,
                             **options)

    def complete(self, loss=1.0, size=1.0, seconds=10.0):
        trial = self.engine.ask()
        self.engine.report(trial.number, rung(0, loss=loss), seconds / 2)
        self.engine.report(trial.number, rung(1, loss=loss, size=size), seconds)
        return trial.number

    def kinds(self):
        return [event["event"] for event in self.events]


def test_a_finite_run_that_is_finished_is_over_when_it_is_taken_up_again(tmp_path):
    space = make_space(search={"adapt.optim.warmup": {"int": [0, 2]}}, budget={"trials": 9})
    first = Bench(tmp_path, space)
    for _ in range(3):
        assert not first.engine.over
        first.complete()
    assert first.engine.ask() is None and first.engine.ended_by == "space" and first.engine.limit == 3
    first.folder.close()
    again = Bench(tmp_path, space, resume=RunFolder.open(first.folder.path).lock())
    assert again.engine.over and again.engine.ended_by == "space", "without starting anything"


def rung(index, **metrics):
    return {"rung": index, "steps": 5 * (index + 1), "final": index == 1, "device": "cpu", **metrics}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_trial_leaves_one_row_per_rung_and_a_complete_study_trial(bench):
    trial = bench.engine.ask()
    assert bench.engine.report(trial.number, rung(0, loss=2.0), 3.0) == "continue"
    assert bench.engine.report(trial.number, rung(1, loss=1.0, size=7), 8.0) == "stop"
    first, last = bench.folder.rows()
    assert (first["state"], first["rung"], first["fidelity"], first["loss"]) == ("rung", 0, 5, 2.0)
    assert (last["state"], last["rung"], last["fidelity"], last["size"]) == ("complete", 1, 10, 7)
    assert last["config.adapt.optim.warmup"] == trial.values["adapt.optim.warmup"]
    assert (last["seconds"], last["device"], last["seed"], last["reason"]) == (8.0, "cpu", 0, None)
    assert bench.study.study.trials[trial.number].values == [1.0, 7.0]
    assert bench.kinds() == ["trial_started", "rung", "trial_finished", "front"]


def test_every_result_is_on_disk_before_the_study_hears_of_it(bench, monkeypatch):
    seen = []

    def spy(number, *_):
        seen.append([row["state"] for row in RunFolder.open(bench.folder.path).rows() if row["trial"] == number])

    monkeypatch.setattr(bench.study, "tell", spy)
    bench.complete()
    assert seen == [["rung", "complete"]]


@pytest.mark.parametrize("index, metrics, reason", [
    (0, {"loss": math.nan}, "objective loss is nan at rung 0"),
    (1, {"loss": 1.0, "size": math.inf}, "objective size is inf at rung 1"),
    (1, {"loss": 1.0}, "objective size was not measured at rung 1"),
])
def test_measurements_that_cannot_stand_fail_the_trial(bench, index, metrics, reason):
    trial = bench.engine.ask()
    for earlier in range(index):
        bench.engine.report(trial.number, rung(earlier, loss=1.0))
    assert bench.engine.report(trial.number, rung(index, **metrics)) == "stop"
    assert (bench.folder.rows()[-1]["state"], bench.folder.rows()[-1]["reason"]) == ("failed", reason)
    assert bench.study.study.trials[trial.number].state.name == "FAIL"


def test_a_failed_trial_keeps_its_reason_and_traceback_and_the_search_goes_on(bench):
    trial = bench.engine.ask()
    bench.engine.report(trial.number, rung(0, loss=1.0))
    bench.engine.fail(trial.number, "ValueError: it broke", "Traceback ...")
    bench.engine.fail(trial.number, "said twice")
    rows = bench.folder.rows()
    assert [(row["state"], row["rung"], row["reason"]) for row in rows] == [
        ("rung", 0, None), ("failed", 1, "ValueError: it broke")]
    assert {"event": "traceback", "trial": 0, "traceback": "Traceback ..."}.items() <= list(bench.folder.events())[-1].items()
    assert bench.engine.ask().number == 1


def test_a_restarted_trial_may_report_its_rungs_again(bench):
    trial = bench.engine.ask()
    for _ in range(2):
        assert bench.engine.report(trial.number, rung(0, loss=1.0)) == "continue"
    assert len(bench.folder.rows()) == 1


def test_a_dominated_trial_is_stopped_and_pruned_but_the_reference_arm_is_not(tmp_path):
    bench = Bench(tmp_path, make_space(budget={"trials": 9}), eta=3)
    for loss in (1.0, 2.0, 3.0):
        trial = bench.engine.ask()
        decision = bench.engine.report(trial.number, rung(0, loss=loss))
    assert decision == "stop"
    assert bench.folder.rows()[-1]["reason"] == "dominated at rung 0"
    assert bench.study.study.trials[trial.number].state.name == "PRUNED"
    bench.study.enqueue({"adapt.optim.warmup": 50}, tag="unquantized")
    arm = bench.engine.ask()
    assert arm.tag == "unquantized"
    assert bench.engine.report(arm.number, rung(0, loss=99.0)) == "continue"


def test_the_trial_budget_counts_what_runs(bench):
    live = [bench.engine.ask() for _ in range(4)]
    assert all(live) and bench.engine.over and bench.engine.ask() is None
    bench.engine.fail(live[0].number, "no")
    assert bench.engine.ask() is None


def test_the_time_budget_stops_what_runs_at_its_next_rung(tmp_path):
    bench = Bench(tmp_path, make_space(budget={"time": 60}), spent=20.0)
    trial = bench.engine.ask()
    assert bench.engine.elapsed == 20.0 and bench.events[-1]["eta"] == 40.0
    bench.clock.now += 41
    assert bench.engine.over and bench.engine.ask() is None
    assert bench.engine.report(trial.number, rung(0, loss=1.0)) == "stop"
    row = bench.folder.rows()[-1]
    assert (row["state"], row["reason"]) == ("stopped", "the time budget was used up")


def test_money_and_device_hours_are_those_of_everything_held(tmp_path):
    bench = Bench(tmp_path, make_space(budget={"price": 18.0, "money": 1.0}), groups=2)  # 2 groups of 2 CPUs: 50 s
    trial = bench.engine.ask()
    bench.clock.now += 49
    assert not bench.engine.over and bench.engine.summary()["cost"]["money"] == pytest.approx(0.98)
    bench.clock.now += 1
    assert bench.engine.over and bench.engine.summary()["ended_by"] == "money"
    assert bench.engine.report(trial.number, rung(0, loss=1.0), 50.0) == "stop"
    assert bench.folder.rows()[-1]["reason"] == "the money budget was used up"
    cost = bench.engine.summary()["cost"]
    assert (cost["stopped"], cost["overhead"], cost["held"]) == (100.0, 100.0, 200.0)


def test_patience_ends_the_search_when_the_front_stops_growing_also_across_a_restart(tmp_path):
    space = make_space(budget={"trials": 40, "patience": 3}, box={"loss": [0, 10], "size": [0, 10]})
    bench = Bench(tmp_path, space)
    for loss in (5.0, 4.0, 6.0, 7.0):
        bench.complete(loss=loss)
    assert not bench.engine.over
    bench.folder.close()
    again = Bench(tmp_path, space, resume=RunFolder.open(bench.folder.path).lock())
    again.complete(loss=8.0)
    assert again.engine.summary()["ended_by"] == "patience" and again.engine.ask() is None


def test_a_silent_trial_is_overdue(tmp_path):
    bench = Bench(tmp_path, make_space(budget={"trials": 4, "trial_time": "30s"}))
    first, second = bench.engine.ask(), bench.engine.ask()
    bench.clock.now += 20
    bench.engine.report(second.number, rung(0, loss=1.0))
    bench.clock.now += 11
    assert bench.engine.overdue() == [first.number]
    bench.engine.fail(first.number, "no word for 30 s")
    assert bench.engine.overdue() == [] and bench.folder.rows()[-1]["state"] == "failed"


def test_what_was_asked_and_enqueued_is_written_down(bench):
    assert bench.engine.enqueue({"adapt.optim.warmup": 7}, tag="plain") and not bench.engine.enqueue({"adapt.optim.warmup": 7})
    bench.engine.ask()
    told = [{name: entry.get(name) for name in ("event", "trial", "values")} for entry in bench.folder.events()]
    assert told == [{"event": "enqueue", "trial": None, "values": {"adapt.optim.warmup": 7}},
                    {"event": "ask", "trial": 0, "values": {"adapt.optim.warmup": 7}}]


def test_a_small_space_ends_the_search_when_it_is_used_up(tmp_path):
    bench = Bench(tmp_path, make_space(search={"adapt.optim.warmup": {"int": [0, 1]}}, budget={"trials": 9}))
    values = {bench.engine.ask().values["adapt.optim.warmup"] for _ in range(2)}
    assert values == {0, 1} and bench.engine.ask() is None and bench.engine.over


def test_the_summary_adds_up(tmp_path):
    bench = Bench(tmp_path, groups=2)
    bench.complete(loss=1.0, size=5.0, seconds=30.0)
    bench.complete(loss=2.0, size=3.0, seconds=10.0)
    bench.complete(loss=3.0, size=9.0, seconds=20.0)
    bench.engine.add_busy(3540.0)
    told = bench.engine.summary()
    assert (told["complete"], told["failed"], told["running"], told["trials"]) == (3, 0, 0, 4)
    assert told["front_size"] == 2 and told["best"] == {"loss": 1.0, "size": 3.0}
    assert told["cpu_hours"] == pytest.approx(2 * 1.0) and told["gpu_hours"] == 0
    assert told["eta"] == pytest.approx(20.0 * 1 / 2)
    assert told["hypervolume"] > 0


def test_the_box_is_fixed_once_kept_with_the_run_and_the_volume_compares_across_sessions(tmp_path):
    bench = Bench(tmp_path)
    bench.complete(1.0, 2.0)
    assert bench.engine.box is None and bench.engine.summary()["hypervolume"] is None
    bench.complete(2.0, 1.0)
    box, volume = bench.engine.box, bench.engine.summary()["hypervolume"]
    assert box.corners() == bench.folder.meta["box"] == {name: pytest.approx([0.8, 2.2]) for name in ("loss", "size")}
    assert volume == pytest.approx((1.2 * 0.2 + 0.2 * 1.2 - 0.2 * 0.2) / 1.4**2)
    bench.complete(50.0, 50.0)
    assert bench.engine.box == box and bench.engine.summary()["hypervolume"] == pytest.approx(volume)
    bench.folder.close()
    again = Bench(tmp_path, resume=RunFolder.open(bench.folder.path).lock())
    assert again.engine.box == box and again.engine.summary()["hypervolume"] == pytest.approx(volume)


def test_a_box_that_is_given_needs_no_results(tmp_path):
    bench = Bench(tmp_path, make_space(box={"loss": [0, 4], "size": [0, 10]}))
    assert bench.engine.summary()["hypervolume"] == 0.0
    bench.complete(loss=1.0, size=5.0)
    assert bench.events[-1]["hypervolume"] == pytest.approx(0.75 * 0.5)


def test_an_amended_trial_stays_one_member(bench):
    number = bench.complete(loss=1.0, size=2.0)
    bench.engine.amend(number, {"loss_again": 1.5})
    (member,) = bench.engine.front
    assert (member["loss"], member["loss_again"]) == (1.0, 1.5)
    assert bench.engine.summary()["complete"] == 1


def test_the_artifact_is_recorded_where_it_was_put(tmp_path):
    bench = Bench(tmp_path, keep=lambda number, artifact: f"artifacts/trial-{number:04d}")
    trial = bench.engine.ask()
    bench.engine.report(trial.number, rung(0, loss=1.0))
    bench.engine.report(trial.number, rung(1, loss=1.0, size=1.0, artifact="/somewhere/else"))
    assert bench.folder.rows()[-1]["artifact"] == "artifacts/trial-0000"


def test_a_resumed_run_counts_what_ended_and_runs_the_rest_again(tmp_path):
    bench = Bench(tmp_path)
    done = bench.complete()
    lost = bench.engine.ask()
    bench.engine.report(lost.number, rung(0, loss=1.0))
    bench.folder.close()
    again = Bench(tmp_path, resume=RunFolder.open(bench.folder.path).lock())
    assert again.restored.lost == (lost.number,)
    assert again.engine.ended == {done: "complete"}
    trial = again.engine.ask()
    assert trial.values == lost.values and trial.number > lost.number
    assert again.engine.summary()["complete"] == 1
