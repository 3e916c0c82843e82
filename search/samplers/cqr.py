"""Conformal quantile regression as an Optuna sampler, for several objectives and constraints
(Salinas et al. 2023).

Per objective, gradient boosting predicts a few quantiles of the result at a point, and a held-out part of
the results corrects each symmetric pair of them so that it covers what it claims (Romano et al. 2019).
A candidate's value is drawn from its predicted quantiles (Thompson sampling); drawn vectors are compared
by a randomly weighted Chebyshev norm, so that proposals spread along the front. Nothing is assumed about
the noise, which differs between metrics and between points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sklearn.ensemble import GradientBoostingRegressor

LEVELS = (0.1, 0.5, 0.9)
FAR = 2.0
"""A result is clipped at that many times the distance from the best one to the third quartile."""
LEAST_HELD_OUT = 8
"""Held-out results below which quantiles are left uncorrected."""
Space = Mapping[str, BaseDistribution]
Range = IntDistribution | FloatDistribution


class ConformalSampler(BaseSampler):
    """Proposes by drawing from conformalized quantiles. A stopped trial teaches what it measured,
    marked as unfinished."""

    def __init__(self, seed: int, startup: int = 12, candidates: int = 200, trees: int = 25):
        self.startup, self.candidates, self.trees = startup, candidates, trees
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter that was ever active, once there are results enough; a candidate may lack some."""
        past = study.get_trials(deepcopy=False)
        if sum(one.state == TrialState.COMPLETE for one in past) < self.startup:
            return {}
        return {name: spread for one in past for name, spread in one.distributions.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        """The candidate whose drawn vector is best under this draw's weights; by their medians
        feasible ones first."""
        if not search_space:
            return {}
        past = [one for one in study.get_trials(deepcopy=False)
                if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        options = self._candidates(study, [one for one in past if one.state == TrialState.COMPLETE],
                                   search_space)
        points = np.array([encoded(params, search_space, True) for params in options])
        drawn = [self._draw(past, metric, sign, search_space, points) for metric, sign in targets(study)]
        weights = self._rng.dirichlet(np.ones(len(drawn)))
        weighted = weights[:, None] * np.array(drawn)
        score = weighted.max(axis=0) + 0.05 * weighted.sum(axis=0)
        beyond = sum((np.maximum(0.0, self._draw(past, key, 1.0, search_space, points, scaled=False))
                      for key in constraint_names(past)), np.zeros(len(options)))
        return options[int(np.lexsort((score, beyond))[0])]

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """Uniformly at random: the first trials, and what the chosen candidate lacks."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self, study: Study, complete: Sequence[FrozenTrial],
                    space: Space) -> list[dict[str, Any]]:
        """Half drawn uniformly in the shape of a random past trial, half members of the front with
        a value or two redrawn."""
        front = study.best_trials or list(complete)
        found, tried = [], [one.params for one in study.get_trials(deepcopy=False)]
        for index in range(self.candidates):
            from_front = index % 2
            parents = front if from_front else complete
            params = dict(parents[int(self._rng.integers(len(parents)))].params)
            names = list(params)
            count = min(len(names), int(self._rng.integers(1, 3))) if from_front else len(names)
            changed = self._rng.choice(names, count, replace=False) if from_front else names
            for name in changed:
                params[name] = uniform(space[str(name)], self._rng)
            if params not in tried:
                found.append(params)
        return found or [params]

    def _draw(self, past: Sequence[FrozenTrial], name: str, sign: float, space: Space, points: np.ndarray,
              scaled: bool = True) -> np.ndarray:
        """One value per candidate from its predicted quantiles; `scaled`: 0 is the best result,
        1 the third quartile; else (a violation) the median."""
        known = [(one, value) for one in past if (value := observed(one, name)) is not None]
        if len(known) < self.startup:
            return np.zeros(len(points))
        x = np.array([encoded(one.params, space, one.state == TrialState.COMPLETE) for one, _ in known])
        y = sign * np.array([value for _, value in known])
        if scaled:  # not by ranks: where a search has gathered, ranks make much of nothing
            spread = np.quantile(y, 0.75) - y.min()
            y = np.minimum((y - y.min()) / (spread or np.ptp(y) or 1.0), FAR)
        quantiles = self._quantiles(x, y, points)
        at = self._rng.uniform(size=len(points)) if scaled else np.full(len(points), 0.5)
        return np.array([np.interp(level, LEVELS, row) for level, row in zip(at, quantiles, strict=True)])

    def _quantiles(self, x: np.ndarray, y: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Conformalized quantiles at the points, float [n, levels], increasing along a row."""
        order = self._rng.permutation(len(y))
        held = order[:len(y) // 5] if len(y) // 5 >= LEAST_HELD_OUT else order[:0]
        rest = np.setdiff1d(order, held)
        both = np.vstack([points, x[held]])
        found = np.column_stack([self._fit(x[rest], y[rest], level).predict(both) for level in LEVELS])
        found = np.sort(found, axis=1)
        at, check = found[:len(points)], found[len(points):]
        if len(held):
            at = conformalized(at, check, y[held])
        return np.sort(at, axis=1)

    def _fit(self, x: np.ndarray, y: np.ndarray, level: float) -> GradientBoostingRegressor:
        model = GradientBoostingRegressor(loss="quantile", alpha=level, n_estimators=self.trees, max_depth=3,
                                          min_samples_leaf=3, learning_rate=0.15,
                                          random_state=int(self._rng.integers(2**31)))
        return model.fit(x, y)


def conformalized(predicted: np.ndarray, check: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Quantiles [n, levels] of `LEVELS`, each symmetric pair widened (or narrowed) by what the held-out
    predictions `check` [m, levels] missed `truth` [m] by: Romano et al. 2019, equation 8."""
    fixed = predicted.copy()
    for low in range(len(LEVELS) // 2):
        high = len(LEVELS) - 1 - low
        missed = np.maximum(check[:, low] - truth, truth - check[:, high])
        share = min(1.0, (LEVELS[high] - LEVELS[low]) * (1 + 1 / len(truth)))
        margin = np.quantile(missed, share, method="higher")
        fixed[:, low], fixed[:, high] = predicted[:, low] - margin, predicted[:, high] + margin
    return fixed


def targets(study: Study) -> list[tuple[str, float]]:
    """Each objective's name with the sign that makes it one to minimize."""
    names = study.metric_names or [str(index) for index in range(len(study.directions))]
    return [(name, -1.0 if direction == StudyDirection.MAXIMIZE else 1.0)
            for name, direction in zip(names, study.directions, strict=True)]


def constraint_names(past: Sequence[FrozenTrial]) -> list[str]:
    """The constraints that were ever told."""
    return list(dict.fromkeys(name for one in past for name in one.constraints))


def observed(trial: FrozenTrial, name: str) -> float | None:
    """A metric that the searcher noted with the trial, or the violation of a constraint; None when it
    was not measured."""
    value = trial.constraints.get(name, trial.user_attrs.get(name))
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def encoded(params: Mapping[str, Any], space: Space, complete: bool) -> list[float]:
    """Numbers in [0, 1] (log where the range is), a choice as one number per value, -1 for what is not
    active; last, whether the trial ran to its full budget."""
    found: list[float] = []
    for name, spread in space.items():
        if isinstance(spread, CategoricalDistribution):
            found += [float(name in params and spread.to_internal_repr(params[name]) == index)
                      for index in range(len(spread.choices))]
        elif name not in params:
            found.append(-1.0)
        else:
            assert isinstance(spread, Range)
            low, high, at = (np.log(end) if spread.log else float(end)
                             for end in (spread.low, spread.high, params[name]))
            found.append(float((at - low) / (high - low)) if high > low else 0.0)
    return [*found, float(complete)]


def uniform(spread: BaseDistribution, rng: np.random.Generator) -> Any:
    """A value drawn evenly from a distribution."""
    if isinstance(spread, CategoricalDistribution):
        return spread.choices[int(rng.integers(len(spread.choices)))]
    assert isinstance(spread, Range)
    if isinstance(spread, IntDistribution) and not spread.log:
        return int(spread.low
                   + (spread.step or 1) * rng.integers((spread.high - spread.low) // (spread.step or 1) + 1))
    low, high = (np.log(end) if spread.log else float(end) for end in (spread.low, spread.high))
    at = rng.uniform(low, high)
    value = float(np.clip(np.exp(at) if spread.log else at, spread.low, spread.high))
    return round(value) if isinstance(spread, IntDistribution) else value
