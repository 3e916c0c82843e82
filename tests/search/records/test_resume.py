"""Records, study and scheduler together: a driver that dies at any step loses no finished trial and
runs none twice."""

from collections import Counter

import pytest

from search.pareto.front import Front
from search.records.run_folder import STUDY, RunFolder
from search.schedulers.successive_halving import Problem, SuccessiveHalving
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Objective

OBJECTIVES = [Objective("loss", "minimize"), Objective("ok", "maximize")]
SPACE = {"a": Dimension(choice=["x", "y", {"name": "z"}]), "n": Dimension(**{"int": [1, 4]})}
RUNGS = 2


class KilledError(Exception):
    """The driver is gone: whatever it held in memory is dropped."""


def measure(values, rung):
    return {"loss": values["n"] / (rung + 1), "ok": float(len(str(values["a"])))}


def drive(folder, step):
    """A minimal driver: resume, then ask, report, record, tell until the space is used up.
    `step` may kill it."""
    rows = folder.rows()
    searcher = StudySearcher(SPACE, OBJECTIVES, storage=folder.path / STUDY, sampler="grid")
    searcher.restore(rows)
    scheduler = SuccessiveHalving(Problem(OBJECTIVES, rungs=RUNGS), eta=2)
    scheduler.restore(rows)
    while (proposal := searcher.ask()) is not None:
        step("asked")
        values = {f"config.{path}": value for path, value in proposal.values.items()}
        for rung in range(RUNGS):
            metrics = measure(proposal.values, rung)
            going = scheduler.report(proposal.number, rung, metrics) == "continue"
            state = "stopped" if not going else "complete" if rung == RUNGS - 1 else "rung"
            folder.append({"trial": proposal.number, "rung": rung, "state": state, **values, **metrics})
            step("recorded")
            if state != "rung":
                searcher.tell(proposal.number, state, metrics)
                step("told")
                break
    return searcher


@pytest.mark.parametrize("lives", range(1, 12, 2))
def test_killed_at_any_step_every_point_ends_once(tmp_path, lives):
    folder, deaths = RunFolder.create(tmp_path, "toy", ""), 0
    while True:
        steps = iter(range(lives))

        def step(_, steps=steps):
            if next(steps, None) is None:
                raise KilledError

        try:
            searcher = drive(folder, step)
            break
        except KilledError:
            deaths += 1
            folder.close()
            folder = RunFolder.open(folder.path).lock()
            assert deaths < 100, "no progress is made"
            lives += 1  # a driver that always dies right after asking would never end
    ended = [row for row in folder.rows() if row["state"] in ("complete", "stopped")]
    assert deaths > 0
    assert len(ended) == 12 and set(Counter(row["trial"] for row in ended).values()) == {1}
    assert len({(str(row["config.a"]), row["config.n"]) for row in ended}) == 12
    assert not searcher.running and searcher.waiting == 0
    known = {trial.number: trial.values for trial in searcher.study.trials if trial.values}
    assert known == {row["trial"]: [row["loss"], row["ok"]] for row in ended if row["state"] == "complete"}
    front = Front.from_rows(folder.rows(), OBJECTIVES)
    assert {member["trial"] for member in front} == {trial.number for trial in searcher.study.best_trials}
    folder.close()
