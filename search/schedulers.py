"""The schedulers by name: what stops a trial early, at a rung; `qdlm plugins schedulers` shows their docstrings.

A scheduler is a function of a `Problem` and its own keyword options that returns a `halving.Scheduler`. One more is one
function and its name in `SCHEDULERS`; the contract tests take it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.halving import Halving, NoHalving, Problem, Scheduler
from search.methods import Methods


def halving(problem: Problem, *, eta: int = 3, ties: str = "crowding", brackets: int = 1,
            spare_front: bool = True) -> Scheduler:
    """Asynchronous successive halving by non-dominated layers: at each rung about the best 1/eta goes on. `ties` cuts a
    layer by crowding, hypervolume or spread; with `brackets` some trials are spared the first rungs, with `spare_front`
    all that no rival beats. The default."""
    return Halving(problem, eta=eta, ties=ties, brackets=brackets, spare_front=spare_front)


def promotion(problem: Problem, *, startup: int = 4, caution: float = 0.3, eta: int = 3, most: int = 300) -> Scheduler:
    """Model-based promotion: a trial goes on while the hypervolume that it is expected to add, per step that is left to it,
    is at least `caution` times that of the best new proposal. As halving until `startup` trials are complete and after
    `most` have ended."""
    from search.promotion import Promotion  # scipy's solvers take a moment to import

    return Promotion(problem, startup=startup, caution=caution, eta=eta, most=most)


def none(problem: Problem) -> Scheduler:
    """Every trial runs to its full budget."""
    return NoHalving(problem)


SCHEDULERS = Methods("scheduler", (halving, promotion, none))


def build(name: str, problem: Problem, chosen: Mapping[str, Any] | None = None) -> Scheduler:
    """The scheduler of that name. Raises `UserError` naming what is legal."""
    return SCHEDULERS.build(name, chosen, problem)
