"""Dotted paths into `TrialConfig`: what exists, what a value there must be, and how to put one there.

A path ends at one setting (`lora.rank`), at a whole plug-in (`quantization.quantizer`), at its name
(`quantization.quantizer.name`) or at one of its parameters (`quantization.quantizer.frac_bits`), whose legal
values only the plug-in knows: `search.run.validation` asks it.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from spaces.complaints import meaning
from spaces.config import PluginRef, Settings, TrialConfig
from spaces.values import did_you_mean

Kind = Literal["setting", "plugin", "name", "parameter"]
DECIDING: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "corpus": ("corpus",),
    "teacher": ("corpus", "teacher", "base.seed"),
    "base": ("corpus", "model", "diffusion", "base", "runtime"),
})
"""Groups of settings; trials that agree in them share the thing."""


class PathError(ValueError):
    """No such path. The message says what is legal."""


@dataclass(frozen=True)
class ResolvedPath:
    """What stands at a path: its kind, the settings class that holds it and the field's type and bounds."""

    path: str
    kind: Kind
    group: type[BaseModel]
    field: FieldInfo
    annotation: Any

    @property
    def plugin(self) -> str | None:
        """Path of the plug-in that this is, or is a part of."""
        if self.kind == "plugin":
            return self.path
        return self.path.rpartition(".")[0] if self.kind in ("name", "parameter") else None

    @property
    def group_path(self) -> str:
        """Path of the settings group whose own rules this setting takes part in."""
        return (self.plugin or self.path).rpartition(".")[0]

    def problem(self, value: Any) -> str | None:
        """Why `value` is not legal here, as one clause; None when it is. Whole numbers are
        not read from text."""
        if self.kind == "parameter":
            return None
        try:
            _adapter(self.path).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            return f"{inner.removeprefix('.')}: {meaning(first)}" if inner else meaning(first)
        return None


@cache
def _adapter(path: str) -> TypeAdapter:
    setting = resolve(path)
    annotation = setting.annotation
    for bound in setting.field.metadata if annotation is setting.field.annotation else ():
        annotation = typing.Annotated[annotation, bound]
    return TypeAdapter(annotation)


