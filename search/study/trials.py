"""A result as an Optuna study holds it: objective values, violations of the constraints, the rest as
user attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.pareto.objectives import fault, judged, measured, violation
from spaces.objectives import Constraint, Objective

State = Literal["complete", "stopped", "failed"]
OUTCOMES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
WORST = 1e9
"""Largest violation that the study is told, so that sums stay finite."""
Rungs = Iterable[tuple[float, Mapping[str, Any]]]
"""What a trial measured on its way, itself included: steps and metrics, lowest rung first."""


class NotRunningError(ValueError):
    """A result was told of a trial that is not running."""


@dataclass(frozen=True)
class TrialEncoder:
    """What of a result concerns these objectives and constraints."""

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]

    def settled(self, state: State, metrics: Mapping[str, Any] | None,
                reason: str | None) -> tuple[State, str | None]:
        """State and reason: `complete` with a missing or non-finite objective, or no number for
        a constraint, is `failed`."""
        found = fault(metrics, self.objectives, self.constraints) if state == "complete" else None
        return ("failed", found) if found else (state, reason)

    def values(self, metrics: Mapping[str, Any]) -> list[float]:
        """The objectives, in order."""
        return [measured(metrics, objective.metric) for objective in self.objectives]

    def violations(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Violation by constraint, for those whose metric was measured."""
        amounts = {str(constraint): violation(metrics, constraint) for constraint in self.constraints}
        return {key: min(amount, WORST) for key, amount in amounts.items() if not math.isnan(amount)}

    def attributes(self, metrics: Mapping[str, Any] | None, reason: str | None, state: State,
                   rungs: Rungs) -> dict[str, Any]:
        """User attributes: each objective and constrained metric by its name, other numbers together
        under `measured` (every attribute costs a synced write), those of a trial that has more than one rung
        by rung under `curve`, and the reason. A number that JSON cannot hold is written out."""
        numbers = {name: measured(metrics or {}, name) for name in metrics or {}}
        kept = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()
                if not math.isnan(value)}
        own = set(judged(self.objectives, self.constraints))
        found: dict[str, Any] = {name: value for name, value in kept.items() if name in own}
        if others := {name: value for name, value in kept.items() if name not in own}:
            found["measured"] = others
        by_rung = self.by_rung(rungs)
        if (state == "stopped" and by_rung) or len(by_rung) > 1:
            found["curve"] = [list(rung) for rung in by_rung]
        return found | ({"reason": reason} if reason else {})

    def by_rung(self, rungs: Rungs) -> list[tuple[float, dict[str, Any]]]:
        """Steps, and the finite objectives and constrained metrics, rung by rung."""
        names = judged(self.objectives, self.constraints)
        return [(steps,
                 {name: row[name] for name in dict.fromkeys(names) if math.isfinite(measured(row, name))})
                for steps, row in rungs]

    def frozen(self, state: State, metrics: Mapping[str, Any], reason: str | None, tag: str | None,
               rungs: Rungs,
               params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """A finished trial to add to a study."""
        state, reason = self.settled(state, metrics, reason)
        trial = create_trial(
            state=OUTCOMES[state], values=self.values(metrics) if state == "complete" else None,
            params=dict(params), distributions=dict(distributions),
            user_attrs=self.attributes(metrics, reason, state, rungs) | ({"tag": tag} if tag else {}))
        for key, amount in self.violations(metrics).items() if state != "failed" else ():
            trial.set_constraint(key, amount)
        return trial
