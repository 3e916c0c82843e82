"""Runs under a virtual clock: any timing gives the same deterministic search, and any run can be replayed."""

import random
from dataclasses import replace

import pytest
from optuna.storages.journal import JournalFileBackend

from search.engine.engine import Engine
from search.records.memory import MemoryRecords
from search.records.run_folder import RunFolder
from search.run.simulator import VirtualClock, simulate
from search.schedulers.registry import build
from search.schedulers.successive_halving import Problem
from search.study.opening import open_search, replayed, searcher
from search.study.replay import replay
from search.study.searcher import StudySearcher
from spaces.errors import UserError
from spaces.schema import Space

RUNGS = (10, 20, 40)
MODELED = {"sampler": {"name": "ehvi", "startup": 5, "candidates": 60},
           "scheduler": {"name": "promotion", "startup": 3}, "budget": {"trials": 24}}
SIMPLE = {"sampler": {"name": "tpe", "startup": 5}}
FINITE = {"sampler": {"name": "ehvi", "startup": 5, "candidates": 60}, "budget": {"trials": 99},
          "search": {"lora.rank": {"int": [0, 4]}, "adapt.optim.lr": {"choice": [0.01, 0.02, 0.1]},
                     "quantization.quantizer": {"choice": ["none", "binary"]}}}
"""A space of 30 points, all of which are tried, those that were stopped once more."""


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "constraints": ["ms <= 40"],
        "rungs": list(RUNGS),
        "search": {"lora.rank": {"int": [0, 8]}, "adapt.optim.lr": {"log": [1e-4, 1e-1]},
                   "quantization.quantizer": {"choice": ["none", "binary", "fixed:Q0i8f"]}},
        "budget": {"trials": 40}, "scheduler": {"name": "halving", "eta": 2},
        "sampler": {"name": "tpe", "startup": 5}, **changes})


def trials(jitter=None, faults=True):
    """What a trial measures, by its values alone; `jitter` (seeded) makes the seconds of each rung random."""
    timing = random.Random(jitter)

    def evaluate(trial):
        rank, lr = trial.values["lora.rank"], trial.values["adapt.optim.lr"]
        for rung, steps in enumerate(RUNGS):
            if faults and rank == 3 and rung == 1:
                raise RuntimeError("it broke")
            loss = 1 / (1 + rank) + abs(lr - 1e-2) * 10 + 5 / steps
            if faults and rank == 7 and rung == 2:
                loss = float("nan")
            seconds = 10.0 if jitter is None else timing.expovariate(0.1)
            final = rung == len(RUNGS) - 1
            yield seconds, {"rung": rung, "steps": steps, "final": final, "loss": loss, "ms": 5.0 * rank,
                            **({"size": float(rank)} if final else {})}

    return evaluate


class Run:
    """A simulated run on a folder."""

    def __init__(self, space, folder, workers, evaluate, recovered=None):
        self.folder, self.clock = folder, VirtualClock()
        self.problem = problem = Problem(space.objectives, space.constraints, len(space.rungs),
                                         dimensions=space.dimensions, box=space.box, steps=space.rungs)
        if isinstance(folder, MemoryRecords):
            self.study = searcher(space, problem)
            problem = replace(problem, horizon=self.study.horizon if space.deterministic else None)
        else:
            self.study, self.restored, problem = open_search(space, folder, problem)
        scheduler = build(space.scheduler.name, problem, space.scheduler.options)
        ended = {row["trial"] for row in folder.rows() if row["state"] != "rung"}
        scheduler.restore(row for row in folder.rows() if row["trial"] in ended)
        folder.event({"event": "run_started", "groups": workers})
        self.engine = Engine(space, self.study, scheduler, folder, clock=self.clock, groups=workers)
        self.engine.enqueue({"quantization.quantizer": "none", "lora.rank": 0}, tag="unquantized")
        simulate(self.engine, self.clock, evaluate, workers, recovered)

    def story(self):
        """Every trial's values and end, in the order of the trials."""
        rows = {row["trial"]: row for row in self.folder.rows() if row["state"] != "rung"}
        return [(trial, row["state"], row["rung"], row["reason"], str(row.get("loss")),
                 *(value for name, value in row.items() if name.startswith("config.")))
                for trial, row in sorted(rows.items())]