def is_group(annotation: Any) -> TypeGuard[type[Settings]]:
    """True for a class of settings that has keys of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def is_plugin(annotation: Any) -> TypeGuard[type[PluginRef]]:
    """True for a reference to a plug-in."""
    return isinstance(annotation, type) and issubclass(annotation, PluginRef)


def plugin_keys(annotation: Any) -> tuple[str, ...] | None:
    """For a mapping of names to plug-ins (`per_site`): the legal names; None for any other type."""
    if typing.get_origin(annotation) is dict and typing.get_args(annotation)[1] is PluginRef:
        return typing.get_args(typing.get_args(annotation)[0])
    return None


def number_type(annotation: Any) -> tuple[Any, Any] | None:
    """For a mapping of names to numbers (`calibration.bits`): the types of both; None for any other type."""
    if typing.get_origin(annotation) is dict and plugin_keys(annotation) is None:
        name, number = typing.get_args(annotation)
        return (name, number) if typing.get_origin(number) is typing.Annotated else None
    return None


def resolve(path: str) -> ResolvedPath:
    """What stands at `path`. Raises `PathError` naming near and legal paths."""
    group: type[BaseModel] = TrialConfig
    parts = path.split(".")
    for index, part in enumerate(parts):
        at, rest = ".".join(parts[:index]), parts[index + 1 :]
        if part not in group.model_fields:
            where = f" under {at}" if at else ""
            raise PathError(f"no such setting{did_you_mean(path, all_paths())}; legal{where}: "
                            f"{', '.join(group.model_fields)}")
        field = group.model_fields[part]
        if is_group(field.annotation):
            group = field.annotation
            continue
        return _inside(path, group, field, rest)
    raise PathError("is a group of settings; "
                    f"pick one of {', '.join(f'{path}.{name}' for name in group.model_fields)}")


def _inside(path: str, group: type[BaseModel], field: FieldInfo, rest: list[str]) -> ResolvedPath:
    """The field itself, or what `rest` names inside a plug-in or a mapping of plug-ins."""
    annotation, keys = field.annotation, plugin_keys(field.annotation)
    if keys is not None and rest:
        if rest[0] not in keys:
            raise PathError(f"{rest[0]!r} is not legal here{did_you_mean(rest[0], keys)}; legal: "
                            f"{', '.join(keys)}")
        annotation, rest = PluginRef, rest[1:]
    numbers = number_type(field.annotation)
    if numbers is not None and len(rest) == 1:
        try:
            TypeAdapter(numbers[0]).validate_python(rest[0])
        except ValidationError:
            legal = key_pattern(numbers[0])
            raise PathError(f"{rest[0]!r} is not legal here; legal: "
                            f"{f'names like {legal}' if legal else 'any name'}") from None
        return ResolvedPath(path, "setting", group, field, numbers[1])
    if is_plugin(annotation) and len(rest) <= 1:
        kind: Kind = "plugin" if not rest else "name" if rest[0] == "name" else "parameter"
        inner = annotation if kind == "plugin" else str if kind == "name" else Any
        if "" in rest:
            raise PathError("ends with a dot; name a parameter of the plug-in")
        return ResolvedPath(path, kind, group, field, inner)
    if rest:
        raise PathError("goes too deep: nothing can be named below "
                        f"{path.removesuffix('.' + '.'.join(rest))}")
    return ResolvedPath(path, "setting", group, field, annotation)


def key_pattern(annotation: Any) -> str | None:
    """The regular expression of the names of a mapping; None where any name will do."""
    found = (getattr(bound, "pattern", None) for bound in typing.get_args(annotation)[1:])
    return next((pattern for pattern in found if pattern), None)


@cache
def all_paths() -> tuple[str, ...]:
    """Every path that can be searched, plug-in parameters aside."""
    return tuple(_paths(TrialConfig, ""))


def _paths(group: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in group.model_fields.items():
        path = prefix + name
        if is_group(field.annotation):
            yield from _paths(field.annotation, path + ".")
            continue
        yield path
        if is_plugin(field.annotation):
            yield f"{path}.name"
        for inner in plugin_keys(field.annotation) or ():
            yield f"{path}.{inner}"
            yield f"{path}.{inner}.name"


def settings_in(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of a nested `trial:` tree that is legal; plug-ins come out as their name
    and parameters."""
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, dict) and not _is_plugin(path):
            yield from settings_in(value, path + ".") if value else ((path, value),)
        elif _is_plugin(path):
            reference = resolve(path).annotation.model_validate(value)
            for inner, item in reference.model_dump(mode="json", exclude_unset=True).items():
                yield f"{path}.{inner}", item
        else:
            yield path, value


def _is_plugin(path: str) -> bool:
    try:
        return resolve(path).kind == "plugin"
    except PathError:
        return False


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set `value` at the dotted `path` of a nested `trial:` tree. A plug-in on the way that is absent
    starts as the default plug-in; one in short form becomes a mapping. Mappings on the way are copied,
    never changed in place."""
    *parents, last = path.split(".")
    for index, part in enumerate(parents):
        child = tree.get(part)
        tree[part] = (dict(child) if isinstance(child, dict)
                      else _opened(child, ".".join(parents[: index + 1])))
        tree = tree[part]
    tree[last] = value


def _opened(value: Any, path: str) -> dict[str, Any]:
    """What a node that is about to get a child holds already: the long form of a plug-in, else nothing."""
    if not _is_plugin(path):
        return {}
    if isinstance(value, str):
        return resolve(path).annotation.model_validate(value).model_dump(mode="json")
    default = at(TrialConfig(), path)
    return default.model_dump(mode="json") if isinstance(default, PluginRef) else {}


def at(config: TrialConfig, path: str) -> Any:
    """The value at `path` of a built config; None when a plug-in has no such parameter or site."""
    node: Any = config
    for part in path.split("."):
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, PluginRef) and part != "name":
            node = node.params.get(part)
        else:
            node = getattr(node, part, None)
    return node


def type_text(annotation: Any) -> str:
    """A type as documentation shows it: `int`, `text`, `sqrt | cosine`, `list of ...`, `plug-in`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if is_plugin(annotation):
        return "plug-in"
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments)
    if getattr(annotation, "__name__", "") == "JsonValue":
        return "value"
    names = {str: "text", bool: "true | false", int: "whole number", float: "number", type(None): "null"}
    return names.get(annotation, annotation.__name__.lower())
