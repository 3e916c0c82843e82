"""The schedulers by name: what stops a trial early, at a rung; `qdlm plugins schedulers` shows
their docstrings.

A scheduler is a function of a `Problem` and its own keyword options that returns
a `successive_halving.Scheduler`. One more is one function and its name in `SCHEDULERS`; the contract tests
take it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from search.options import Methods
from search.schedulers.successive_halving import NoStopping, Problem, Scheduler, SuccessiveHalving

Eta = Annotated[int, Field(ge=2, description="about the best 1/eta of the trials at a rung go on")]


def halving(problem: Problem, *, eta: Eta = 3,
            ties: Annotated[Literal["crowding", "hypervolume", "spread"], Field(
                    description="what cuts a layer")] = "crowding", brackets: Annotated[int, Field(
                            ge=1, description="with more than 1 some trials are spared the first rungs")] = 1,
            spare_front: Annotated[bool, Field(description="no trial is stopped that no rival beats")] =
            True, opening: Annotated[int, Field(
                    ge=0, description="complete trials before which trials are stopped by prediction too, "
                                      "where the space gives a box; 0: never")] = 4) -> Scheduler:
    """Asynchronous successive halving by non-dominated layers, and by prediction while few trials are
    complete. The default."""
    halving = SuccessiveHalving(problem, eta=eta, ties=ties, brackets=brackets, spare_front=spare_front)
    if not opening or not problem.dimensions or any(item.metric not in problem.box
                                                    for item in problem.objectives):
        return halving
    from search.schedulers.opening import Opening  # scipy's solvers take a moment to import

    return Opening(problem, halving, until=opening)


def promotion(
        problem: Problem, *,
        startup: Annotated[int, Field(ge=2, description="complete trials before which it is halving")] = 4,
        caution: Annotated[float, Field(ge=0, description="share of the best new proposal's worth per step "
                                        "that a trial has to be worth; 0 stops none")] = 0.3,
        eta: Eta = 3, most: Annotated[int, Field(ge=2, description="ended trials after which it is halving; "
                                                 "at least startup")] = 300,
) -> Scheduler:
    """Model-based promotion: a trial goes on while the hypervolume that it is expected to add, per step
    that is left to it, is at least `caution` times that of the best new proposal."""
    from search.schedulers.promotion import Promotion  # scipy's solvers take a moment to import

    return Promotion(problem, startup=startup, caution=caution, eta=eta, most=most)


def none(problem: Problem) -> Scheduler:
    """Every trial runs to its full budget."""
    return NoStopping(problem)


SCHEDULERS = Methods("scheduler", (halving, promotion, none))


def build(name: str, problem: Problem, chosen: Mapping[str, Any] | None = None) -> Scheduler:
    """The scheduler of that name. Raises `UserError` naming what is legal."""
    return SCHEDULERS.build(name, chosen, problem)
