"""The search methods by name: short compositions of what Optuna ships; `qdlm plugins` shows their docstrings.

A method is a function of two seeds and its own keyword options that returns an Optuna sampler. `seed` is the study's,
`draw` changes with every proposal, so that the same seed and history give the same proposal, after a restart too.
`grid` has no sampler: the searcher walks the points itself.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from spaces.errors import UserError


def tpe(seed: int, draw: int, *, startup: int = 10, candidates: int = 24, constant_liar: bool = True,
        multivariate: bool = False, group: bool = False) -> BaseSampler:
    """Tree-structured Parzen estimator as Optuna 5 ships it; the default, best at about 100 trials of a mixed space."""
    return TPESampler(seed=draw, n_startup_trials=startup, n_ei_candidates=candidates, constant_liar=constant_liar,
                      multivariate=multivariate, group=group)


def random(seed: int, draw: int) -> BaseSampler:
    """Independent uniform draws: the baseline that a method has to beat."""
    return RandomSampler(seed=draw)


def qmc(seed: int, draw: int, *, sequence: str = "sobol", scramble: bool = True) -> BaseSampler:
    """Quasi-random points that cover ranges evenly; a conditional dimension is drawn at random. Needs scipy."""
    _need("scipy", "qmc")
    return QMCSampler(seed=seed, qmc_type=sequence, scramble=scramble, independent_sampler=RandomSampler(seed=draw),
                      warn_independent_sampling=False)


def nsga2(seed: int, draw: int, *, population: int = 16, crossover: float = 0.9) -> BaseSampler:
    """Genetic search by non-dominated sorting (Deb et al. 2002); wants several hundred trials."""
    return NSGAIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def nsga3(seed: int, draw: int, *, population: int = 16, crossover: float = 0.9) -> BaseSampler:
    """Genetic search with reference directions (Deb and Jain 2014), for four objectives and more."""
    return NSGAIIISampler(seed=draw, population_size=population, crossover_prob=crossover)


def gp(seed: int, draw: int, *, startup: int = 10) -> BaseSampler:
    """Gaussian process, expected hypervolume improvement: seconds per proposal; conditionals go to tpe. Needs scipy."""
    _need("scipy", "gp")
    _need("torch", "gp")
    return GPSampler(seed=draw, n_startup_trials=startup, independent_sampler=tpe(seed, draw),
                     warn_independent_sampling=False)


def grid(seed: int, draw: int, *, order: str = "given") -> None:
    """Every point of a finite space once, in file order (order: given) or shuffled (order: random)."""
    if order not in ("given", "random"):
        raise ValueError(f"order is {order!r}; legal: given, random")


METHODS: Mapping[str, Callable[..., BaseSampler | None]] = MappingProxyType(
    {method.__name__: method for method in (tpe, random, qmc, nsga2, nsga3, gp, grid)})


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults. Raises `UserError` for an unknown name."""
    return {key: parameter.default for key, parameter in inspect.signature(_find(name)).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, chosen: Mapping[str, Any] | None = None, seed: int = 0, draw: int = 0) -> BaseSampler | None:
    """The sampler of a method (None for `grid`). Raises `UserError` naming what is legal, or the package it lacks."""
    method, legal = _find(name), options(name)
    for key, value in (chosen or {}).items():
        if key not in legal:
            raise UserError(f"sampler {name!r}: unknown option {key!r}; legal: {', '.join(legal) or 'none'}")
        if isinstance(legal[key], bool) != isinstance(value, bool) or (
                isinstance(legal[key], str) != isinstance(value, str)):
            raise UserError(f"sampler {name!r}: option {key!r} is {value!r}; expected such as {legal[key]!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return method(seed, draw, **(chosen or {}))
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"sampler {name!r}: {error}") from error


def _find(name: str) -> Callable[..., BaseSampler | None]:
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"unknown sampler {name!r}{hint}; legal: {', '.join(METHODS)}")
    return METHODS[name]


def _need(package: str, name: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"sampler {name!r} needs the package {package}: pip install {package}")
