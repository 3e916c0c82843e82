"""Hypervolume beside Optuna's own function: `python -m benchmarks.hypervolume`. CPU milliseconds of one
call, and whether the two agree.

Fronts are spread evenly over a sphere. How today's compares with an earlier commit's:
`python -m benchmarks.against COMMIT --probes hypervolume`.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import save
from benchmarks.compat import compute_hypervolume
from benchmarks.probes.hypervolume import sphere, timed
from search.pareto.geometry import hypervolume

FRONTS = ((2, 100), (3, 100), (4, 25), (4, 50), (4, 100), (4, 400), (5, 50), (5, 100), (6, 50))


def main() -> None:
    """Write results/hypervolume.json."""
    figures = {}
    for axes, members in FRONTS:
        front, reference = sphere(members, axes), np.ones(axes)
        # both get distinct members of a front, which is what spares Optuna a look
        theirs, optuna_ms = timed(
            lambda f=front, r=reference: compute_hypervolume(f, r, assume_pareto=True))
        ours, ms = timed(lambda f=front, r=reference: hypervolume(f, r))
        figures[f"{axes} objectives, {members} members"] = row = {
            "ms": ms, "optuna_ms": optuna_ms, "ratio": ms / optuna_ms, "difference": float(ours / theirs - 1)}
        print(axes, members, row)
    save("hypervolume", {"figures": figures})


if __name__ == "__main__":
    main()
