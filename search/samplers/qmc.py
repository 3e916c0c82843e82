"""Quasi-random points over the dimensions of a space that are always active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.samplers.distributions import Axes

if TYPE_CHECKING:
    from search.samplers.acquisition import AcquisitionProblem


class SpaceQMCSampler(QMCSampler):
    """`QMCSampler` that is told the space. Optuna's own takes it from the trials so far: its first ones
    are random, it warns of conditions where there are none, and in a space that has some the first trial's
    branch would be all it covers."""

    _space: dict[str, BaseDistribution]

    def attach(self, axes: Axes, problem: AcquisitionProblem,
               progress: Mapping[int, Sequence[tuple[float, Mapping[str, Any]]]]) -> None:
        """Take the space."""
        self._space = {path: axis.distribution for path, axis in axes.axes.items() if not axis.dimension.when}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The dimensions without conditions; a sequence has one point in all of them."""
        return self._space
