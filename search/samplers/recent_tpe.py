"""TPE with a bounded memory: a proposal costs the same at the ten thousandth trial as at the thousandth."""

from __future__ import annotations

from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.samplers.compat import StudyView


class RecentTPE(TPESampler):
    """`TPESampler` that learns from the last `memory` complete trials, the last `memory` stopped ones
    and all that run."""

    def __init__(self, memory: int, **options: Any):
        super().__init__(**options)
        self.memory = memory
        self._seen: tuple[int, StudyView] | None = None

    def _recent(self, study: Study, trial: FrozenTrial) -> Study:
        """What a trial is proposed from; while it is, its history stands still."""
        if self._seen is None or self._seen[0] != trial.number:
            self._seen = trial.number, StudyView(study, self._latest)
        return cast(Study, self._seen[1])

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As `TPESampler`, on the recent part of the study."""
        return super().sample_relative(self._recent(study, trial), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """As `TPESampler`, on the recent part of the study."""
        return super().sample_independent(self._recent(study, trial), trial, param_name, param_distribution)

    def _latest(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The part of a history that is remembered, in its order."""
        if len(trials) <= self.memory:
            return trials
        left = {TrialState.COMPLETE: self.memory, TrialState.PRUNED: self.memory}
        kept = []
        for trial in reversed(trials):
            if trial.state in left:
                left[trial.state] -= 1
                if left[trial.state] < 0:
                    continue
            kept.append(trial)
        return kept[::-1]
