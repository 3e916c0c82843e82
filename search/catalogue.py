"""The search methods by name: short compositions of what Optuna ships; `qdlm plugins` shows their docstrings.

A method is a function of two seeds and its own keyword options that returns an Optuna sampler. `seed` is the study's,
`draw` changes with every proposal, so that the same seed and history give the same proposal, after a restart too.
`grid` has no sampler: the searcher walks the points itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
)

from search.methods import Methods
from search.searcher_memory import RecentTPE
from search.searcher_qmc import EvenSampler


def tpe(seed: int, draw: int, *, startup: int = 10, candidates: int = 24, constant_liar: bool = True,
        multivariate: bool = False, group: bool = False, memory: int = 400) -> BaseSampler:
    """Tree-structured Parzen estimator as Optuna 5 ships it, on the last `memory` results."""
    return RecentTPE(memory, seed=draw, n_startup_trials=startup, n_ei_candidates=candidates, constant_liar=constant_liar,
                      multivariate=multivariate, group=group)


def random(seed: int, draw: int) -> BaseSampler:
    """Independent uniform draws: the baseline that a method has to beat."""
    return RandomSampler(seed=draw)


def qmc(seed: int, draw: int, *, sequence: str = "sobol", scramble: bool = True) -> BaseSampler:
    """Quasi-random points that cover ranges evenly; a conditional dimension is drawn at random."""
    return EvenSampler(seed=seed, qmc_type=sequence, scramble=scramble, independent_sampler=RandomSampler(seed=draw),
                       warn_independent_sampling=False)


def nsga2(seed: int, draw: int, *, population: int = 16, crossover: float = 0.9) -> BaseSampler:
    """Genetic search by non-dominated sorting (Deb et al. 2002); wants several hundred trials."""
    return NSGAIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def nsga3(seed: int, draw: int, *, population: int = 16, crossover: float = 0.9) -> BaseSampler:
    """Genetic search with reference directions (Deb and Jain 2014), for four objectives and more."""
    return NSGAIIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def gp(seed: int, draw: int, *, startup: int = 10) -> BaseSampler:
    """Gaussian process, expected hypervolume improvement: seconds per proposal; conditionals go to tpe."""
    return GPSampler(seed=draw, n_startup_trials=startup, independent_sampler=tpe(seed, draw),
                     warn_independent_sampling=False)


def cqr(seed: int, draw: int, *, startup: int = 12, candidates: int = 200, trees: int = 25) -> BaseSampler:
    """Conformal quantile regression (Salinas et al. 2023): gradient boosting whose intervals hold, whatever the noise."""
    from search.searcher_cqr import ConformalSampler  # scikit-learn takes half a second to import

    return ConformalSampler(draw, startup, candidates, trees)


def ehvi(seed: int, draw: int, *, startup: int = 6, candidates: int = 400, most: int = 300) -> BaseSampler:
    """Gaussian processes over all rungs, exact expected hypervolume improvement; after `most` results as tpe; the default."""
    from search.searcher_ehvi import ImprovementSampler

    return ImprovementSampler(draw, tpe(seed, draw, startup=startup), startup, candidates, most)


def grid(seed: int, draw: int, *, order: str = "given") -> None:
    """Every point of a finite space once, in file order (order: given) or shuffled (order: random)."""
    if order not in ("given", "random"):
        raise ValueError(f"order is {order!r}; legal: given, random")


METHODS = Methods("sampler", (tpe, random, qmc, nsga2, nsga3, gp, cqr, ehvi, grid))


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults. Raises `UserError` for an unknown name."""
    return METHODS.options(name)


def build(name: str, chosen: Mapping[str, Any] | None = None, seed: int = 0, draw: int = 0) -> BaseSampler | None:
    """The sampler of a method (None for `grid`). Raises `UserError` naming what is legal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return METHODS.build(name, chosen, seed, draw)
