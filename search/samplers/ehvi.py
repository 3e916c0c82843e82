"""Expected hypervolume improvement over Gaussian processes that learn from every rung, as an Optuna sampler.

The processes learn from what trials measured at all their rungs, those that still run included, and predict
the top one (`search.samplers.acquisition`); trials that run are believed to come out as predicted. Of many
candidates that one is proposed which is expected to add most hypervolume, times the probability that it keeps
to the constraints (Emmerich et al. 2006; over fidelities as in Irshad et al. 2021). After `most` results
proposals are those of `tpe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.pareto.objectives import judged
from search.samplers import design
from search.samplers.acquisition import AcquisitionProblem, Curve, Surrogate, one_thread
from search.samplers.distributions import Axes

CURVE = "curve"
"""User attribute of a trial: [[steps, {metric: value}], ...], a measurement per rung, lowest first."""
WIDTHS = (0.2, 0.1, 0.05, 0.1, 0.05, 0.02, 0.05, 0.02, 0.01, 0.005)
"""Shares of a range by which the best candidates are moved, round by round."""
FEW = 4
"""After first trials that fill the space, trials per dimension from which the best candidates are moved for
all rounds: before, that leads to corners of which nothing is known, and of which a process hopes too much."""
KEPT, NEIGHBORS = 8, 16
"""Candidates that go into a round, and what each is moved to."""
Rungs = Sequence[tuple[float, Mapping[str, Any]]]


class EHVISampler(BaseSampler):
    """Proposes what is expected to add most hypervolume. `fallback` proposes the first trials' and
    the many later ones'."""

    retries = True
    """A point that was stopped early may be worth its whole length after all."""

    def __init__(self, seed: int, draw: int, fallback: BaseSampler, startup: int = 3, candidates: int = 400,
                 most: int = 2000, first: str = "middle"):
        if most < startup:
            raise ValueError(f"most is {most}; legal: at least startup, {startup}")
        self.startup, self.candidates, self.most, self._fallback = startup, candidates, most, fallback
        self.seed, self.first, self._rng = seed, first, np.random.default_rng(draw)
        self._attached: tuple[Axes, AcquisitionProblem] | None = None
        self._progress: Mapping[int, Rungs] = {}
        self._decided: tuple[int, bool, bool] | None = None

    def attach(self, axes: Axes, problem: AcquisitionProblem, progress: Mapping[int, Rungs]) -> None:
        """Take the space, what results are judged by, and what running trials have measured so far."""
        self._attached, self._progress = (axes, problem), progress

    @property
    def _axes(self) -> Axes:
        assert self._attached is not None, "attach comes first"
        return self._attached[0]

    @property
    def _problem(self) -> AcquisitionProblem:
        assert self._attached is not None, "attach comes first"
        return self._attached[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions while the processes propose; then what `fallback` takes together."""
        if not self._due(study, trial) and not self._begins:
            return self._fallback.infer_relative_search_space(study, trial)
        return {path: axis.distribution for path, axis in self._axes.axes.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The candidate with the largest expected gain, as Optuna parameters of its active dimensions."""
        if not self._due(study, trial) and not self._begins:
            return self._fallback.sample_relative(study, trial, search_space)
        past = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        fixed = trial.system_attrs.get("fixed_params", {})
        with one_thread():
            best = (self._propose(past, fixed) if self._due(study, trial)
                    else self._begin(past, trial.number, fixed))
        return {} if best is None else self._axes.encode(self._problem.points.point(best))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """What `fallback` draws."""
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def _due(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether enough trials have measured something, and not too many have ended. Without corners
        one must be complete."""
        if self._decided is None or self._decided[0] != trial.number:
            states = [one.state for one in study.get_trials(deepcopy=False)]
            ended = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
            known = self._problem.boxed and self._problem.top is not None
            enough = self.startup <= ended + len(self._progress) and (known or TrialState.COMPLETE in states)
            self._decided = trial.number, enough and ended <= self.most, not enough
        return self._decided[1]

    @property
    def _begins(self) -> bool:
        """Whether the proposal is one of the first, which fill the space."""
        return self.first != "random" and self._decided is not None and self._decided[2]

    def _begin(self, past: Sequence[FrozenTrial], number: int, fixed: Mapping[str, Any]) -> np.ndarray:
        """The row of one of the first points, with what is fixed: the middle of the space, if nothing was
        tried there, or one of those that are spread out."""
        points, part = self._problem.points, self._axes.decode(fixed)
        tried = {one.tobytes() for one in self._rows(past)}
        row = design.middle(points, self.seed)
        if self.first == "middle" and not fixed and row.tobytes() not in tried:
            return row
        for place in range(number, number + design.BLOCK):  # in a small space points come again
            row = design.spread_point(points, self.seed, place)
            row = points.fixed(row[None], part, self._rng)[0] if part else row
            if row.tobytes() not in tried:
                break
        return row

    def _propose(self, past: Sequence[FrozenTrial], fixed: Mapping[str, Any]) -> np.ndarray | None:
        """The row of the best candidate that was not tried; None when all were."""
        points = self._problem.points
        ended = sorted((one for one in past if one.state in (TrialState.COMPLETE, TrialState.PRUNED)),
                       key=lambda one: (one.datetime_complete, one.number))
        running = [one for one in past if one.state == TrialState.RUNNING and one.params]
        ahead = [one for one in running if one.number in self._progress]
        rows = self._rows(past)
        place = {one.number: row for row, one in enumerate(past)}
        results, flying = ([place[one.number] for one in those] for those in ((*ended, *ahead), running))
        surrogate = Surrogate(self._problem, rows[results], self._curves(ended, ahead),
                              [past[row].state == TrialState.COMPLETE for row in results],
                              running=len(ahead))
        gain = surrogate.acquisition(points.features(rows[flying]) if running else None)
        part = self._axes.decode(fixed)
        tried = {row.tobytes() for one, row in zip(past, rows, strict=True)
                 if not (self.retries and one.state == TrialState.PRUNED)}
        if points.every is not None:
            options = np.unique(points.fixed(points.every, part, self._rng), axis=0) if part else points.every
            scores = gain(points.features(options))
        else:
            half = self.candidates // 2
            best = surrogate.best if len(surrogate.best) else np.arange(len(surrogate.rows))
            start = surrogate.rows[best[self._rng.integers(len(best), size=half)]]
            width = np.exp(self._rng.uniform(np.log(0.01), np.log(0.3), half))
            options = np.vstack([points.drawn(self.candidates - half, self._rng),
                                 points.neighbors(start, width, self._rng)])
            options = points.fixed(options, part, self._rng)
            scores = gain(points.features(options))
            rounds = (len(WIDTHS) if self.first == "random" else
                      len(results) * len(WIDTHS) // (FEW * len(points.dimensions)))
            for share in WIDTHS[:rounds]:
                best = options[np.argsort(-scores, kind="stable")[:KEPT]]
                more = points.fixed(points.neighbors(np.repeat(best, NEIGHBORS, axis=0), share, self._rng),
                                    part, self._rng)
                options, scores = np.vstack([options, more]), np.r_[scores, gain(points.features(more))]
        return next((options[at] for at in np.argsort(-scores, kind="stable")
                     if options[at].tobytes() not in tried), None)

    def _rows(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """The trials' points, float [n, d]. Those of trials that have ended are kept by the problem."""
        known = self._problem.known
        fresh = [one for one in trials if one.number not in known]
        found = dict(zip((one.number for one in fresh), self._problem.points.rows(
            [self._axes.decode(one.params) for one in fresh]), strict=True))
        known |= {one.number: found[one.number] for one in fresh if one.state.is_finished()}
        rows = [known[one.number] if one.number in known else found[one.number] for one in trials]
        return np.array(rows).reshape(len(rows), len(self._problem.points.dimensions))

    def _curves(self, ended: Sequence[FrozenTrial], running: Sequence[FrozenTrial]) -> list[Curve]:
        """What trials measured by how far below the top rung, in logarithms of steps.

        A trial that tells no steps was measured at the top if it is complete, else at half of its steps.
        """
        curves = [one.user_attrs.get(CURVE) for one in ended]
        tops = [rungs[-1][0] for one, rungs in zip(ended, curves, strict=True)
                if rungs and one.state == TrialState.COMPLETE]
        top = self._problem.top or max(tops, default=1.0)
        metrics = judged(self._problem.objectives, self._problem.constraints)
        plain = [(top if one.state == TrialState.COMPLETE else top / 2,
                  {name: one.user_attrs.get(name) for name in metrics})
                 for one in ended]
        found = [rungs or [rung] for rungs, rung in zip(curves, plain, strict=True)]
        found += [self._progress[one.number] for one in running]
        return [[(float(np.log(top / steps)), measured) for steps, measured in rungs] for rungs in found]
