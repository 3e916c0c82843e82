"""What the samplers that a space reaches ask of other settings, such as blocks that rows divide into."""

from __future__ import annotations

from spaces import points
from spaces.config import PluginRef
from spaces.rules import reached, tree_at, trial_tree
from spaces.schema import Space
from trainable.registry import PROCESSES

_SAMPLER = "sampling.sampler"
_DECISIVE = ("diffusion.name", "corpus.max_length")


def check_sampler_rules(space: Space) -> None:
    """Raises `UserError` at a combination of the space where a sampler's own rule is broken."""
    inside = [path for path in space.dimensions
              if path in _DECISIVE or f"{path}.".startswith(f"{_SAMPLER}.")]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        samplers = PROCESSES.get(tree_at(tree, "diffusion.name")).samplers
        params = samplers.params(PluginRef.model_validate(tree_at(tree, _SAMPLER)))
        for rule in params.rules:
            problem = rule.problem(tree_at(tree, rule.setting), params)
            if problem:
                raise reached(inside, point, problem, ("trial", *_SAMPLER.split(".")), space.complaints)
