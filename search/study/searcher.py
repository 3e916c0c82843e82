"""What to try next: an Optuna study behind ask and tell, with the records of the run as the truth.

The study never holds a result as complete that did not reach full fidelity with finite objectives: a stopped
trial is PRUNED, a failed one FAIL with its reason.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search.pareto.objectives import curve, measurements, searched
from search.samplers import registry
from search.samplers.compat import running_trial
from search.samplers.distributions import Axes
from search.study.storage import open_study
from search.study.trials import OUTCOMES, NotRunningError, Rungs, State, TrialEncoder
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective
from spaces.points import count, walk

if TYPE_CHECKING:
    from search.samplers.acquisition import AcquisitionProblem

REDRAWS = 3
"""Times that a proposal which was tried before is drawn anew, before an untried point is picked at random."""
LISTABLE = 100_000
"""Points up to which a finite space is listed in memory."""
LOST = "lost: the run ended while the trial was running"
NOT_RUN = "not run"
TAUGHT = "taught"
"""Tag of a result that was not found in this run."""


@runtime_checkable
class SpaceAwareSampler(Protocol):
    """A sampler that wants the space and what results are judged by, before every proposal."""

    def attach(self, axes: Axes, problem: AcquisitionProblem,
               progress: Mapping[int, Sequence[tuple[float, Mapping[str, Any]]]]) -> None:
        """`progress`: what running trials measured
        so far, by number."""
        ...


@dataclass(frozen=True)
class Proposal:
    """A point to try. `values` holds the active dimensions by dotted path; `tag` is what `enqueue` was
    given; `again`: a trial of this point was stopped early, so this one is to be let run to its end."""

    number: int
    values: dict[str, Any]
    tag: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Restored:
    """What `restore` did: trials told from the records, lost ones that will be proposed again,
    and ones added."""

    recovered: tuple[int, ...]
    lost: tuple[int, ...]
    added: tuple[int, ...]


class StudySearcher:
    """Ask/tell over one study.

    The same seed and the same history of asks and tells give the same proposals, across restarts too.
    In a finite space no point is proposed twice (except by `enqueue(again=True)`, and one that was stopped
    early where the sampler wants it again), and `ask` returns None when all are used up.
    """

    def __init__(self, dimensions: Mapping[str, Dimension], objectives: Sequence[Objective],
                 constraints: Sequence[Constraint] = (), *, storage: Path | None = None, sampler: str = "tpe",
                 sampler_options: Mapping[str, Any] | None = None, seed: int = 0, name: str = "qdlm",
                 box: Mapping[str, Sequence[float]] | None = None, top: int | None = None,
                 ideals: Mapping[str, float] | None = None):
        """`storage` is an Optuna journal file, opened when it exists; None keeps the study in memory.
        `box`: objective -> [best, worst], the corners of the hypervolume (looked at when a point is asked
        for), `top`, the steps of the last rung, and `ideals`, objective -> the best value that there can be,
        are for a sampler that predicts.

        Raises `UserError` for an unknown sampler or option, a grid over an infinite space, or another
        study's journal.
        """
        self.dimensions, self.objectives, self.constraints = (dict(dimensions), tuple(objectives),
                                                              tuple(constraints))
        self.sampler, self.seed = sampler, seed
        self._encoder = TrialEncoder(self.objectives, self.constraints)
        self.options = dict(sampler_options or {})
        self.retries = getattr(registry.build(sampler, self.options), "retries", False)
        self.size = count(self.dimensions)
        if sampler == "grid" and self.size is None:
            endless = [path for path, dimension in self.dimensions.items() if not dimension.finite]
            raise UserError(f"sampler 'grid' needs a finite space; continuous: {', '.join(endless)}")
        self.study: Study = open_study(name, self.objectives, storage)
        self._axes = Axes(self.dimensions)
        self._problem: AcquisitionProblem | None = None
        self._corners, self._top, self._ideals = box or {}, top, dict(ideals or {})
        self._progress: dict[int, list[tuple[float, dict[str, Any]]]] = {}
        self._running: dict[int, Trial] = {}
        self.blocked = False
        """Whether `ask` returned None because it has to wait: a running trial may yet be stopped,
        and be wanted again."""
        self._seen: dict[str, int] = {}
        # counted, because asking the study costs more with every trial that it holds
        self._drawn = self._waiting = 0
        for trial in self._trials():
            self._note(_params(trial), trial.number)
            self._waiting += trial.state == TrialState.WAITING
            self._drawn += trial.state != TrialState.WAITING
        self._grid: Iterator[dict[str, Any]] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether every point of a finite space was proposed and nothing that is still to come
        can change that."""
        return (self.size is not None and len(self._seen) >= self.size and not self.waiting
                and not (self.retries and (self.running or self._stopped())))

    def flush(self) -> None:
        """Every result has been told: nothing to do, see `replay.DeterministicSearcher`."""

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers that were asked for and not told."""
        return tuple(trial.number for trial in self._trials() if trial.state == TrialState.RUNNING)

    @property
    def waiting(self) -> int:
        """Points that are enqueued and not yet asked for."""
        return self._waiting

    def enqueue(self, values: Mapping[str, Any], tag: str | None = None, again: bool = False) -> bool:
        """Have `ask` propose this point before any other. Dimensions left out are drawn by the sampler.

        A point that the study already has is skipped (so that a resumed run may enqueue its warm
        points again) unless `again`. Returns whether it was added. Raises `UserError` for a value that
        the space does not have.
        """
        try:
            params = self._axes.encode(values, partial=True)
        except ValueError as error:
            raise UserError(f"point outside the space: {error}") from None
        if not again and (_mark(params) in self._seen
                          or any(self._has(trial, params, tag) for trial in self._trials())):
            return False
        self._enqueue(params, tag)
        return True

    def learn(self, values: Mapping[str, Any], state: State, metrics: Mapping[str, Any],
              rungs: Rungs = ()) -> None:
        """Add a result from elsewhere, complete or stopped; it takes a trial number and is
        not proposed again."""
        params = self._axes.encode(values)
        self._insert(len(self._trials()), params, state, metrics, None, TAUGHT, rungs)

    def ask(self) -> Proposal | None:
        """The next point to try; None when every point of a finite space was proposed, or `blocked`."""
        self.blocked = False
        if self.waiting:
            return self._ask()
        if self.size is not None and len(self._seen) >= self.size and not (self.retries and self._stopped()):
            self.blocked = not self.exhausted
            return None
        if self.sampler == "grid":
            return self._propose_from(self._grid_points())
        for _ in range(1 + REDRAWS):
            proposal = self._ask()
            first = self._first_with(proposal)
            if first == proposal.number or (self.retries and proposal.again):
                return proposal
            self.tell(proposal.number, "failed", reason=f"{NOT_RUN}: same point as trial {first}")
        if self.size is not None and self.size <= LISTABLE:
            return self._propose_from(self._shuffled()) or self._propose_stopped()
        return self._ask()

    def progress(self, number: int, rungs: Rungs) -> None:
        """Note what a running trial has measured so far. Kept in memory: a run that goes on starts
        its trials anew."""
        self._progress[number] = self._encoder.by_rung(rungs)

    def tell(self, number: int, state: State, metrics: Mapping[str, Any] | None = None,
             reason: str | None = None, rungs: Rungs = ()) -> State:
        """Record how a trial ended and return the state that the study now holds.

        `complete` with a missing or non-finite objective (or no number for a constraint) becomes `failed`.
        Metrics are kept as user attributes, and so are objectives and constrained metrics by rung. Raises
        `NotRunningError` for a trial that is not running.
        """
        state, reason = self._encoder.settled(state, metrics, reason)
        mine = self._running.pop(number, None)
        trial = mine or self._reopened(number)
        self._progress.pop(number, None)
        for key, value in self._encoder.attributes(metrics, reason, state, rungs).items():
            trial.set_user_attr(key, value)
        if state != "failed":
            done = {} if mine else self._trials()[number].constraints  # by a tell that a crash cut short
            for key, amount in self._encoder.violations(metrics or {}).items():
                if key not in done:
                    trial.set_constraint(key, amount)
        self.study.tell(number, self._encoder.values(metrics or {}) if state == "complete" else None,
                        state=OUTCOMES[state])
        return state

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> Restored:
        """Bring the study in line with the records after a restart. Calling it again changes nothing.

        A trial that is running in the study but finished in the records is told; one that is finished
        nowhere was lost with the driver: it becomes FAIL and its point is enqueued again. Trials that
        only the records know are added under their own numbers. Raises `UserError` when a record does
        not fit the space.
        """
        rows = list(rows)
        final = {row["trial"]: row for row in rows if row.get("state") in OUTCOMES}
        latest = {row["trial"]: row for row in rows}
        every: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            every.setdefault(row["trial"], []).append(row)
        running, known = self.running, len(self._trials())
        recovered = [number for number in running if number in final]
        for number in recovered:
            self.tell(number, final[number]["state"], measurements(final[number]),
                      final[number].get("reason"), curve(every[number]))
        added = range(known, 1 + max(latest, default=-1))
        for number in added:
            self._add(number, final.get(number, {"state": "failed", "reason": LOST}), latest.get(number, {}),
                      curve(every.get(number, ())))
        lost = [number for number in (*running, *added)
                if number not in final and (number < known or number in latest)]
        for number in lost:
            self._propose_again(number)
            if number < known:
                self.tell(number, "failed", reason=LOST)
        return Restored(tuple(recovered), tuple(lost), tuple(added))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _note(self, params: Mapping[str, Any], number: int) -> None:
        """Remember a whole point under the first number that had it."""
        if self._axes.whole(params):
            self._seen.setdefault(_mark(params), number)

    def _ask(self) -> Proposal:
        draw = int(np.random.SeedSequence([self.seed, self._drawn]).generate_state(1)[0])
        # A grid draws only what an enqueued point leaves open.
        self.study.sampler = (registry.build(self.sampler, self.options, self.seed, draw)
                              or registry.random(self.seed, draw))
        if isinstance(self.study.sampler, SpaceAwareSampler):
            self.study.sampler.attach(self._axes, self._acquisition_problem(), self._progress)
        trial = self.study.ask()
        self._drawn += 1
        self._waiting = max(0, self._waiting - 1)  # those that wait come first
        values = self._axes.suggest(trial)
        self._running[trial.number] = trial
        self._note(trial.params, trial.number)
        again = (self._seen.get(mark := _mark(trial.params)) != trial.number
                 and mark in self._stopped(trial.number))
        return Proposal(trial.number, values, trial.user_attrs.get("tag"), again)

    def _acquisition_problem(self) -> AcquisitionProblem:
        """The space and what results are judged by, for a sampler that wants to know."""
        if self._problem is None:
            # scipy's solvers and their like take a moment to import
            from search.samplers.acquisition import AcquisitionProblem
            from search.samplers.encoding import PointEncoder

            self._problem = AcquisitionProblem(PointEncoder(self.dimensions), self.objectives,
                                               self.constraints, self._corners, self._top, self._ideals)
        return self._problem

    def _first_with(self, proposal: Proposal) -> int:
        return self._seen[_mark(self._axes.encode(proposal.values))]

    def _stopped(self, besides: int | None = None) -> dict[str, dict[str, Any]]:
        """Points that were stopped early and have no other result and none coming, by mark; `besides`
        is not looked at."""
        found: dict[str, dict[str, Any]] = {}
        other: set[str] = set()
        for trial in self._trials():
            if (trial.number == besides
                    or (trial.state == TrialState.FAIL and
                        str(trial.user_attrs.get("reason", "")).startswith((NOT_RUN, LOST)))):
                continue
            params = _params(trial)
            if trial.state == TrialState.PRUNED:
                found[_mark(params)] = params
            else:
                other.add(_mark(params))
        return {mark: params for mark, params in found.items() if mark not in other}

    def _propose_stopped(self) -> Proposal | None:
        """The point that was stopped first, once more."""
        params = next(iter(self._stopped().values()), None) if self.retries else None
        if params is None:
            return None
        self._enqueue(params, None)
        return self._ask()

    def _has(self, trial: FrozenTrial, params: dict[str, Any], tag: str | None) -> bool:
        """Whether the trial came of enqueuing `params`, whole or in part; a tag tells it even in
        a rebuilt study."""
        if trial.system_attrs.get("fixed_params") == params:
            return True
        return (tag is not None and trial.user_attrs.get("tag") == tag
                and params.items() <= _params(trial).items())

    def _enqueue(self, params: dict[str, Any], tag: str | None) -> None:
        self.study.enqueue_trial(params, user_attrs={"tag": tag} if tag else None)
        self._waiting += 1
        self._note(params, self._drawn + self._waiting - 1)

    def _propose_from(self, points: Iterable[Mapping[str, Any]]) -> Proposal | None:
        for point in points:
            params = self._axes.encode(point)
            if _mark(params) not in self._seen:
                self._enqueue(params, None)
                return self._ask()
        return None

    def _grid_points(self) -> Iterator[dict[str, Any]]:
        if self._grid is None:
            self._grid = (walk(self.dimensions) if self.options.get("order") != "random"
                          else self._shuffled(whole=True))
        return self._grid

    def _shuffled(self, whole: bool = False) -> Iterator[dict[str, Any]]:
        """Points in an order that depends on the seed and, unless `whole`, on how many were proposed."""
        points = list(itertools.islice(walk(self.dimensions), LISTABLE))
        generator = np.random.default_rng([self.seed, 0 if whole else len(self._seen)])
        return (points[index] for index in generator.permutation(len(points)))

    def _reopened(self, number: int) -> Trial:
        """A running trial of an earlier process."""
        trials = self._trials()
        if number >= len(trials) or trials[number].state != TrialState.RUNNING:
            raise NotRunningError(f"trial {number} is not running")
        return running_trial(self.study, trials[number])

    def _recorded(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        values = {path: value for path, value in searched(row).items()
                  if value is not None or (path in self.dimensions and self.dimensions[path].contains(None))}
        try:
            return self._axes.encode(values, partial=True)
        except ValueError as error:
            raise UserError(f"the record of trial {number} does not fit the space: {error}") from None

    def _add(self, number: int, row: Mapping[str, Any], latest: Mapping[str, Any], rungs: Rungs) -> None:
        self._insert(number, self._recorded(number, latest), row["state"], measurements(row),
                     row.get("reason"), latest.get("tag"), rungs)

    def _insert(self, number: int, params: dict[str, Any], state: State, metrics: Mapping[str, Any],
                reason: str | None, tag: str | None, rungs: Rungs) -> None:
        trial = self._encoder.frozen(state, metrics, reason, tag, rungs, params,
                                     self._axes.distributions(params))
        self.study.add_trial(trial)
        self._drawn += 1
        self._note(params, number)

    def _propose_again(self, number: int) -> None:
        """Enqueue the point of a lost trial, unless a restore that was cut short has done so."""
        trials = self._trials()
        params = _params(trials[number])
        if not any(trial.state == TrialState.WAITING and _params(trial) == params for trial in trials):
            self._enqueue(params, trials[number].user_attrs.get("tag"))


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """Parameters of a trial, with those that were enqueued and not yet taken up."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _mark(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True)
