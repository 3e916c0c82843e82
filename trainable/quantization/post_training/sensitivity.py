"""How much each site loses per choice of bits, measured once per base, and the best choice for all under a
byte budget.

Losses of sites are taken to add up, which holds while each is small; the assignment is then an integer
program (as in HAWQ-V3, arXiv 2011.10680, and LQ-LoRA, 2311.12023), and a start point for a search that
measures the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from spaces.errors import UserError

MOST_CUTS = 100
"""Assignments within the solver's tolerance above the budget that are cut off before it is given up."""


@dataclass(frozen=True)
class Cost:
    """One site quantized by one choice, everything else at full precision: bytes stored, and KL in nats a
    position."""

    site: str
    choice: str
    bytes: int
    kl: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def measure(sites: Iterable[str], choices: Sequence[str], stored: Callable[[str, str], int],
            divergence: Callable[[str, str], float]) -> list[Cost]:
    """The table: `stored` gives bytes of (site, choice), `divergence` the KL with that site alone quantized
    so."""
    return [Cost(site, choice, stored(site, choice), divergence(site, choice))
            for site in sites for choice in choices]


def kl_per_bit(table: Sequence[Cost], values: Mapping[str, int]) -> dict[str, float]:
    """Sensitivity of each site: KL saved per bit a value, between its smallest and its largest choice. 0 with
    one choice."""
    found = {}
    for site in dict.fromkeys(cost.site for cost in table):
        own = sorted((cost for cost in table if cost.site == site), key=lambda cost: cost.bytes)
        bits = 8 * (own[-1].bytes - own[0].bytes) / values[site]
        found[site] = (own[0].kl - own[-1].kl) / bits if bits else 0.0
    return found


def hessian_trace(weight: Tensor, quantized: Tensor, second_moment: Tensor) -> float:
    """HAWQ's proxy for the loss of rounding [out, in]: mean trace of H (tr H / in) times ||W - Q||^2. No
    forward pass."""
    error = (weight.double() - quantized.double()).square().sum()
    return float(second_moment.double().diagonal().mean() * error)


def assign(table: Sequence[Cost], budget: int) -> dict[str, str]:
    """The choice of each site with the least sum of KL whose bytes are at most `budget`.

    Raises `UserError` when no assignment is that small, or a KL is not a number.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not table:
        return {}
    if bad := [cost for cost in table if not np.isfinite(cost.kl)]:
        raise UserError(f"sensitivity of {bad[0].site} at {bad[0].choice} is {bad[0].kl}")
    sites = list(dict.fromkeys(cost.site for cost in table))
    least = {site: min(cost.bytes for cost in table if cost.site == site) for site in sites}
    smallest = sum(least.values())
    if smallest > budget:
        raise UserError(f"no assignment of bits to {len(sites)} sites fits {budget} bytes; "
                        f"the smallest takes {smallest}")
    # The solver's tolerances are absolute: losses are spread wide, bytes counted beyond each site's least.
    losses = np.array([cost.kl for cost in table], dtype=float)
    objective = (losses - losses.min()) / (float(np.ptp(losses)) or 1.0) * 1e4
    belongs = np.array([[cost.site == site for cost in table] for site in sites], dtype=float)
    extra = np.array([cost.bytes - least[cost.site] for cost in table], dtype=float)
    constraints = [LinearConstraint(belongs, 1, 1), LinearConstraint(extra, 0, budget - smallest)]
    for _ in range(MOST_CUTS):
        solved = milp(objective, integrality=np.ones_like(losses), bounds=Bounds(0, 1),
                      constraints=constraints, options={"mip_rel_gap": 0.0})
        if not solved.success:
            raise RuntimeError(f"integer program of {len(table)} choices: {solved.message}")
        taken = solved.x > 0.5
        chosen = [cost for cost, here in zip(table, taken, strict=True) if here]
        if sum(cost.bytes for cost in chosen) <= budget:
            return {cost.site: cost.choice for cost in chosen}
        # Above the budget by less than a tolerance: this one is cut off, and the next best asked for.
        constraints.append(LinearConstraint(taken.astype(float)[None], 0, len(sites) - 1))
    raise RuntimeError(f"integer program of {len(table)} choices: "
                       f"{MOST_CUTS} assignments just above {budget} bytes")


def smallest(table: Sequence[Cost]) -> int:
    """Bytes of the smallest assignment."""
    return sum(min(cost.bytes for cost in table if cost.site == site)
               for site in dict.fromkeys(cost.site for cost in table))


def assignments(table: Sequence[Cost], count: int, most: int | None = None) -> list[dict[str, str]]:
    """Different best assignments for `count` budgets in equal ratios from the smallest total to the largest,
    or to `most` bytes where that is less: start points. Losses fall with each bit by about the same factor,
    so that most even steps in bytes would lie where nothing is lost any more. One budget is the largest.
    Raises `UserError` where none is small enough."""
    sites = dict.fromkeys(cost.site for cost in table)
    largest = sum(max(cost.bytes for cost in table if cost.site == site) for site in sites)
    end = largest if most is None else min(most, largest)
    least = smallest(table)
    if count > 1 and 0 < least < end:
        budgets = [least, *np.geomspace(least, end, count)[1:-1].astype(int).tolist(), end]
    else:
        budgets = [end]
    found = [assign(table, budget) for budget in budgets]
    return list({tuple(each.items()): each for each in found}.values())
