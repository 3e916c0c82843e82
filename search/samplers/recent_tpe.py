"""TPE with a bounded memory: a proposal costs the same at the ten thousandth trial as at the thousandth."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class RecentTPE(TPESampler):
    """`TPESampler` that learns from the last `memory` complete trials, the last `memory` stopped ones and all that run."""

    def __init__(self, memory: int, **options: Any):
        super().__init__(**options)
        self.memory = memory
        self._seen: tuple[int, _Recent] | None = None

    def _recent(self, study: Study, trial: FrozenTrial) -> _Recent:
        """What a trial is proposed from; while it is, its history stands still."""
        if self._seen is None or self._seen[0] != trial.number:
            self._seen = trial.number, _Recent(study, self.memory)
        return self._seen[1]

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As `TPESampler`, on the recent part of the study."""
        return super().sample_relative(self._recent(study, trial), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """As `TPESampler`, on the recent part of the study."""
        return super().sample_independent(self._recent(study, trial), trial, param_name, param_distribution)


class _Recent:
    """A study of which only the recent trials are seen; everything else is the study's own."""

    def __init__(self, study: Study, memory: int):
        self._study, self._memory = study, memory
        self._known: dict[tuple[TrialState, ...] | None, list[FrozenTrial]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None,
                    use_cache: bool = False) -> list[FrozenTrial]:
        """What the sampler asks for its history by, once for each of a trial's parameters: computed once."""
        assert not deepcopy, "samplers read the history, and do not change it"
        asked = None if states is None else tuple(state for state in TrialState if state in states)
        if asked not in self._known:
            self._known[asked] = self._latest(self._study._get_trials(deepcopy=False, states=states, use_cache=use_cache))
        return self._known[asked]

    def _latest(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        if len(trials) <= self._memory:
            return trials
        left = {TrialState.COMPLETE: self._memory, TrialState.PRUNED: self._memory}
        kept = []
        for trial in reversed(trials):
            if trial.state in left:
                left[trial.state] -= 1
                if left[trial.state] < 0:
                    continue
            kept.append(trial)
        return kept[::-1]