@pytest.mark.parametrize("methods", [SIMPLE, {"sampler": {"name": "nsga2", "population": 6}}, MODELED])
def test_any_timing_and_any_number_of_workers_give_the_same_search(methods):
    space = make_space(deterministic=6, **methods)
    plain = Run(space, MemoryRecords(), 6, trials()).story()
    assert len(plain) == space.budget.trials
    assert {state for _, state, *_ in plain} == {"complete", "stopped", "failed"}
    for workers, jitter in [(6, 1), (6, 2), (3, 3), (1, 4), (20, 5)]:
        assert Run(space, MemoryRecords(), workers, trials(jitter)).story() == plain, (workers, jitter)


def test_without_it_the_timing_decides():
    stories = [Run(make_space(), MemoryRecords(), 6, trials(jitter)).story() for jitter in (1, 2)]
    assert stories[0] != stories[1]


def test_no_more_than_the_window_runs_at_once_and_nobody_starves():
    most = []
    space = make_space(deterministic=3)
    run = Run(space, MemoryRecords(), 10, trials(1), lambda now, engine: most.append(len(engine.live)))
    assert max(most) <= 3 and len(run.story()) == 40


@pytest.mark.parametrize("methods", [SIMPLE, MODELED])
@pytest.mark.parametrize("deterministic", [0, 5])
def test_a_run_can_be_replayed_from_its_records(tmp_path, deterministic, methods):
    space = make_space(deterministic=deterministic, **methods)
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    run = Run(space, folder, 5, trials(1))
    found = replayed(space, run.problem, folder)
    assert (found.same, found.different, found.tags) == (len(run.story()) , None, {0: "unquantized"})
    other = StudySearcher(space.dimensions, space.objectives, space.constraints, sampler="tpe",
                          sampler_options={"startup": 5}, seed=1)
    assert replay(other, folder.events()).different.startswith("trial 0 was {")
    folder.close()


def twice(story):
    """Points that were tried twice, with the states of both trials."""
    found = {}
    for _, state, *_, a, b, c in story:
        found.setdefault((a, b, c), []).append(state)
    return [states for states in found.values() if len(states) > 1]


@pytest.mark.parametrize("deterministic", [0, 6])
def test_with_room_left_every_stopped_point_is_run_to_its_end_once_more(deterministic):
    space = make_space(deterministic=deterministic, **FINITE)
    run = Run(space, MemoryRecords(), 6, trials(1, faults=False))
    assert run.engine.ended_by == "space" and run.engine.counts["stopped"] >= 5
    assert len(run.story()) == 30 + run.engine.counts["stopped"] == run.engine.limit
    assert twice(run.story()) == [["stopped", "complete"]] * run.engine.counts["stopped"]
    first_again = next(at for at, row in enumerate(run.story())
                       if row[-3:] in {other[-3:] for other in run.story()[:at]})
    assert first_again < 30, "before every new point was tried"
    if deterministic:
        for workers, jitter in [(6, 2), (2, 3), (1, 4), (20, 5)]:
            assert Run(space, MemoryRecords(), workers, trials(jitter, faults=False)).story() == run.story()


def test_a_sampler_that_does_not_ask_for_it_tries_no_point_twice():
    space = make_space(**{**FINITE, **SIMPLE})
    assert len(Run(space, MemoryRecords(), 6, trials(1)).story()) == 30


class KilledError(Exception):
    """The driver is gone."""


@pytest.fixture(scope="module")
def unbroken():
    """The story of a run that nobody kills, of each space once."""
    known = {}

    def story(space):
        key = space.to_yaml()
        if key not in known:
            known[key] = Run(space, MemoryRecords(), 4, trials()).story()
        return known[key]

    return story


def killed_after(events, space, folder, evaluate):
    """Run on four workers until that many events were told, then open the folder as a next driver does."""
    left = iter(range(events))

    def kill(now, engine):
        if next(left, None) is None:
            raise KilledError

    with pytest.raises(KilledError):
        Run(space, folder, 4, evaluate, kill)
    folder.close()
    return RunFolder.open(folder.path).lock()


@pytest.mark.parametrize("killed, methods",
                         [(1, SIMPLE), (7, SIMPLE), (30, SIMPLE), (61, SIMPLE), (25, MODELED)])
