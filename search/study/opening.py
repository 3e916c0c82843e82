"""The searcher of a run, new, as its records say, or asked once more; and the problem that its
scheduler judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search.records.run_folder import STUDY, RunFolder
from search.schedulers.successive_halving import Problem
from search.study.replay import DeterministicSearcher, ReplayResult, replay
from search.study.searcher import Restored, StudySearcher
from spaces.schema import Space


def searcher(space: Space, problem: Problem,
             storage: Path | None = None) -> StudySearcher | DeterministicSearcher:
    """The searcher of a space: fresh, or with the study that the journal file
    `storage` holds."""
    study = StudySearcher(space.dimensions, space.objectives, space.constraints, storage=storage,
                          sampler=space.sampler.name, sampler_options=space.sampler.options, seed=space.seed,
                          box=space.box, top=space.rungs[-1], ideals=problem.ideals)
    return DeterministicSearcher(study, space.deterministic) if space.deterministic else study


def replayed(space: Space, problem: Problem, folder: RunFolder) -> ReplayResult:
    """What a fresh searcher proposes when it is told what that of the run in `folder` was told,
    in the same order."""
    space.box.told(folder.meta.get("base") or {})
    return replay(searcher(space, problem), folder.events())


def open_search(space: Space, folder: RunFolder,
                problem: Problem) -> tuple[StudySearcher | DeterministicSearcher, Restored, Problem]:
    """The searcher of the run in `folder`, what was restored, and `problem` with the horizon of
    a deterministic run.

    A deterministic study is played again from the records, since the order
    of results is its meaning; its old journal goes. Raises `UserError` when the records do not fit.
    """
    space.box.told(folder.meta.get("base") or {})
    journal = folder.path / STUDY
    events = list(folder.events())
    if space.deterministic and events:
        journal.unlink(missing_ok=True)
    study = searcher(space, problem, journal)
    if isinstance(study, DeterministicSearcher):
        return study, study.restore(events), replace(problem, horizon=study.horizon)
    return study, study.restore(folder.rows()), problem
