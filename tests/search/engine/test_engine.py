"""The engine's decisions, without Ray: what is recorded, told and counted, and in which order."""

import math

import pytest

from search.engine.engine import Engine
from search.records.run_folder import RunFolder
from search.schedulers.successive_halving import NoStopping, Problem, SuccessiveHalving
from search.study.searcher import StudySearcher
from spaces.schema import Space


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "search": {"adapt.optim.warmup": {"int": [0, 99]}}, "budget": {"trials": 4}, "hardware": {"cpus": 2},
        **changes})


class VirtualClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class EngineHarness:
    """An engine on real parts, with a clock in hand and an ear on its events."""

    def __init__(self, path, space=None, resume=None, eta=None, **options):
        self.space = space or make_space()
        self.folder = resume or RunFolder.create(path, "toy", self.space.to_yaml())
        space, rows = self.space, self.folder.rows()
        self.study = StudySearcher(space.dimensions, space.objectives,
                                   storage=self.folder.path / "study.journal", seed=1)
        self.restored = self.study.restore(rows)
        problem = Problem(space.objectives, rungs=2)
        scheduler = SuccessiveHalving(problem, eta=eta) if eta else NoStopping(problem)
        scheduler.restore(rows)
        self.clock, self.events = VirtualClock(), []
        self.engine = Engine(space, self.study, scheduler, self.folder, observer=self.events.append,
                             clock=self.clock, **options)

    def complete(self, loss=1.0, size=1.0, seconds=10.0):
        trial = self.engine.ask()
        self.engine.report(trial.number, rung(0, loss=loss), seconds / 2)
        self.engine.report(trial.number, rung(1, loss=loss, size=size), seconds)
        return trial.number

    def kinds(self):
        return [event["event"] for event in self.events]


def test_a_finite_run_that_is_finished_is_over_when_it_is_taken_up_again(tmp_path):
    space = make_space(search={"adapt.optim.warmup": {"int": [0, 2]}}, budget={"trials": 9})
    first = EngineHarness(tmp_path, space)
    for _ in range(3):
        assert not first.engine.over
        first.complete()
    assert first.engine.ask() is None and first.engine.ended_by == "space" and first.engine.limit == 3
    first.folder.close()
    again = EngineHarness(tmp_path, space, resume=RunFolder.open(first.folder.path).lock())
    assert again.engine.over and again.engine.ended_by == "space", "without starting anything"


def rung(index, **metrics):
    return {"rung": index, "steps": 5 * (index + 1), "final": index == 1, "device": "cpu", **metrics}


@pytest.fixture
def harness(tmp_path):
    return EngineHarness(tmp_path)


def test_a_trial_leaves_one_row_per_rung_and_a_complete_study_trial(harness):
    trial = harness.engine.ask()
    assert harness.engine.report(trial.number, rung(0, loss=2.0), 3.0) == "continue"
    assert harness.engine.report(trial.number, rung(1, loss=1.0, size=7), 8.0) == "stop"
    first, last = harness.folder.rows()
    assert (first["state"], first["rung"], first["fidelity"], first["loss"]) == ("rung", 0, 5, 2.0)
    assert (last["state"], last["rung"], last["fidelity"], last["size"]) == ("complete", 1, 10, 7)
    assert last["config.adapt.optim.warmup"] == trial.values["adapt.optim.warmup"]
    assert (last["seconds"], last["device"], last["seed"], last["reason"]) == (8.0, "cpu", 0, None)
    assert harness.study.study.trials[trial.number].values == [1.0, 7.0]
    assert harness.kinds() == ["trial_started", "rung", "trial_finished", "front"]


def test_every_result_is_on_disk_before_the_study_hears_of_it(harness, monkeypatch):
    seen = []

    def spy(number, *_):
        seen.append([row["state"]
                     for row in RunFolder.open(harness.folder.path).rows() if row["trial"] == number])

    monkeypatch.setattr(harness.study, "tell", spy)
    harness.complete()
    assert seen == [["rung", "complete"]]


@pytest.mark.parametrize("index, metrics, reason", [
    (0, {"loss": math.nan}, "objective loss is nan at rung 0"),
    (1, {"loss": 1.0, "size": math.inf}, "objective size is inf at rung 1"),
    (1, {"loss": 1.0}, "objective size was not measured at rung 1"),
])
def test_measurements_that_cannot_stand_fail_the_trial(harness, index, metrics, reason):
    trial = harness.engine.ask()
    for earlier in range(index):
        harness.engine.report(trial.number, rung(earlier, loss=1.0))
    assert harness.engine.report(trial.number, rung(index, **metrics)) == "stop"
    assert (harness.folder.rows()[-1]["state"], harness.folder.rows()[-1]["reason"]) == ("failed", reason)
    assert harness.study.study.trials[trial.number].state.name == "FAIL"


