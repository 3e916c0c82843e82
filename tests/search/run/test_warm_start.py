"""Learning from an earlier run: what counts as what, what is left out, and that it is there
after a restart."""

import pytest

from search.engine.engine import Engine
from search.records.run_folder import RunFolder
from search.run import sweep
from search.run.warm_start import apply_prior_results, prior_results
from search.schedulers.registry import build
from search.schedulers.successive_halving import Problem
from search.study.opening import open_search
from search.study.replay import DeterministicSearcher, replay
from search.study.searcher import StudySearcher
from spaces.schema import Space


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "search": {"adapt.optim.warmup": {"int": [0, 99]}, "lora.rank": {"choice": [0, 4]}},
        "budget": {"trials": 8}, **changes})


def row(trial, rung, state, warmup=1, rank=0, **metrics):
    return {"trial": trial, "rung": rung, "state": state, "fidelity": (5, 10)[rung],
            "config.adapt.optim.warmup": warmup, "config.lora.rank": rank, "seconds": 1.0, **metrics}


EARLIER = [
    row(0, 0, "rung", 10, loss=3.0), row(0, 1, "complete", 10, loss=2.0, size=5.0),
    row(1, 0, "stopped", 20, loss=9.0), row(2, 0, "failed", 30),
    row(3, 1, "complete", 90, loss=1.0, size=9.0), row(4, 1, "complete", 40, rank=4, loss=2.5, size=6.0),
    row(5, 0, "rung", 50, loss=4.0), row(6, 1, "complete", 5, loss=1.5),
]


def learned(space, other=None, rows=EARLIER):
    found, left = prior_results(space, other or make_space(), rows)
    return [(lesson.values["adapt.optim.warmup"], lesson.state) for lesson in found], dict(left)


def test_a_result_counts_as_what_it_is():
    """Trial 5 was cut off at its first rung; trial 6 lacks an objective: neither is complete."""
    assert learned(make_space()) == (
        [(10, "complete"), (20, "stopped"), (90, "complete"), (40, "complete"), (50, "stopped"),
         (5, "stopped")],
        {"it failed": 1})


def test_another_budget_is_another_fidelity():
    assert {state for _, state in learned(make_space(rungs=[5, 20]))[0]} == {"stopped"}


@pytest.mark.parametrize("changes, kept, reason", [
    ({"search": {"adapt.optim.warmup": {"int": [0, 45]}, "lora.rank": {"choice": [0, 4]}}}, 4,
     "its point is outside this space"),
    ({"search": {"adapt.optim.warmup": {"int": [0, 99]}}}, 5, "it was run under other fixed settings"),
    ({"trial": {"teacher": {"hidden": 64}}}, 0, "it was run under other fixed settings"),
    ({"trial": {"seed": 5}}, 6, None),
])
def test_what_cannot_be_compared_is_left_out_and_counted(changes, kept, reason):
    found, left = learned(make_space(**changes))
    assert len(found) == kept and left.pop("it failed") == 1
    assert left == ({reason: 6 - kept} if reason else {})


def open_engine(space, folder):
    study, _, problem = open_search(space, folder, Problem(space.objectives, rungs=2))
    folder.event({"event": "run_started", "groups": 1})
    return Engine(space, study, build("halving", problem, {"eta": 2}), folder)


@pytest.mark.parametrize("deterministic", [0, 2])
def test_the_front_is_tried_first_and_everything_teaches_across_a_restart(tmp_path, deterministic):
    space = make_space(deterministic=deterministic)
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    engine = open_engine(space, folder)
    assert apply_prior_results(engine, prior_results(space, make_space(), EARLIER)[0]) == 2
    inner = engine.study.study if deterministic else engine.study
    trials = inner.study.trials
    assert ([trial.state.name for trial in trials]
            == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "WAITING", "WAITING"])
    assert trials[0].values == [2.0, 5.0] and trials[1].user_attrs["loss"] == 9.0
    first, second = engine.ask(), engine.ask()
    assert ([(trial.values["adapt.optim.warmup"], trial.tag) for trial in (first, second)]
            == [(90, "warm"), (10, "warm")])
    assert (first.number, len(engine.ended), engine.limit) == (6, 0, 8), "what was learned is not counted"
    assert engine.scheduler.report(77, 0, {"loss": 8.0}) == "stop" if not deterministic else True, (
        "rivals at equal steps")
    engine.report(first.number, {"rung": 0, "steps": 5, "final": False, "loss": 1.0})
    engine.report(first.number, {"rung": 1, "steps": 10, "final": True, "loss": 1.0, "size": 9.0})
    folder.close()
    again = open_engine(space, RunFolder.open(folder.path).lock())
    third = again.ask()
    assert third.values == second.values and again.counts["complete"] == 1
    fresh = StudySearcher(space.dimensions, space.objectives, seed=0)
    assert replay(DeterministicSearcher(fresh, 2) if deterministic else fresh,
                  folder.events()).different is None
    again.folder.close()


@pytest.mark.parametrize("deterministic", [0, 2])
@pytest.mark.parametrize("scheduler", ["halving", {"name": "promotion", "startup": 2}])
def test_a_resumed_run_keeps_the_rivals_that_it_learned(tmp_path, scheduler, deterministic):
    """Six trials are learned, three of them with a rung in common; a driver that takes over decides as the
    first one did."""
    space = make_space(scheduler=scheduler, deterministic=deterministic)
    with RunFolder.create(tmp_path, "earlier", make_space().to_yaml()) as earlier:
        for measured in EARLIER:
            earlier.append(measured)

    def decisions(stages):
        asked = stages.engine.scheduler
        if deterministic:  # as trials of the first window, which look at nothing but what was learned
            stages.study.positions.update(dict.fromkeys(range(1000, 1004), 0))
        reports = enumerate([(12, 1.0), (13, 8.0), (60, 3.5), (99, 20.0)], start=1000)
        return [asked.report(trial, 0, {"config.lora.rank": 0, "config.adapt.optim.warmup": warmup,
                                        "loss": loss})
                for trial, (warmup, loss) in reports]

    def opened(folder):
        return sweep.RunStages(space, folder, tmp_path / "cache", 1, lambda event: None)

    with RunFolder.create(tmp_path, "toy", space.to_yaml()) as folder:
        first = opened(folder)
        first.open("local", None, resumed=False)
        first.learn(earlier.path)
        before = decisions(first)
        assert before[3] == "stop", "without rivals all would go on"
    with RunFolder.open(folder.path).lock() as again:
        assert decisions(opened(again)) == before
