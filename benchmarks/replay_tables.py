"""The two tables of docs/search.md from benchmarks/results/replay.json: `python -m benchmarks.replay_tables`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS

TITLES = {
    "momf-branin-currin": "momf-branin-currin (2 objectives)", "momf-park": "momf-park (2)", "dtlz2": "dtlz2 (3)",
    "table": "table (4)",
}
METHODS = {
    "random": "random", "qmc": "qmc", "grid": "grid, shuffled", "nsga2": "nsga2", "nsga3": "nsga3",
    "tpe": "tpe, every trial to its end", "tpe+halving-front": "tpe + halving", "gp": "gp", "cqr": "cqr",
    "ehvi": "ehvi, every trial to its end", "ehvi+halving-front": "**ehvi + halving, the default**",
    "ehvi+promotion": "ehvi + promotion",
}
DEFAULT = "ehvi+halving-front"
AIMS = {"random": "0.20", "tpe": "0.33"}
SEEDS = 20
"""A number of seeds that goes without saying."""


def main() -> None:
    print("\n\n".join(tables(json.loads((RESULTS / "replay.json").read_text()))))


def tables(figures: dict[str, Any]) -> tuple[str, str]:
    """Device-time until the goal, and the default's share of it, as Markdown."""
    times = [["method", *TITLES.values()]]
    for method, title in METHODS.items():
        longest = figures["full_trials"][method]
        rows = [figures["problems"][name]["methods"].get(method) for name in TITLES]
        times.append([title, *(cell(row, longest) if row else "" for row in rows)])
    shares = [["against", *TITLES, "geometric mean", "aimed at"]]
    told = figures[f"{DEFAULT}_as_share_of"]
    for method in [method for method in METHODS if method in told]:
        intervals = ["{:.2f} [{:.2f}, {:.2f}]".format(*told[method][name]) for name in TITLES]
        shares.append([METHODS[method], *intervals, f"{told[method]['geometric mean']:.2f}", AIMS.get(method, "")])
    return markdown(times), markdown(shares)


def cell(row: dict[str, Any], longest: float) -> str:
    """Time to the goal with its interval where most runs got there, else how many did; the hypervolume; odd seeds."""
    (time, low, high), reached = row["time_to_goal"], row["reached_goal"]
    if reached == 0:
        text = f"> {longest:g}"
    elif time is None:
        text = f"{reached:.0%} in {longest:g}"
    else:
        end = "-" if high is None else f"{high:.3g}"
        text = f"{time:.3g} [{low:.3g}, {end}]" + (f", {reached:.0%}" if reached < 0.95 else "")
    return f"{text} ({row['hypervolume_share'][0]:.2f})" + ("" if row["seeds"] == SEEDS else f", {row['seeds']} seeds")


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table; the first is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


if __name__ == "__main__":
    main()
