"""What Optuna has under private names alone, each behind a name of ours, so that a change upstream
is met in one place.

Read in the Optuna version below; tests/search/samplers/test_compat.py says what each has to do. Ray's are in
`search.distributed.compat` and `cluster.compat`, torch's in `trainable.compat`: each library is imported
in rooms of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from optuna.samplers import GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

OPTUNA = "5.0.0"
"""Seen in."""


def set_gp_effort(sampler: GPSampler, samples: int, candidates: int) -> None:
    """Have a `GPSampler` estimate gains from `samples` draws and start looking from `candidates` points,
    of which it makes no parameters."""
    sampler._n_qmc_samples_ehvi = sampler._n_qmc_samples_qei = samples
    sampler._n_preliminary_samples = candidates


def running_trial(study: Study, trial: FrozenTrial) -> Trial:
    """The handle of a trial that an earlier process asked for, to go on with; Optuna hands out none."""
    return Trial(study, trial._trial_id)


class StudyView:
    """A study of which samplers see a part of the history; everything else is the study's own."""

    def __init__(self, study: Study, part: Callable[[list[FrozenTrial]], list[FrozenTrial]]):
        self._study, self._part = study, part
        self._known: dict[tuple[TrialState, ...] | None, list[FrozenTrial]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None,
                    use_cache: bool = False) -> list[FrozenTrial]:
        """What a sampler asks for its history by, once for each of a trial's parameters: computed once."""
        assert not deepcopy, "samplers read the history, and do not change it"
        wanted = None if states is None else tuple(state for state in TrialState if state in states)
        if wanted not in self._known:
            self._known[wanted] = self._part(self._study._get_trials(deepcopy=False, states=states,
                                                                     use_cache=use_cache))
        return self._known[wanted]
