"""CPU seconds of proposals of the default method when so many results are told, and what they are worth.

A space of mixed dimensions and 4 objectives (DTLZ2's, Deb et al. 2002, with noise and a bias that fades with
the rungs): half of the results are drawn evenly, half near the front, three in five were stopped early. They
are told up to 3 before the last number, up to RESULTS, at which the method fits its settings anew, and each
proposal is told before the next, so some of them pay for that. `first_s` is what a resumed search pays once.
`gained`: hypervolume by true values, a share of the box, that the proposals added.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/proposals.py CACHE [RESULTS] [PROPOSALS] [DIMENSIONS]` (the cache is not used).
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path.cwd()))

import numpy as np

from search.pareto.geometry import hypervolume
from search.samplers.acquisition import last_refit
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Objective

RUNGS = (10, 30, 90)
WORST = 2.5
OBJECTIVES = [Objective(f"f{axis}", "minimize") for axis in range(4)]
SHAPE = len(OBJECTIVES) - 1
"""Dimensions that say where on the front a point lies; the others say how far from it."""
NOISE = 0.02
STOPPED = 0.6


def space(d: int) -> dict[str, Dimension]:
    """d dimensions: two of five that are no plain ranges are choices, one of them of names."""
    found = {}
    for place in range(d):
        form: dict[str, Any] = {"float": [0.0, 1.0]}
        if place >= SHAPE and place % 5 == 0:
            form = {"choice": ["a", "b", "c", "d"]}
        elif place >= SHAPE and place % 5 == 1:
            form = {"log": [1e-5, 1e-1]}
        elif place >= SHAPE and place % 5 == 2:
            form = {"int": [0, 40]}
        elif place >= SHAPE and place % 5 == 3 and place > 5:
            form = {"choice": [2, 3, 4, 6, 8]}
        found[f"x{place}"] = Dimension(**form)
    return found


def value(dimension: Dimension, share: float) -> Any:
    """The legal value at a share of a dimension."""
    if dimension.choice:
        return dimension.choice[min(len(dimension.choice) - 1, int(share * len(dimension.choice)))]
    low, high = float(dimension.low), float(dimension.high)
    if dimension.kind == "log":
        return float(np.clip(low * (high / low) ** share, low, high))
    return round(low + share * (high - low)) if dimension.kind == "int" else low + share * (high - low)


def place(dimension: Dimension, found: Any) -> float:
    """The share at which a value stands."""
    if dimension.choice:
        return dimension.choice.index(found) / (len(dimension.choice) - 1)
    low, high = float(dimension.low), float(dimension.high)
    if dimension.kind == "log":
        return float(np.log(found / low) / np.log(high / low))
    return (found - low) / (high - low)


def truth(dimensions: dict[str, Dimension], values: dict[str, Any], fidelity: float = 1.0) -> np.ndarray:
    """The objectives without noise, float [4]."""
    u = np.array([place(dimension, values[path]) for path, dimension in dimensions.items()])
    apart = float(((u[SHAPE:] - 0.5 - 0.2 * (u[0] - 0.5)) ** 2).sum()) * 8 / len(u[SHAPE:])
    angles = u[:SHAPE] * np.pi / 2
    found = np.full(len(OBJECTIVES), 1 + apart)
    for axis in range(len(OBJECTIVES)):
        found[axis] *= np.cos(angles[:SHAPE - axis]).prod() * (np.sin(angles[SHAPE - axis]) if axis else 1.0)
    return np.asarray(found + 0.3 * (1 - fidelity) * (1 + np.sin(5 * u[:len(OBJECTIVES)])))


def told(dimensions: dict[str, Dimension], values: dict[str, Any],
         noise: np.random.Generator) -> tuple[Literal["complete", "stopped"], dict[str, float],
                                              list[tuple[int, dict[str, float]]]]:
    """How a trial ends, what it measured last, and what at each rung."""
    last = int(noise.integers(2)) if noise.random() < STOPPED else len(RUNGS) - 1
    curve = []
    for steps in RUNGS[:last + 1]:
        row = truth(dimensions, values, steps / RUNGS[-1]) + NOISE * noise.standard_normal(len(OBJECTIVES))
        curve.append((steps, {item.metric: float(one) for item, one in zip(OBJECTIVES, row, strict=True)}))
    return "complete" if last == len(RUNGS) - 1 else "stopped", curve[-1][1], curve


def volume(rows: list[np.ndarray]) -> float:
    """Share of the box that is dominated."""
    return hypervolume(np.array(rows) / WORST, np.ones(len(OBJECTIVES)))


def measured(results: int, proposals: int, d: int, sampler: str = "ehvi") -> dict[str, float]:
    """The figures of a search that was told so many results."""
    dimensions, noise = space(d), np.random.default_rng(0)
    searcher = StudySearcher(dimensions, OBJECTIVES, sampler=sampler, seed=0, top=RUNGS[-1],
                             box={item.metric: [0.0, WORST] for item in OBJECTIVES})
    mark, complete = last_refit(results), []
    for number in range(mark - 3):
        share = noise.random(d)
        if number % 2:
            share[SHAPE:] = np.clip(0.5 + 0.15 * noise.standard_normal(d - SHAPE), 0.0, 1.0)
        values = {path: value(dimension, one)
                  for (path, dimension), one in zip(dimensions.items(), share, strict=True)}
        state, metrics, curve = told(dimensions, values, noise)
        searcher.learn(values, state, metrics, curve)
        if state == "complete":
            complete.append(truth(dimensions, values))
    seconds, added = [], []
    for _ in range(proposals):
        began = time.process_time()
        proposal = searcher.ask()
        seconds.append(time.process_time() - began)
        assert proposal is not None, "the space has no end"
        state, metrics, curve = told(dimensions, proposal.values, noise)
        searcher.tell(proposal.number, state, metrics, rungs=curve)
        added.append(truth(dimensions, proposal.values))
    return {"results": mark - 3, "first_s": seconds[0], "median_s": statistics.median(seconds[1:]),
            "worst_s": max(seconds[1:]), "gained": volume(complete + added) - volume(complete)}


def main() -> None:
    results, proposals, d = [*map(int, sys.argv[2:]), *(300, 12, 15)[len(sys.argv) - 2:]]
    print(json.dumps(measured(results, proposals, d)))


if __name__ == "__main__":
    main()
