"""Problems for `benchmarks.replay`: what a pretended trial measures at each rung, how long that takes, and what is true.

`momf-*` and `dtlz2` are formulas (BoTorch's multi-objective multi-fidelity functions; pymoo's DTLZ2 with a bias that fades
with fidelity); `table` is what trials of the real trainable measured (`benchmarks.record_table`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.engine import Live
from search.front_box import Box
from search.halving import Problem as Judged
from spaces.config import HardwareConfig, TrialConfig
from spaces.dimensions import Dimension
from spaces.form import BudgetConfig
from spaces.objectives import Objective
from spaces.points import count
from spaces.schema import load

TABLES = Path(__file__).parent / "tables"


@dataclass
class Plan:
    """`engine.Plan` without trial settings."""

    objectives: list[Objective]
    dimensions: dict[str, Dimension]
    rungs: tuple[int, ...]
    budget: BudgetConfig
    box: dict[str, tuple[float, float]]
    constraints: list = field(default_factory=list)
    hardware: HardwareConfig = HardwareConfig()

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """Pretended trials have no settings."""
        return TrialConfig()

    def size(self) -> int | None:
        """Number of points."""
        return count(self.dimensions)


class Problem(ABC):
    """One problem under replay. `full` is the seconds of a whole trial, on average."""

    name: str
    objectives: list[Objective]
    dimensions: dict[str, Dimension]
    rungs: tuple[int, ...]
    corners: dict[str, tuple[float, float]]
    proxies: Mapping[str, str] = {}
    full: float = 1.0

    def plan(self, full_trials: float, workers: int) -> Plan:
        """A budget of wall time that holds `full_trials` trials of average length on `workers` workers."""
        budget = BudgetConfig(time=full_trials * self.full / workers)
        return Plan(self.objectives, self.dimensions, self.rungs, budget, self.corners)

    def judged(self, seed: int) -> Judged:
        """What the scheduler judges by."""
        return Judged(self.objectives, (), len(self.rungs), self.proxies, seed)

    @property
    def box(self) -> Box:
        """In which hypervolume is told; fixed before the runs."""
        return Box.of(self.corners, self.objectives)

    @abstractmethod
    def measure(self, values: Mapping[str, Any], rung: int, rng: np.random.Generator) -> tuple[float, dict[str, float]]:
        """Seconds since the last rung, and what is measured there."""

    @abstractmethod
    def truth(self, values: Mapping[str, Any]) -> dict[str, float]:
        """What a full trial would measure without noise."""

    def evaluate(self, seed: int):
        """`simulator.Evaluate` with noise from the seed and the trial's number, so that methods meet the same luck."""
        def trial(live: Live):
            rng = np.random.default_rng([seed, live.number])
            for rung, steps in enumerate(self.rungs):
                seconds, measured = self.measure(live.values, rung, rng)
                yield seconds, {"rung": rung, "steps": steps, "final": rung == len(self.rungs) - 1, **measured}
        return trial


class Formula(Problem):
    """`function(x [d], fidelity) -> objectives` on the unit cube, all minimized; time is proportional to fidelity."""

    noise = 0.01

    def __init__(self, d: int, fidelities: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)):
        self.fidelities, self.rungs = fidelities, tuple(round(90 * share) for share in fidelities)
        self.dimensions = {f"x{index}": Dimension(**{"float": [0.0, 1.0]}) for index in range(d)}
        self.objectives = [Objective(metric, "minimize") for metric in self.corners]

    @abstractmethod
    def function(self, x: np.ndarray, fidelity: float) -> np.ndarray:
        """The formula."""

    def _values(self, values: Mapping[str, Any], fidelity: float) -> np.ndarray:
        return self.function(np.array([values[path] for path in self.dimensions]), fidelity)

    def measure(self, values, rung, rng):
        spread = self.noise * np.array([worst - best for best, worst in self.corners.values()])
        found = self._values(values, self.fidelities[rung]) + spread * rng.standard_normal(len(self.objectives))
        since = self.fidelities[rung] - (self.fidelities[rung - 1] if rung else 0.0)
        pace = rng.uniform(0.7, 1.3)  # trials differ in length, so the order of results does
        return since * pace, dict(zip(self.corners, found.tolist(), strict=True))

    def truth(self, values):
        return dict(zip(self.corners, self._values(values, 1.0).tolist(), strict=True))


