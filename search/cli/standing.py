"""How far a run is, for programs, and what its devices did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.engine.cost import Ledger
    from search.pareto.front import Front
    from search.records.events import RecordedEvent
    from search.records.run_folder import RunFolder
    from spaces.schema import Space


def standing(folder: RunFolder, space: Space, found: Front, counts: Mapping[str, int],
             entries: Sequence[RecordedEvent]) -> dict[str, Any]:
    """How far a run is, for programs. `cost`: device-seconds, see `search.engine.cost`."""
    import time

    from search.engine.cost import Ledger, Rate
    from search.pareto.reference_box import Box
    from search.pareto.stability import figure as figure_of

    state, box = folder.state, folder.meta.get("box")
    account = Ledger.from_events(entries, time.time() if state == "running" else None)
    best = {item.metric: found.best(item.metric) for item in space.objectives}
    return {"run": str(folder.path), "state": state, "reason": folder.meta.get("reason"),
            "of": space.budget.trials or space.size(),
            **{name: counts.get(name, 0) for name in ("complete", "stopped", "failed")},
            "front": [row["trial"] for row in found],
            "best": {metric: row and {"trial": row["trial"], "value": figure_of(row, metric).mean,
                                      "figures": figure_of(row, metric).of}
                     for metric, row in best.items()},
            "hypervolume": found.trusted_hypervolume(Box.of(box, space.objectives)) if box else None,
            "seconds": account.elapsed,
            "cost": account.breakdown(Rate.of(space.hardware, space.budget.price))}


def cost_table(account: Ledger, space: Space) -> RenderableType:
    """What the devices that the run held did, in device-seconds, shares, and money where the
    space has a price."""
    from search.cli.format import grid, plain
    from search.engine.cost import PARTS, Rate

    cost = account.breakdown(Rate.of(space.hardware, space.budget.price))
    whole, price = cost["held"] or 1.0, space.budget.price
    names = [name for name in (*PARTS, "held") if cost[name] or name in ("useful", "held")]
    rows = [[name, f"{cost[name]:,.0f}",
             f"{cost[name] / whole:.0%}", *([plain(cost[name] / 3600 * price)] if price else []),
             f"[dim]{PARTS.get(name, 'all devices, from start to end')}[/]"] for name in names]
    columns = ["cost", f"{cost['device']}-seconds", "share", *(["money"] if price else []), "for"]
    return grid(None, columns, rows, right=columns[1:-1])
