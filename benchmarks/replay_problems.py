"""Problems for `benchmarks.replay`: what a pretended trial measures at each rung, how long that takes,
and what is true.

`momf-*` and `dtlz2` are formulas (BoTorch's multi-objective multi-fidelity functions; pymoo's DTLZ2 with a
bias that fades with fidelity), the best front of which `benchmarks.replay_fronts` searched for without noise;
`table` is what trials of the real trainable measured (`benchmarks.record_table`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.engine.engine import RunningTrial
from search.pareto.objectives import matrix
from search.pareto.reference_box import Box
from search.run.validation import problem
from search.schedulers.successive_halving import Problem as SchedulerProblem
from spaces.config import HardwareConfig, TrialConfig
from spaces.dimensions import Dimension
from spaces.form import BudgetConfig
from spaces.objectives import Objective
from spaces.points import count
from spaces.schema import load

WORST = 0.75
"""Quantile of the table's points at the worst corner of its box: broken models would else make all
others look alike."""
QUIET = 0.25
"""Quantile of the times of the base that is taken for those of a quiet machine."""
TABLES = Path(__file__).parent / "tables"
FRONTS = TABLES / "best_fronts.json"


@dataclass
class ProblemSpace:
    """`engine.ProblemSpace` without trial settings."""

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
    ideals: Mapping[str, float] = {}
    full: float = 1.0

    def search_space(self, full_trials: float, workers: int) -> ProblemSpace:
        """A budget of wall time that holds `full_trials` trials of average length on `workers` workers."""
        budget = BudgetConfig(time=full_trials * self.full / workers)
        return ProblemSpace(self.objectives, self.dimensions, self.rungs, budget, self.corners)

    def scheduler_problem(self, seed: int) -> SchedulerProblem:
        """What the scheduler judges by."""
        return SchedulerProblem(self.objectives, (), len(self.rungs), self.proxies, seed, self.dimensions,
                                self.corners, self.rungs, ideals=self.ideals)

    @property
    def box(self) -> Box:
        """In which hypervolume is told; fixed before the runs."""
        return Box.of(self.corners, self.objectives)

    @abstractmethod
    def trial(self, values: Mapping[str, Any],
              rng: np.random.Generator) -> Iterator[tuple[float, dict[str, float]]]:
        """Per rung, the seconds since the last one and what is measured there."""

    @abstractmethod
    def truth(self, values: Mapping[str, Any]) -> dict[str, float]:
        """What a full trial would measure without noise."""

    def evaluate(self, seed: int):
        """`simulator.Evaluate` with noise from the seed and the trial's number, so that methods
        meet the same luck."""
        def rungs(live: RunningTrial):
            rng = np.random.default_rng([seed, live.number])
            for rung, (seconds, measured) in enumerate(self.trial(live.values, rng)):
                yield seconds, {"rung": rung, "steps": self.rungs[rung], "final": rung == len(self.rungs) - 1,
                                **measured}
        return rungs

    @abstractmethod
    def best(self) -> float:
        """The hypervolume of the best front there is."""


class Formula(Problem):
    """`function(x [n, d], fidelity) -> [n, k]` on the unit cube, all minimized; time is proportional
    to fidelity."""

    noise = 0.01

    def __init__(self, d: int, fidelities: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)):
        self.fidelities, self.rungs = fidelities, tuple(round(90 * share) for share in fidelities)
        self.dimensions = {f"x{index}": Dimension(**{"float": [0.0, 1.0]}) for index in range(d)}
        self.objectives = [Objective(metric, "minimize") for metric in self.corners]

    @abstractmethod
    def function(self, x: np.ndarray, fidelity: float) -> np.ndarray:
        """The formula."""

    @property
    def signs(self) -> np.ndarray:
        """What makes each objective one to minimize, float [k]."""
        return np.array([-1.0 if item.direction == "maximize" else 1.0 for item in self.objectives])

    def spread(self) -> np.ndarray:
        """Standard deviation of what is measured, by objective, float [k]."""
        return self.noise * np.abs([worst - best for best, worst in self.corners.values()])

    def _values(self, values: Mapping[str, Any], fidelity: float) -> np.ndarray:
        return self.function(np.array([[values[path] for path in self.dimensions]]), fidelity)[0]

    def trial(self, values, rng):
        spread = self.spread()
        pace, before = rng.uniform(0.7, 1.3), 0.0  # trials differ in length, so the order of results does
        for fidelity in self.fidelities:
            found = self._values(values, fidelity) + spread * rng.standard_normal(len(self.objectives))
            yield (fidelity - before) * pace, dict(zip(self.corners, found.tolist(), strict=True))
            before = fidelity

    def truth(self, values):
        return dict(zip(self.corners, self._values(values, 1.0).tolist(), strict=True))

    def best(self):
        return json.loads(FRONTS.read_text())["best"][self.name]


class BraninCurrin(Formula):
    """BoTorch's MOMFBraninCurrin (Irshad et al. 2021): 2 variables, 2 objectives. The best hypervolume
    that BoTorch names (0.5236) is not attained: a grid of 641,601 points and two long searches end
    at 0.501 to 0.503."""

    name, corners = "momf-branin-currin", {"branin": (-1.0, 0.0), "currin": (-1.0, 0.0)}

    def __init__(self):
        from botorch.test_functions.multi_objective_multi_fidelity import MOMFBraninCurrin

        self._function = MOMFBraninCurrin()
        super().__init__(2)

    def function(self, x, fidelity):
        import torch

        return self._function(torch.tensor(np.c_[x, np.full(len(x), fidelity)])).numpy()


class Park(Formula):
    """BoTorch's MOMFPark: 4 variables, 2 objectives. The best hypervolume that BoTorch names is
    surpassed by a search."""

    name, corners = "momf-park", {"park1": (-0.5, 0.0), "park2": (-0.5, 0.0)}

    def __init__(self):
        from botorch.test_functions.multi_objective_multi_fidelity import MOMFPark

        self._function = MOMFPark()
        super().__init__(4)

    def function(self, x, fidelity):
        import torch

        return self._function(torch.tensor(np.c_[x, np.full(len(x), fidelity)])).numpy()


class DTLZ2(Formula):
    """pymoo's DTLZ2: 7 variables, 3 objectives; below full fidelity every objective is biased, less
    the nearer it is. Searchers are told what such a formula of distances shows, that none is below 0."""

    name, corners = "dtlz2", {"f1": (0.0, 2.0), "f2": (0.0, 2.0), "f3": (0.0, 2.0)}
    ideals = {"f1": 0.0, "f2": 0.0, "f3": 0.0}

    def __init__(self):
        import pymoo.problems.many.dtlz as pymoo

        self._function = pymoo.DTLZ2(n_var=7, n_obj=3)
        super().__init__(7)

    def function(self, x, fidelity):
        return self._function.evaluate(x) + 0.3 * (1 - fidelity) * (1 + np.sin(5 * x[:, :3]))

    def best(self):
        return 1 - np.pi / 6 / 8  # all of the box but an eighth of the unit ball


class Table(Problem):
    """What trials of the real trainable measured: every point of a finite space at every rung,
    some points by several seeds. A pretended trial is one of the recorded ones; the truth is
    the mean over seeds."""

    name = "table"
    proxies = {"latency_ms": "generation_flops"}

    def __init__(self, path: Path = TABLES / "quickstart.parquet"):
        import pyarrow.parquet

        space = load(TABLES / "quickstart.yaml")
        self.objectives, self.rungs, self.dimensions = space.objectives, space.rungs, dict(space.dimensions)
        self.ideals = problem(space).ideals
        self.runs: dict[str, dict[int, list[dict]]] = {}
        for row in pyarrow.parquet.read_table(path).to_pylist():
            self.runs.setdefault(row["point"], {}).setdefault(row["seed"], []).append(row)
        if len(self.runs) < space.size():
            raise SystemExit(f"the table holds {len(self.runs)} of {space.size()} points; "
                             "record the rest first")
        self.full = float(np.mean([run[-1]["seconds"] for runs in self.runs.values()
                                   for run in runs.values()]))
        self.corners = self.corners_of()

    def corners_of(self) -> dict[str, tuple[float, float]]:
        """The box that all points span, up to a quantile of them."""
        means, found = [self._mean(point) for point in self.runs], {}
        for item in self.objectives:
            best, worst = (0.0, WORST) if item.direction == "minimize" else (1.0, 1 - WORST)
            column = [mean[item.metric] for mean in means]
            found[item.metric] = (float(np.quantile(column, best)), float(np.quantile(column, worst)))
        return found

    def _mean(self, point: str) -> dict[str, float]:
        runs = self.runs[point].values()
        return {item.metric: float(np.mean([run[-1][item.metric] for run in runs]))
                for item in self.objectives}

    def trial(self, values, rng):
        runs = self.runs[json.dumps(dict(values), sort_keys=True)]
        run, before = runs[sorted(runs)[int(rng.integers(len(runs)))]], 0.0
        names = [*(item.metric for item in self.objectives), *self.proxies.values()]
        for row in run:
            yield row["seconds"] - before, {name: row[name] for name in names if row.get(name) is not None}
            before = row["seconds"]

    def truth(self, values):
        return self._mean(json.dumps(dict(values), sort_keys=True))

    def best(self):
        return max_volume(self, [self._mean(point) for point in self.runs])


class TableByRatio(Table):
    """The same trials with latencies as they are told today: the multiple of the base's, which took turns
    with them, by what the base takes on a quiet machine at as many steps. As they were recorded, 30 % are
    over 1.5 times the median of their kind, for a neighbor was busy."""

    name = "table-by-ratio"

    def __init__(self):
        super().__init__()
        last = [(json.loads(point)["sampling.steps"], run[-1]) for point, runs in self.runs.items()
                for run in runs.values()]
        quiet = {steps: float(np.quantile([row["latency_ms"] / row["latency_ms_ratio"] for of, row in last
                                           if of == steps], QUIET)) for steps, _ in last}
        for steps, row in last:
            row["latency_ms"] = row["latency_ms_ratio"] * quiet[steps]
        self.corners = self.corners_of()


def max_volume(problem: Problem, truths: list[dict[str, float]]) -> float:
    """Hypervolume of the front of true measurements."""
    return problem.box.hypervolume(matrix(truths, problem.objectives))


PROBLEMS = {cls.name: cls for cls in (BraninCurrin, Park, DTLZ2, Table)}