class BraninCurrin(Formula):
    """BoTorch's MOMFBraninCurrin (Irshad et al. 2021), negated: 2 variables, 2 objectives."""

    name, corners = "momf-branin-currin", {"branin": (-11.0, 0.0), "currin": (-9.0, 0.0)}

    def __init__(self):
        from botorch.test_functions.multi_objective_multi_fidelity import MOMFBraninCurrin

        self._function = MOMFBraninCurrin(negate=True)
        super().__init__(2)

    def function(self, x, fidelity):
        import torch

        return self._function(torch.tensor([[*x, fidelity]], dtype=torch.float64))[0].numpy()


class Park(Formula):
    """BoTorch's MOMFPark, negated: 4 variables, 2 objectives."""

    name, corners = "momf-park", {"park1": (-12.0, 0.0), "park2": (-3.0, 0.0)}

    def __init__(self):
        from botorch.test_functions.multi_objective_multi_fidelity import MOMFPark

        self._function = MOMFPark(negate=True)
        super().__init__(4)

    def function(self, x, fidelity):
        import torch

        return self._function(torch.tensor([[*x, fidelity]], dtype=torch.float64))[0].numpy()


class DTLZ2(Formula):
    """pymoo's DTLZ2: 7 variables, 3 objectives; below full fidelity every objective is biased, less the nearer it is."""

    name, corners = "dtlz2", {"f1": (0.0, 2.0), "f2": (0.0, 2.0), "f3": (0.0, 2.0)}

    def __init__(self):
        from pymoo.problems.many.dtlz import DTLZ2 as Formula7

        self._function = Formula7(n_var=7, n_obj=3)
        super().__init__(7)

    def function(self, x, fidelity):
        found = self._function.evaluate(x[None])[0]
        return found + 0.3 * (1 - fidelity) * (1 + np.sin(5 * x[:3]))


class Table(Problem):
    """What trials of the real trainable measured, every point of a finite space at every rung, several seeds each."""

    name, corners = "table", {}
    proxies = {"latency_ms": "generation_flops"}

    def __init__(self, path: Path = TABLES / "quickstart.parquet"):
        import pyarrow.parquet

        space = load(TABLES / "quickstart.yaml")
        self.objectives, self.rungs = space.objectives, space.rungs
        self.rows: dict[str, dict[int, list[dict]]] = {}
        for row in pyarrow.parquet.read_table(path).to_pylist():
            self.rows.setdefault(row["point"], {}).setdefault(row["seed"], []).append(row)
        seeds = {seed for runs in self.rows.values() for seed in runs}
        self.rows = {point: runs for point, runs in self.rows.items() if seeds == set(runs)} or self.rows
        self.dimensions = dict(space.dimensions)
        self.points, self.seeds = len(self.rows), len(seeds)
        whole = [run[-1] for runs in self.rows.values() for run in runs.values()]
        self.full = float(np.mean([row["seconds"] for row in whole]))
        self.corners = {}
        for item in self.objectives:
            column = np.array([self._mean(point)[item.metric] for point in self.rows])
            ends = (float(column.min()), float(column.max()) * (1.0 if column.max() else 1.0) + 1e-9)
            self.corners[item.metric] = ends if item.direction == "minimize" else (ends[1], ends[0] - 1e-9)
        if self.points < space.size():
            raise SystemExit(f"the table holds {self.points} of {space.size()} points; record the rest first")

    def _mean(self, point: str) -> dict[str, float]:
        runs = self.rows[point].values()
        return {item.metric: float(np.mean([run[-1][item.metric] for run in runs])) for item in self.objectives}

    def measure(self, values, rung, rng):
        runs = self.rows[json.dumps(dict(values), sort_keys=True)]
        if rung == 0:
            rng.seed = sorted(runs)[int(rng.integers(len(runs)))] if False else None
        raise NotImplementedError

    def truth(self, values):
        return self._mean(json.dumps(dict(values), sort_keys=True))


PROBLEMS = {cls.name: cls for cls in (BraninCurrin, Park, DTLZ2, Table)}
