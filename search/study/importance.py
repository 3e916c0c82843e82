"""How much each searched dimension matters for each objective, by Optuna's PED-ANOVA over the complete
trials of a run."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.pareto.objectives import measured, searched
from search.samplers.distributions import Axes
from spaces.dimensions import Dimension
from spaces.objectives import Objective

QUANTILE = 0.2
"""The share of trials whose settings are compared with those of all trials."""
LEAST = 10
"""Complete trials below which nothing is said: two trials in the best fifth would decide it."""
MOST = 2000
"""Complete trials that are looked at; of more, an even selection."""


def importances(rows: Iterable[Mapping[str, Any]], dimensions: Mapping[str, Dimension],
                objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    """Per objective, the share (they sum to 1) of each dimension in telling its best fifth of trials
    from all of them.

    `rows`: one complete row per trial. PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) in the form
    for conditional dimensions. Empty with fewer than `LEAST` usable rows; an objective that no dimension
    moves has zeros.
    """
    axes = Axes(dimensions)
    usable = [row for row in rows if all(math.isfinite(measured(row, item.metric)) for item in objectives)]
    usable = usable[::math.ceil(len(usable) / MOST)] if usable else []
    trials = [trial for row in usable if (trial := _trial(row, axes, objectives)) is not None]
    if len(trials) < LEAST:
        return {}
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=["minimize"] * len(objectives))
            study.add_trials(trials)
            return {item.metric: _one(study, trials, place, item, axes)
                    for place, item in enumerate(objectives)}
    finally:
        logger.setLevel(level)


def _one(study: Study, trials: Sequence[FrozenTrial], place: int, objective: Objective,
         axes: Axes) -> dict[str, float]:
    sign = -1.0 if objective.direction == "maximize" else 1.0
    seen = [path for path in axes.axes if any(path in trial.params for trial in trials)]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
    raw = evaluator.evaluate(study, params=seen, target=lambda trial: sign * trial.values[place])
    total = sum(raw.values())
    return {path: raw.get(path, 0.0) / total if total > 0 else 0.0 for path in axes.axes}


def _trial(row: Mapping[str, Any], axes: Axes, objectives: Sequence[Objective]) -> FrozenTrial | None:
    """The row as Optuna sees it; None for a row that does not fit the space."""
    values = {path: value for path, value in searched(row).items()
              if value is not None or (path in axes.axes and axes.axes[path].dimension.contains(None))}
    try:
        params = axes.encode(values, partial=True)
    except ValueError:
        return None
    return create_trial(state=TrialState.COMPLETE, values=[measured(row, item.metric) for item in objectives],
                        params=params, distributions=axes.distributions(params))
