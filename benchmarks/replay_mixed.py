"""Two problems for `benchmarks.replay` with conditional dimensions of all kinds, made up after what trials of
quantized, adapted and sampled models show.

A quantizer has its own width, an adapter its own rank, a sampler its own noise; quality has a valley over
learning rate and temperature, an adapter takes back a part of what a quantizer costs, and the more the longer
it is trained, so that lower rungs are biased, the most for coarse quantizers. Sizes are exact at every rung.
Corners of the boxes are the best and the 0.75 quantile of evenly drawn points, beyond the unquantized size.
Shapes and constants are ours and taken from no model; the best fronts come from long noiseless searches
(`benchmarks.replay_fronts`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from benchmarks.replay_problems import Formula
from search.samplers.encoding import PointEncoder
from spaces.dimensions import Dimension
from spaces.objectives import Objective


class Mixed(Formula):
    """`formula(columns, fidelity)` of a dimension's values (NaN where it is not active) by path -> values by
    metric, float [n] each."""

    space: Mapping[str, dict]
    maximized: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    """Metrics without noise."""

    def __init__(self):
        super().__init__(0)
        self.dimensions = {path: Dimension(**given) for path, given in self.space.items()}
        self.points = PointEncoder(self.dimensions)
        self.objectives = [Objective(metric, "maximize" if metric in self.maximized else "minimize")
                           for metric in self.corners]

    @abstractmethod
    def formula(self, columns: Mapping[str, np.ndarray], fidelity: float) -> dict[str, np.ndarray]:
        """The formula."""

    def function(self, rows, fidelity):
        columns = {}
        for (path, item), column in zip(self.points.dimensions.items(), rows.T, strict=True):
            names = np.array([*(item.choice or ()), None], dtype=object)
            columns[path] = (names[np.where(np.isnan(column), -1, column).astype(int)] if item.choice
                             else column)
            if item.choice and not any(isinstance(value, str) for value in item.choice):
                columns[path] = columns[path].astype(float)
        found = self.formula(columns, fidelity)
        return np.column_stack([found[metric] for metric in self.corners])

    def _values(self, values, fidelity):
        return self.function(self.points.rows([values]), fidelity)[0]

    def spread(self):
        return super().spread() * [metric not in self.exact for metric in self.corners]


class MixedQuantizers(Mixed):
    """10 dimensions, 5 to 8 of them active at once, 3 objectives: uniform codes in groups or a codebook of
    blocks, with or without a low-rank adapter, at any learning rate, number of steps and temperature."""

    name = "mixed-quantizers"
    corners = {"loss": (3.7, 5.7), "time": (0.06, 0.7), "size": (0.04, 1.1)}
    ideals = {"loss": 3.6, "time": 0.0, "size": 0.0}
    exact = ("size",)
    space = {
        "quantizer": {"choice": ["none", "uniform", "codebook"]},
        "uniform.bits": {"int": [2, 8], "when": {"quantizer": ["uniform"]}},
        "uniform.group": {"choice": [16, 64, 256], "when": {"quantizer": ["uniform"]}},
        "codebook.entries": {"choice": [4, 16, 64, 256], "when": {"quantizer": ["codebook"]}},
        "codebook.block": {"choice": [1, 2, 4], "when": {"quantizer": ["codebook"]}},
        "adapter": {"choice": ["none", "lora"]},
        "lora.rank": {"int": [1, 16], "when": {"adapter": ["lora"]}},
        "lr": {"log": [1e-4, 1e-1]},
        "steps": {"int": [5, 50], "step": 5},
        "temperature": {"float": [0.3, 1.0]},
    }

    def formula(self, columns, fidelity):
        uniform, codebook = columns["quantizer"] == "uniform", columns["quantizer"] == "codebook"
        lora, rank = columns["adapter"] == "lora", np.nan_to_num(columns["lora.rank"])
        entries, block = columns["codebook.entries"], columns["codebook.block"]
        bits, group = columns["uniform.bits"], columns["uniform.group"]
        width = np.select([uniform, codebook], [bits + 16 / group, np.log2(entries) / block + 0.1], 16.0)
        error = np.select([uniform, codebook], [2.0 ** (1 - bits) * (group / 64) ** 0.25,
                                                0.7 * entries ** (-1 / block)], 0.0)
        decade = np.log10(columns["lr"])
        valley = np.exp(-((decade - np.where(lora, -2.2, -3.0)) / 0.8) ** 2)
        mended = np.where(lora, 0.3 + 0.55 * rank / (rank + 3), 0.3) * valley * fidelity ** 0.5
        loss = (3.6 * (1 + 2.5 * error * (1 - mended)) + 2 * np.maximum(0, decade + 1.8) ** 2
                + 7 / columns["steps"] + 5 * (columns["temperature"] - 0.5 - 0.3 * error) ** 2
                + (1 - fidelity) * (0.4 + 1.5 * error + 0.6 * (1 - valley)))
        pace = np.select([uniform, codebook], [0.55 + 0.03 * bits, 0.75 + 0.05 * block], 1.0)
        return {"loss": loss, "time": columns["steps"] / 50 * pace * (1 + 0.01 * rank),
                "size": (width + 0.15 * rank) / 16}


class MixedSamplers(Mixed):
    """12 dimensions, 6 to 11 of them active at once, 4 objectives: fixed-point or binary weights at some
    sites, two kinds of adapters, three samplers, guidance and temperature."""

    name = "mixed-samplers"
    corners = {"perplexity": (3.8, 7.3), "control": (0.95, 0.28), "latency": (0.07, 0.7),
               "size": (0.07, 1.1)}
    ideals = {"perplexity": 1.0, "control": 1.0, "latency": 0.0, "size": 0.0}
    maximized, exact = ("control",), ("size",)
    space = {
        "weights": {"choice": ["full", "fixed", "binary"]},
        "fixed.integer": {"int": [0, 4], "when": {"weights": ["fixed"]}},
        "fixed.fraction": {"int": [2, 8], "when": {"weights": ["fixed"]}},
        "sites": {"choice": ["embedding", "body", "all"], "when": {"weights": ["fixed", "binary"]}},
        "adapter": {"choice": ["none", "low_rank", "bottleneck"]},
        "low_rank.rank": {"choice": [2, 4, 8, 16], "when": {"adapter": ["low_rank"]}},
        "bottleneck.width": {"int": [8, 64], "step": 8, "when": {"adapter": ["bottleneck"]}},
        "sampler": {"choice": ["ancestral", "ddim", "skipping"]},
        "ddim.eta": {"float": [0.0, 1.0], "when": {"sampler": ["ddim"]}},
        "steps": {"choice": [10, 20, 50, 100]},
        "guidance": {"log": [0.01, 1.0]},
        "temperature": {"float": [0.3, 1.0]},
    }

    def formula(self, columns, fidelity):
        fixed, binary = columns["weights"] == "fixed", columns["weights"] == "binary"
        whole, fraction = columns["fixed.integer"], columns["fixed.fraction"]
        part = np.select([columns["sites"] == "embedding", columns["sites"] == "body"], [0.35, 0.65], 1.0)
        bits = np.select([fixed, binary], [1 + whole + fraction, 1.1], 16.0)
        error = part * np.select([fixed, binary], [0.5 * np.exp(-0.9 * 2.0 ** whole)
                                                   + 0.8 * 2.0 ** -fraction, 0.55], 0.0)
        low, neck = columns["adapter"] == "low_rank", columns["adapter"] == "bottleneck"
        rank, wide = columns["low_rank.rank"], columns["bottleneck.width"]
        mended = np.select([low, neck], [0.65 * rank / (rank + 2), 0.75 * wide / (wide + 20)], 0.2)
        left = error * (1 - mended * fidelity ** 0.5) + 0.08 * (1 - fidelity)
        ddim, skipping = columns["sampler"] == "ddim", columns["sampler"] == "skipping"
        eta, steps, guidance = columns["ddim.eta"], columns["steps"], columns["guidance"]
        rough = np.select([ddim, skipping], [(8 + 14 * eta ** 2) / steps + 0.5 * (1 - eta) ** 2,
                                             16 / steps + 0.15], 30 / steps)
        heat = columns["temperature"] - 0.45 - 0.1 * ddim
        perplexity = (3.6 + rough + 6 * heat ** 2 + 8 * left) * (1 + 0.5 * guidance)
        reach = 1 / (1 + np.exp(-3 * (np.log10(guidance) + 1.3)))
        control = reach * (1 - 0.9 * left) * (1 - 0.35 * rough / (1 + rough)) + 0.05 * heat
        share = np.select([columns["sites"] == "embedding", columns["sites"] == "body"], [0.3, 0.7], 1.0)
        extra = np.select([low, neck], [0.008 * rank, 0.003 * wide], 0.0)
        cost = np.where(skipping, 0.7, 1.0) * (1 + 0.3 * guidance) * (1 + extra)
        return {"perplexity": perplexity, "control": control, "latency": steps / 100 * cost,
                "size": 1 - np.where(fixed | binary, share, 0.0) * (1 - bits / 16) + extra}


MIXED = {cls.name: cls for cls in (MixedQuantizers, MixedSamplers)}
