"""Which controller a syntactic task steers by, and how it gets it.

`counted` needs no training: what text shows about tags and phrases, read off the denoiser's posterior over
words (`trainable.control.syntax`). `trained` fits small heads on noisy latents of all times for the model at
hand (`trainable.control.heads`). docs/control.md has the measured success of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import Field

from spaces.errors import UserError
from trainable.control.base import ControlTask, TaskContext
from trainable.control.constituents import readings_of
from trainable.control.heads import Annotated, Heads, fit
from trainable.control.oracles.base import Oracle
from trainable.control.syntax import Syntax

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM

Controller = Literal["counted", "trained"]
CONTROLLER: Controller = Field(
    "counted", description="counted: from the denoiser's word posterior and counts over training text; "
                           "trained: heads fitted on the trial's own noisy latents")


class Steered(Protocol):
    """A task that is steered by counts or by heads; its parameters have a `controller`."""

    params: Any
    syntax: Syntax | None
    heads: Heads | None


def counted(task: ControlTask) -> Syntax:
    """The counts that reweighting goes by. Raises `UserError` where a trained controller stands in their
    place."""
    syntax = task.tag_counts()
    if syntax is None:
        raise UserError(f"control task '{task.name}': reweighting goes by counts; leave out "
                        "controller: trained")
    return syntax


def prepare_controller(task: Steered, context: TaskContext, oracle: Oracle) -> None:
    """Give a task its `syntax` (counts) or its `heads`; the other is None."""
    task.syntax = task.heads = None
    if task.params.controller == "counted":
        task.syntax = context.cached("syntax", oracle.full_name,
                                     make=lambda: Syntax.count(context.corpus, oracle,
                                                               read=readings_of(context, oracle)))
        return
    model, process = context.model, context.process
    if model is None or process is None:
        raise ValueError("a trained controller needs the model that it is trained for, and its process")
    data = context.cached("annotated", oracle.full_name, make=lambda: Annotated(context.corpus, oracle))
    key = "heads", oracle.full_name, id(model)
    # Heads belong to one model: tasks of one measurement share them through the context, no
    # other trial sees them.
    if key not in context.fitted:
        # no other offers gradient guidance
        context.fitted[key] = fit(cast("DiffusionLM", model), process, data)
    task.heads = context.fitted[key]