def test_a_failed_trial_keeps_its_reason_and_traceback_and_the_search_goes_on(harness):
    trial = harness.engine.ask()
    harness.engine.report(trial.number, rung(0, loss=1.0))
    harness.engine.fail(trial.number, "ValueError: it broke", "Traceback ...")
    harness.engine.fail(trial.number, "said twice")
    rows = harness.folder.rows()
    assert [(row["state"], row["rung"], row["reason"]) for row in rows] == [
        ("rung", 0, None), ("failed", 1, "ValueError: it broke")]
    assert ({"event": "traceback", "trial": 0, "traceback": "Traceback ..."}.items()
            <= list(harness.folder.events())[-1].items())
    assert harness.engine.ask().number == 1


def test_a_restarted_trial_may_report_its_rungs_again(harness):
    trial = harness.engine.ask()
    for _ in range(2):
        assert harness.engine.report(trial.number, rung(0, loss=1.0)) == "continue"
    assert len(harness.folder.rows()) == 1


def test_a_dominated_trial_is_stopped_and_pruned_but_the_reference_arm_is_not(tmp_path):
    harness = EngineHarness(tmp_path, make_space(budget={"trials": 9}), eta=3)
    for loss in (1.0, 2.0, 3.0):
        trial = harness.engine.ask()
        decision = harness.engine.report(trial.number, rung(0, loss=loss))
    assert decision == "stop"
    assert harness.folder.rows()[-1]["reason"] == "beaten by trial 0 at rung 0: 1 of 3 go on"
    assert harness.study.study.trials[trial.number].state.name == "PRUNED"
    harness.study.enqueue({"adapt.optim.warmup": 50}, tag="unquantized")
    arm = harness.engine.ask()
    assert arm.tag == "unquantized"
    assert harness.engine.report(arm.number, rung(0, loss=99.0)) == "continue"


def test_the_trial_budget_counts_what_runs(harness):
    live = [harness.engine.ask() for _ in range(4)]
    assert all(live) and harness.engine.over and harness.engine.ask() is None
    harness.engine.fail(live[0].number, "no")
    assert harness.engine.ask() is None


def test_the_time_budget_stops_what_runs_at_its_next_rung(tmp_path):
    harness = EngineHarness(tmp_path, make_space(budget={"time": 60}), spent=20.0)
    trial = harness.engine.ask()
    assert harness.engine.elapsed == 20.0 and harness.events[-1]["eta"] == 40.0
    harness.clock.now += 41
    assert harness.engine.over and harness.engine.ask() is None
    assert harness.engine.report(trial.number, rung(0, loss=1.0)) == "stop"
    row = harness.folder.rows()[-1]
    assert (row["state"], row["reason"]) == ("stopped", "the time budget was used up")


def test_money_and_device_hours_are_those_of_everything_held(tmp_path):
    # 2 groups of 2 CPUs: 50 s
    harness = EngineHarness(tmp_path, make_space(budget={"price": 18.0, "money": 1.0}), groups=2)
    trial = harness.engine.ask()
    harness.clock.now += 49
    assert not harness.engine.over and harness.engine.summary()["cost"]["money"] == pytest.approx(0.98)
    harness.clock.now += 1
    assert harness.engine.over and harness.engine.summary()["ended_by"] == "money"
    assert harness.engine.report(trial.number, rung(0, loss=1.0), 50.0) == "stop"
    assert harness.folder.rows()[-1]["reason"] == "the money budget was used up"
    cost = harness.engine.summary()["cost"]
    assert (cost["stopped"], cost["overhead"], cost["held"]) == (100.0, 100.0, 200.0)


def test_patience_ends_the_search_when_the_front_stops_growing_also_across_a_restart(tmp_path):
    space = make_space(budget={"trials": 40, "patience": 3}, box={"loss": [0, 10], "size": [0, 10]})
    harness = EngineHarness(tmp_path, space)
    for loss in (5.0, 4.0, 6.0, 7.0):
        harness.complete(loss=loss)
    assert not harness.engine.over
    harness.folder.close()
    again = EngineHarness(tmp_path, space, resume=RunFolder.open(harness.folder.path).lock())
    again.complete(loss=8.0)
    assert again.engine.summary()["ended_by"] == "patience" and again.engine.ask() is None


def test_a_silent_trial_is_overdue(tmp_path):
    harness = EngineHarness(tmp_path, make_space(budget={"trials": 4, "trial_time": "30s"}))
    first, second = harness.engine.ask(), harness.engine.ask()
    harness.clock.now += 20
    harness.engine.report(second.number, rung(0, loss=1.0))
    harness.clock.now += 11
    assert harness.engine.overdue() == [first.number]
    harness.engine.fail(first.number, "no word for 30 s")
    assert harness.engine.overdue() == [] and harness.folder.rows()[-1]["state"] == "failed"