@pytest.mark.parametrize("deterministic", [0, 4])
def test_a_killed_run_goes_on_and_a_deterministic_one_as_if_nothing_had_happened(
        tmp_path, unbroken, killed, deterministic, methods):
    space = make_space(deterministic=deterministic, **methods)
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    folder = killed_after(killed, space, folder, trials(7))
    before = {row["trial"] for row in folder.rows() if row["state"] != "rung"}
    run = Run(space, folder, 4, trials(8))
    ends = [row["trial"] for row in folder.rows() if row["state"] != "rung"]
    assert len(ends) == len(set(ends)) == space.budget.trials and before <= set(ends)
    if deterministic:
        assert run.story() == unbroken(space)
    found = replayed(space, run.problem, folder)
    assert found.different is None and found.same >= space.budget.trials
    folder.close()


@pytest.mark.parametrize("writes", [5, 9, 40, 43])
@pytest.mark.parametrize("sampler", [{"name": "tpe", "startup": 5}, "grid"])
def test_a_driver_killed_between_any_two_writes_of_the_study_leaves_a_run_that_can_be_replayed(
        tmp_path, monkeypatch, writes, sampler):
    search = {"lora.rank": {"int": [0, 4]}, "adapt.optim.lr": {"choice": [0.01, 0.02, 0.1]},
              "quantization.quantizer": {"choice": ["none", "binary"]}}
    space = make_space(sampler=sampler, search=search, budget={"trials": 16})
    monkeypatch.setattr("os.fsync", lambda handle: None)  # no power is lost here
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    append, left = JournalFileBackend.append_logs, iter(range(writes))

    def deadly(self, logs):
        if next(left, None) is None:
            raise KilledError
        append(self, logs)

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", deadly)
        with pytest.raises(KilledError):
            Run(space, folder, 4, trials(7))
    folder.close()
    folder = RunFolder.open(folder.path).lock()
    run = Run(space, folder, 4, trials(8))
    ends = [row["trial"] for row in folder.rows() if row["state"] != "rung"]
    assert len(ends) == len(set(ends)) == 16
    found = replayed(space, run.problem, folder)
    assert found.different is None and found.same >= 16
    folder.close()


@pytest.mark.parametrize("killed", [40, 70, 90])
@pytest.mark.parametrize("deterministic", [0, 4])
def test_a_second_try_that_is_lost_with_the_driver_is_one_again(tmp_path, killed, deterministic):
    space = make_space(deterministic=deterministic, **FINITE)
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    folder = killed_after(killed, space, folder, trials(7, faults=False))
    run = Run(space, folder, 4, trials(8, faults=False))
    assert run.engine.ended_by == "space"
    assert twice(run.story()) and all(states == ["stopped", "complete"] for states in twice(
        row for row in run.story() if "lost" not in str(row[3])))
    found = replayed(space, run.problem, folder)
    assert found.different is None
    folder.close()


def test_records_that_do_not_come_out_again_are_refused(tmp_path):
    space = make_space(deterministic=4)
    folder = RunFolder.create(tmp_path, "toy", space.to_yaml())
    Run(space, folder, 4, trials())
    folder.close()
    other = make_space(deterministic=4, seed=5)
    with pytest.raises(UserError, match="do not come out again .* trial 0 was"):
        open_search(other, RunFolder.open(folder.path), Problem(space.objectives))


def test_a_result_of_a_trial_that_is_said_to_be_lost_is_told_and_no_crash():
    space = make_space()
    problem = Problem(space.objectives)
    asked = searcher(space, problem).ask()
    row = {"event": "row", "trial": 0, "state": "complete", "rung": 2, "steps": 40, "loss": 1.0, "size": 1.0,
           "ms": 1.0, "config.lora.rank": asked.values["lora.rank"]}
    events = [{"event": "run_started"}, {"event": "ask", "trial": 0, "values": asked.values},
              {"event": "run_started"}, row]
    assert replay(searcher(space, problem), events).different == (
        "trial 0 has a result, and the records tell that it was not running")


def test_a_trial_that_hangs_is_ended_and_the_search_goes_on():
    def evaluate(trial):
        for seconds, measured in trials(faults=False)(trial):
            yield (float("inf") if trial.number == 3 and measured["rung"] == 0 else seconds), measured

    run = Run(make_space(budget={"trials": 12, "trial_time": "60s"}), MemoryRecords(), 4, evaluate)
    story = {trial: (state, reason) for trial, state, _, reason, *_ in run.story()}
    assert len(story) == 12 and story[3] == ("failed", "no word for 60 s")
