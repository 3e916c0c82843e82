"""The search methods by name: short compositions of what Optuna ships; `qdlm plugins` shows their docstrings.

A method is a function of two seeds and its own keyword options that returns an Optuna sampler. `seed` is
the study's, `draw` changes with every proposal, so that the same seed and history give the same proposal,
after a restart too. `grid` has no sampler: the searcher walks the points itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
)
from pydantic import Field

from search.options import Methods
from search.samplers.qmc import SpaceQMCSampler
from search.samplers.recent_tpe import RecentTPE

Population = Annotated[int, Field(ge=2, description="trials of a generation")]
Crossover = Annotated[float, Field(ge=0, le=1, description="share of trials that have two parents")]


def tpe(seed: int, draw: int, *,
        startup: Annotated[int, Field(ge=0, description="complete trials that are drawn at random")] = 10,
        candidates: Annotated[int, Field(
                ge=1, description="values drawn per dimension, of which the best is taken")] = 24,
        constant_liar: Annotated[bool, Field(description="trials that run count as bad, "
                                                         "so that others keep away")] = True,
        multivariate: Annotated[bool, Field(description="dimensions are modelled together")] = False,
        group: Annotated[bool, Field(description="together, but by the conditions they share; "
                                                 "wants multivariate")] = False,
        memory: Annotated[int, Field(ge=20, description="results of each kind that are learned from")] =
        400) -> BaseSampler:
    """Tree-structured Parzen estimator as Optuna 5 ships it, on the last `memory` results."""
    return RecentTPE(memory, seed=draw, n_startup_trials=startup, n_ei_candidates=candidates,
                     constant_liar=constant_liar, multivariate=multivariate, group=group)


def random(seed: int, draw: int) -> BaseSampler:
    """Independent uniform draws: the baseline that a method has to beat."""
    return RandomSampler(seed=draw)


def qmc(seed: int, draw: int, *, sequence: Annotated[Literal["sobol", "halton"],
                                                     Field(description="low-discrepancy sequence")] = "sobol",
        scramble: Annotated[bool, Field(description="shuffled by the seed; "
                                                    "otherwise every seed is the same")] = True,
        ) -> BaseSampler:
    """Quasi-random points that cover ranges evenly; a conditional dimension is drawn at random."""
    return SpaceQMCSampler(seed=seed, qmc_type=sequence, scramble=scramble,
                           independent_sampler=RandomSampler(seed=draw), warn_independent_sampling=False)


def nsga2(seed: int, draw: int, *, population: Population = 16, crossover: Crossover = 0.9) -> BaseSampler:
    """Genetic search by non-dominated sorting (Deb et al. 2002); wants several hundred trials."""
    return NSGAIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def nsga3(seed: int, draw: int, *, population: Population = 16, crossover: Crossover = 0.9) -> BaseSampler:
    """Genetic search with reference directions (Deb and Jain 2014), for four objectives and more."""
    return NSGAIIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def gp(seed: int, draw: int, *,
       startup: Annotated[int, Field(ge=1, description="complete trials that are proposed by tpe")] = 10,
       samples: Annotated[int, Field(ge=1, description="draws that a gain is estimated from; "
                                                       "memory grows with it")] = 32,
       candidates: Annotated[int, Field(
               ge=10, description="points that are compared, the best few improved further")] = 512,
       ) -> BaseSampler:
    """Gaussian processes as Optuna 5 ships them, estimated expected hypervolume improvement;
    conditionals go to tpe."""
    from search.samplers.gp import LeanGP

    return LeanGP(draw, startup, samples, candidates, tpe(seed, draw))


def cqr(seed: int, draw: int, *,
        startup: Annotated[int, Field(ge=4, description="complete trials that are drawn at random")] = 12,
        candidates: Annotated[int, Field(ge=2, description="points that are compared")] = 200,
        trees: Annotated[int, Field(ge=1,
                                    description="of each quantile's gradient boosting")] = 25) -> BaseSampler:
    """Conformal quantile regression (Salinas et al. 2023): gradient boosting whose intervals hold,
    whatever the noise."""
    from search.samplers.cqr import ConformalSampler  # scikit-learn takes half a second to import

    return ConformalSampler(draw, startup, candidates, trees)


def ehvi(seed: int, draw: int, *,
         startup: Annotated[int, Field(ge=2, description="trials that have measured something before the "
                                                         "processes propose")] = 3,
         candidates: Annotated[int, Field(
                 ge=2, description="points that are compared, the best few improved further")] = 400,
         most: Annotated[int, Field(ge=2,
                                    description="results after which tpe proposes; at least startup")] = 2000,
         first: Annotated[Literal["middle", "spread", "random"], Field(
                 description="trials until there is something to predict from: the middle of the space, "
                             "then points that fill it evenly; these alone; or random ones")] = "middle",
         ) -> BaseSampler:
    """Gaussian processes over all rungs, exact expected hypervolume improvement; after `most` results as
    tpe; the default."""
    from search.samplers.ehvi import EHVISampler

    return EHVISampler(seed, draw, tpe(seed, draw, startup=startup), startup, candidates, most, first)


def grid(seed: int, draw: int, *, order: Annotated[Literal["given", "random"], Field(
        description="as in the file, or shuffled by the seed")] = "given",
         ) -> None:
    """Every point of a finite space once."""


METHODS = Methods("sampler", (tpe, random, qmc, nsga2, nsga3, gp, cqr, ehvi, grid))

MOST_VALUES = {"gp": 100_000}
"""Whole numbers of a dimension that a method may meet: Optuna's own process lists them all."""


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults. Raises `UserError` for an unknown name."""
    return METHODS.options(name)


def build(name: str, chosen: Mapping[str, Any] | None = None, seed: int = 0,
          draw: int = 0) -> BaseSampler | None:
    """The sampler of a method (None for `grid`). Raises `UserError` naming what is legal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return METHODS.build(name, chosen, seed, draw)
