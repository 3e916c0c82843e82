"""CPU milliseconds of one hypervolume of fronts of 4 and 5 objectives: members spread evenly over a sphere.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/hypervolume.py CACHE` (the cache is not used).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import numpy as np

from search.pareto.geometry import hypervolume

LEAST_S = 0.3


def sphere(members: int, axes: int) -> np.ndarray:
    """A front [members, axes] between 0.1 and 1, concave: all of it counts up to 1 on every axis."""
    rows = np.abs(np.random.default_rng(0).standard_normal((members, axes)))
    return 1 - 0.9 * rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """What a call returns, and the CPU milliseconds that one takes after a first."""
    found = call()
    began, calls = time.process_time(), 0
    while (spent := time.process_time() - began) < LEAST_S:
        calls, found = calls + 1, call()
    return found, 1000 * spent / calls


def main() -> None:
    figures = {}
    for axes, members in ((4, 50), (4, 100), (5, 50)):
        front = sphere(members, axes)
        volume, figures[f"{axes}x{members}_ms"] = timed(lambda f=front: hypervolume(f, np.ones(f.shape[1])))
        figures[f"{axes}x{members}_volume"] = volume
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
