"""The tables of replayed searches in docs/search.md from benchmarks/results/replay.json
and replay_early.json: `python -m benchmarks.replay_tables`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.replay import AGAINST
from search.cli.format import emit

TITLES = {
    "momf-branin-currin": "momf-branin-currin (2 objectives)", "momf-park": "momf-park (2)",
    "dtlz2": "dtlz2 (3)", "table": "table (4)",
}
METHODS = {
    "random": "random", "qmc": "qmc", "grid": "grid, shuffled", "nsga2": "nsga2", "nsga3": "nsga3",
    "tpe": "tpe, every trial to its end", "tpe+halving-front": "tpe + halving", "gp": "gp", "cqr": "cqr",
    "ehvi": "ehvi, every trial to its end", AGAINST: "**ehvi + halving, the default**",
    "ehvi+promotion": "ehvi + promotion",
}
AIMS = {"random": "0.20", "tpe": "0.33"}
BEFORE = f"{AGAINST}-before"
EARLY = {
    "random": "random", "tpe+halving-front": "tpe + halving", BEFORE: "the default as it was",
    AGAINST: "**the default**",
}
MIXED = {"mixed-quantizers": "mixed-quantizers (3)", "mixed-samplers": "mixed-samplers (4)"}
SEEDS = 20
"""A number of seeds that goes without saying."""


def main() -> None:
    print("\n\n".join(tables(json.loads((RESULTS / "replay.json").read_text()))))
    if (early := RESULTS / "replay_early.json").exists():
        print("\n\n".join(["", *early_tables(json.loads(early.read_text()))]))


def tables(figures: dict[str, Any]) -> tuple[str, str]:
    """Device-time until the goal, and the default's share of it, as Markdown."""
    times, shares, ratios = [], [], figures[f"{AGAINST}_as_share_of"]
    for method, title in METHODS.items():
        longest = figures["full_trials"][method]
        rows = {name: figures["problems"][name]["methods"].get(method) for name in TITLES}
        times.append({"method": title,
                      **{TITLES[name]: row and cell(row, longest) for name, row in rows.items()}})
        if method in ratios:
            intervals = {name: "{:.2f} [{:.2f}, {:.2f}]".format(*ratios[method][name]) for name in TITLES}
            shares.append({"against": title, **intervals,
                           "geometric mean": f"{ratios[method]['geometric mean']:.2f}",
                           "aimed at": AIMS.get(method)})
    return emit(times, "md"), emit(shares, "md")


def early_tables(figures: dict[str, Any]) -> tuple[str, str]:
    """Hypervolume at each moment, and the default's over the other methods', as Markdown."""
    volumes, ratios = [], []
    for method, title in EARLY.items():
        rows = {name: figures["problems"][name][method] for name in TITLES | MIXED}
        volumes.append({"method": title, **{(TITLES | MIXED)[name]: " / ".join(
            f"{value[0]:.2f}" for value in row["hypervolume"]) for name, row in rows.items()}})
        if method != AGAINST:
            ratios.append({"against": title, **{name: " / ".join(f"{value[0]:.2f}" for value in row["ratio"])
                                                for name, row in rows.items()}})
    return emit(volumes, "md"), emit(ratios, "md")


def cell(row: dict[str, Any], longest: float) -> str:
    """Time to the goal with its interval where most runs got there, else how many did;
    the hypervolume; odd seeds."""
    (time, low, high), reached = row["time_to_goal"], row["reached_goal"]
    if reached == 0:
        text = f"> {longest:g}"
    elif time is None:
        text = f"{reached:.0%} in {longest:g}"
    else:
        end = "-" if high is None else f"{high:.3g}"
        text = f"{time:.3g} [{low:.3g}, {end}]" + (f", {reached:.0%}" if reached < 0.95 else "")
    return (f"{text} ({row['hypervolume_share'][0]:.2f})"
            + ("" if row["seeds"] == SEEDS else f", {row['seeds']} seeds"))


if __name__ == "__main__":
    main()
