"""The plug-ins that a space reaches, at every combination of searched values, and the key to blame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from spaces import points
from spaces.config import PluginRef
from spaces.errors import UserError
from spaces.rules import tree_at, trial_tree
from spaces.schema import Space
from spaces.values import show
from trainable.registry import (
    ADAPTER_STARTS,
    BACKBONES,
    BODIES,
    CORPORA,
    CORRECTIONS,
    PHRASES,
    POST_TRAINING,
    PROCESSES,
    QUANTIZERS,
    TASKS,
    TOKEN_WEIGHTS,
    Registry,
)

KINDS: tuple[tuple[str, Registry], ...] = (
    ("model", BACKBONES),
    ("diffusion", PROCESSES),
    ("corpus.source", CORPORA),
    ("quantization.quantizer", QUANTIZERS),
    ("quantization.per_site", QUANTIZERS),
    ("quantization.body", BODIES),
    ("lora.start", ADAPTER_STARTS),
    ("calibration.method", POST_TRAINING),
    ("calibration.transforms", POST_TRAINING),
    ("calibration.token_weight", TOKEN_WEIGHTS),
    ("calibration.corrections", CORRECTIONS),
    ("evaluation.control_tasks", TASKS),
    ("evaluation.guidance.phrases", PHRASES),
)


_LONG = 80  # characters of a plug-in's parameters in a message


@dataclass(frozen=True)
class PluginUse:
    """A plug-in that the space reaches: its path, what it is there, and the searched values
    that lead to it."""

    path: str
    registry: Registry
    value: Any
    point: points.Point
    index: int | None = None

    @property
    def ref(self) -> PluginRef:
        return PluginRef.model_validate(self.value)

    @property
    def fixed(self) -> set[str]:
        """The parameters that are not searched."""
        return {name for name in self.ref.params if f"{self.path}.{name}" not in self.point}

    @property
    def label(self) -> str:
        """`fixed Q0i0f`, or the name with its parameters."""
        params = self.ref.params
        if params.keys() == {"int_bits", "frac_bits"}:
            return f"{self.ref.name} Q{params['int_bits']}i{params['frac_bits']}f"
        return f"{self.ref.name} {show(params, _LONG)}" if params else self.ref.name


def uses(space: Space) -> Iterator[PluginUse]:
    """Plug-ins at every combination of the searched values that decide about them; see `points.reachable`."""
    for base, registry in KINDS:
        yield from uses_of(space, base, registry)
    inside = [path for path in space.dimensions if f"{path}.".startswith(("sampling.sampler.", "diffusion."))]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        process = PROCESSES.get(tree_at(tree, "diffusion.name"))
        yield PluginUse("sampling.sampler", process.samplers, tree_at(tree, "sampling.sampler"), point)


def uses_of(space: Space, base: str, registry: Registry) -> Iterator[PluginUse]:
    """The plug-ins at one path."""
    inside = [path for path in space.dimensions if f"{path}.".startswith(f"{base}.")]
    for point in points.reachable(space.dimensions, inside):
        found = tree_at(trial_tree(space.form, point), base)
        if base == "quantization.per_site":
            yield from (PluginUse(f"{base}.{site}", registry, value, point) for site, value in found.items())
        elif isinstance(found, list):
            yield from (PluginUse(base, registry, value, point, index) for index, value in enumerate(found))
        else:
            yield PluginUse(base, registry, found, point)


def unusable(space: Space, use: PluginUse, message: str) -> UserError:
    """Blames the key that the user has to change: a choice, a searched parameter, or a fixed setting."""
    parameter, kind = _failing_parameter(use)
    hint = _condition(space, use, parameter) if kind == "extra_forbidden" else ""
    for path, value in use.point.items():
        if f"{use.path}.".startswith(f"{path}."):
            choices = [json.dumps(choice) for choice in space.dimensions[path].choice or ()]
            return space.error(("search", path, "choice", choices.index(json.dumps(value))), message)
    searched = [path for path in use.point if path.startswith(f"{use.path}.")]
    culprit = f"{use.path}.{parameter}"
    if culprit in searched or searched and parameter not in use.fixed:
        blamed = culprit if culprit in searched else searched[-1]
        return space.error(("search", blamed),
                           f"the space reaches {use.label}: {message}{hint or '; narrow it'}")
    key = ("trial", *use.path.split("."), *(() if use.index is None else (use.index,)))
    needed = _needed(use, parameter, kind)
    if needed:
        word = "DIR" if "path" in needed else "VALUE"
        why = (f"{use.registry.kind} {use.ref.name!r} needs it" if parameter
               else message.partition("; parameters:")[0])
        return space.error((*key, needed), f"{why}; give it with --set trial.{use.path}.{needed}={word}")
    return space.error((*key, parameter) if parameter else key, message + hint)


def _failing_parameter(use: PluginUse) -> tuple[str, str]:
    """Which parameter is wrong and pydantic's word for how; empty where it is the combination."""
    if use.ref.name not in use.registry.entries:
        return "name", ""
    try:
        use.registry.get(use.ref.name).Params(**use.ref.params)
    except ValidationError as error:
        first = error.errors()[0]
        return str(first["loc"][0]) if first["loc"] else "", first["type"]
    return "", ""


def _needed(use: PluginUse, parameter: str, kind: str) -> str | None:
    """The required parameter that was left out or null, if that is what is wrong."""
    empty = [name for name, value in use.ref.params.items() if value is None]
    if kind == "missing" or parameter in empty:
        return parameter
    return empty[0] if empty and not parameter else None


def _condition(space: Space, use: PluginUse, parameter: str) -> str:
    """Where the plug-in's name is searched: the condition that keeps a parameter with those that have it."""
    name, entries = f"{use.path}.name", use.registry.entries
    if name not in space.dimensions:
        return ""
    known = [value for value in space.dimensions[name].values() if value in entries]
    have = [value for value in known if parameter in use.registry.get(value).Params.model_fields]
    return f"; search it with when: {{{name}: [{', '.join(have)}]}}" if have else ""
