"""The searcher of a run, new or as its records say, and the problem that its scheduler judges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from search.halving import Problem
from search.records import STUDY, RunFolder
from search.replay import Ordered
from search.searcher import Restored, StudySearcher


def open_search(space: Any, folder: RunFolder, problem: Problem) -> tuple[StudySearcher | Ordered, Restored, Problem]:
    """The searcher of the run in `folder`, what was restored, and `problem` with the horizon of a deterministic run.

    `space`: a `spaces.schema.Space`. A deterministic study is played again from the records, since the order of results
    is its meaning; its old journal goes. Raises `UserError` when the records do not fit.
    """
    journal = folder.path / STUDY
    events = list(folder.events())
    if space.deterministic and events:
        journal.unlink(missing_ok=True)
    study = StudySearcher(space.dimensions, space.objectives, space.constraints, storage=journal,
                          sampler=space.sampler.name, sampler_options=space.sampler.options, seed=space.seed,
                          box=space.box, top=space.rungs[-1], ideals=problem.ideals)
    if not space.deterministic:
        return study, study.restore(folder.rows()), problem
    ordered = Ordered(study, space.deterministic)
    return ordered, ordered.restore(events), replace(problem, horizon=ordered.horizon)
