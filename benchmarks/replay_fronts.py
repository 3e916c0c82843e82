"""The best fronts of the formulas of `benchmarks.replay`, searched for without noise:
`python -m benchmarks.replay_fronts`.

pymoo's NSGA-II, 200 points (500 for the mixed problems, whose fronts have more axes) for 250 generations at
full fidelity, two seeds; the front of all that they ended with. Writes benchmarks/tables/best_fronts.json,
which `benchmarks.replay_problems` reads. DTLZ2 has an exact front and is left out.
"""

from __future__ import annotations

import json

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as Pymoo
from pymoo.optimize import minimize

from benchmarks.replay_mixed import Mixed, MixedQuantizers, MixedSamplers
from benchmarks.replay_problems import FRONTS, BraninCurrin, Formula, Park

POPULATION, MANY, GENERATIONS, SEEDS = 200, 500, 250, (0, 1)


class Noiseless(Pymoo):
    """A formula at full fidelity as pymoo takes it."""

    def __init__(self, formula: Formula):
        super().__init__(n_var=len(formula.dimensions), n_obj=len(formula.objectives), xl=0.0, xu=1.0)
        self.formula = formula

    def _evaluate(self, x, out, *args, **kwargs):
        if isinstance(self.formula, Mixed):
            x = self.formula.points.at(x)
        out["F"] = self.formula.function(x, 1.0) * self.formula.signs


def main() -> None:
    best = {}
    for problem in (BraninCurrin(), Park(), MixedQuantizers(), MixedSamplers()):
        size = MANY if isinstance(problem, Mixed) else POPULATION
        found = np.vstack([minimize(Noiseless(problem), NSGA2(pop_size=size), ("n_gen", GENERATIONS),
                                    seed=seed).F for seed in SEEDS])
        best[problem.name] = problem.box.hypervolume(found)
        print(f"{problem.name}: {best[problem.name]:.6f}")
    FRONTS.write_text(json.dumps({"command": "python -m benchmarks.replay_fronts", "best": best}, indent=1)
                      + "\n")


if __name__ == "__main__":
    main()