def test_what_was_asked_and_enqueued_is_written_down(harness):
    assert harness.engine.enqueue({"adapt.optim.warmup": 7}, tag="plain")
    assert not harness.engine.enqueue({"adapt.optim.warmup": 7})
    harness.engine.ask()
    found = [{name: entry.get(name) for name in ("event", "trial", "values")}
             for entry in harness.folder.events()]
    assert found == [{"event": "enqueue", "trial": None, "values": {"adapt.optim.warmup": 7}},
                    {"event": "ask", "trial": 0, "values": {"adapt.optim.warmup": 7}}]


def test_a_small_space_ends_the_search_when_it_is_used_up(tmp_path):
    harness = EngineHarness(tmp_path,
                            make_space(search={"adapt.optim.warmup": {"int": [0, 1]}}, budget={"trials": 9}))
    values = {harness.engine.ask().values["adapt.optim.warmup"] for _ in range(2)}
    assert values == {0, 1} and harness.engine.ask() is None and harness.engine.over


def test_the_summary_adds_up(tmp_path):
    harness = EngineHarness(tmp_path, groups=2)
    harness.complete(loss=1.0, size=5.0, seconds=30.0)
    harness.complete(loss=2.0, size=3.0, seconds=10.0)
    harness.complete(loss=3.0, size=9.0, seconds=20.0)
    harness.engine.add_shared_seconds(3540.0)
    found = harness.engine.summary()
    assert (found["complete"], found["failed"], found["running"], found["trials"]) == (3, 0, 0, 4)
    assert found["front_size"] == 2 and found["best"] == {"loss": 1.0, "size": 3.0}
    assert found["cpu_hours"] == pytest.approx(found["cost"]["hours"]) == pytest.approx(2 * 1.0)
    assert found["gpu_hours"] == 0
    assert found["eta"] == pytest.approx(20.0 * 1 / 2)
    assert found["hypervolume"] > 0


def test_the_box_is_fixed_once_kept_with_the_run_and_the_volume_compares_across_sessions(tmp_path):
    harness = EngineHarness(tmp_path)
    harness.complete(1.0, 2.0)
    assert harness.engine.box is None and harness.engine.summary()["hypervolume"] is None
    harness.complete(2.0, 1.0)
    box, volume = harness.engine.box, harness.engine.summary()["hypervolume"]
    assert box.corners() == harness.folder.meta["box"] == {name: pytest.approx([0.8, 2.2])
                                                           for name in ("loss", "size")}
    assert volume == pytest.approx((1.2 * 0.2 + 0.2 * 1.2 - 0.2 * 0.2) / 1.4**2)
    harness.complete(50.0, 50.0)
    assert harness.engine.box == box and harness.engine.summary()["hypervolume"] == pytest.approx(volume)
    harness.folder.close()
    again = EngineHarness(tmp_path, resume=RunFolder.open(harness.folder.path).lock())
    assert again.engine.box == box and again.engine.summary()["hypervolume"] == pytest.approx(volume)


def test_a_box_that_is_given_needs_no_results(tmp_path):
    harness = EngineHarness(tmp_path, make_space(box={"loss": [0, 4], "size": [0, 10]}))
    assert harness.engine.summary()["hypervolume"] == 0.0
    harness.complete(loss=1.0, size=5.0)
    assert harness.events[-1]["hypervolume"] == pytest.approx(0.75 * 0.5)


def test_an_amended_trial_stays_one_member(harness):
    number = harness.complete(loss=1.0, size=2.0)
    harness.engine.add_measurements(number, {"loss_again": 1.5})
    (member,) = harness.engine.front
    assert (member["loss"], member["loss_again"]) == (1.0, 1.5)
    assert harness.engine.summary()["complete"] == 1


def test_the_artifact_is_recorded_where_it_was_put(tmp_path):
    harness = EngineHarness(tmp_path, keep=lambda number, artifact: f"artifacts/trial-{number:04d}")
    trial = harness.engine.ask()
    harness.engine.report(trial.number, rung(0, loss=1.0))
    harness.engine.report(trial.number, rung(1, loss=1.0, size=1.0, artifact="/somewhere/else"))
    assert harness.folder.rows()[-1]["artifact"] == "artifacts/trial-0000"


def test_a_resumed_run_counts_what_ended_and_runs_the_rest_again(tmp_path):
    harness = EngineHarness(tmp_path)
    done = harness.complete()
    lost = harness.engine.ask()
    harness.engine.report(lost.number, rung(0, loss=1.0))
    harness.folder.close()
    again = EngineHarness(tmp_path, resume=RunFolder.open(harness.folder.path).lock())
    assert again.restored.lost == (lost.number,)
    assert again.engine.ended == {done: "complete"}
    trial = again.engine.ask()
    assert trial.values == lost.values and trial.number > lost.number
    assert again.engine.summary()["complete"] == 1
