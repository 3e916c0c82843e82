"""`--set key=value`: changes any key of a space file before it is checked.

Keys are those of the file, joined by dots: `budget.trials=4`, `trial.base.optim.steps=100`,
`search.lora.rank.choice=[0,8]`. Values are read as YAML. `null` takes a key away: `search.lora.rank=null`
stops searching it. `KEY+=VALUE` adds to a list: `constraints+=latency_ms <= 40`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from spaces import yaml_text
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.form import SpaceForm
from spaces.paths import PathError, put, resolve
from spaces.values import cut, did_you_mean, show

Path = tuple[str, ...]
_FORMS = ("choice", "int", "float", "log")
_DIMENSION_KEYS = tuple(item.alias or name for name, item in Dimension.model_fields.items())


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """`["key=value", ...]` as a mapping, values read as YAML. Raises `UserError` for one that is not
    `key=value`, is not YAML, or sets a key again."""
    result: dict[str, Any] = {}
    for text in texts:
        name, found, value = text.partition("=")
        name = name.strip()
        if not found or not name:
            raise UserError(f"--set {cut(text)}: should be KEY=VALUE, such as budget.trials=4")
        if name in result:
            raise UserError(f"--set {name}: given twice, as {show(result[name])} and {cut(value)}; keep one")
        result[name] = yaml_text.read(value, f"--set {name}").data
    return result


def add_named(overrides: dict[str, Any], named: Mapping[str, tuple[str, Any]], also: str) -> None:
    """Add what stands for a key: `named` maps keys to how they were given and their value (None: not given).
    `also`: how else a key is given, with {key} in it. Raises `UserError` for one that was given both ways."""
    for key, (name, value) in named.items():
        if value is None:
            continue
        if key in overrides:
            raise UserError(f"{name} and {also.format(key=key)}: the same setting twice; keep one")
        overrides[key] = value


def apply(data: Any, overrides: Mapping[str, Any]) -> tuple[Any, tuple[tuple[Path, str], ...]]:
    """A changed copy of a space's data, and per override the key path and its text, for messages.

    Raises `UserError` for what cannot be placed; whether the result is legal is for `Space` to say.
    """
    changed, named = copy.deepcopy(data), []
    for name, value in overrides.items():
        text = f"{name}={show(value)}"
        named.append((_place(changed, name, copy.deepcopy(value), f"--set {text}"), text))
    return changed, tuple(named)


def _place(data: dict[str, Any], name: str, value: Any, label: str) -> Path:
    if name.endswith("+"):
        name = name[:-1]
        value = [*_listed(data, name, label), *(value if isinstance(value, list) else [value])]
    head, _, rest = name.partition(".")
    if head not in SpaceForm.model_fields:
        raise UserError(f"{label}: unknown key {head!r}{_hint(name, head)}; legal: "
                        f"{', '.join(SpaceForm.model_fields)}")
    if not rest:
        _assign(data, head, value, label)
        return (head,)
    if head == "search":
        return ("search", *_place_dimension(_child(data, "search", label), rest, value, label))
    if head == "trial":
        _place_setting(_child(data, "trial", label), rest, value)
        return ("trial", *rest.split("."))
    node, parts = data, name.split(".")
    for part in parts[:-1]:
        node = _child(node, part, label)
    _assign(node, parts[-1], value, label)
    return tuple(parts)


def _listed(data: dict[str, Any], name: str, label: str) -> list[Any]:
    """The list that stands at `name` so far; empty where nothing does."""
    node: Any = data
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if node is not None and not isinstance(node, list):
        raise UserError(f"{label}: {name} holds {show(node)}, which is no list; set it as a whole")
    return node or []


def _hint(name: str, head: str) -> str:
    try:
        resolve(name)
    except PathError:
        return did_you_mean(head, SpaceForm.model_fields)
    return f" (did you mean 'trial.{name}'?)"


def _child(node: dict[str, Any], part: str, label: str) -> dict[str, Any]:
    """The mapping below `part`, made where it is absent; `sampler: tpe` opens to `{name: tpe}`."""
    child = node.get(part)
    if isinstance(child, str) and part in ("sampler", "scheduler"):
        child = {"name": child}
    if child is not None and not isinstance(child, dict):
        raise UserError(f"{label}: {part} holds {show(child)}, which has no keys below it; "
                        f"set {part} as a whole")
    node[part] = child if child is not None else {}
    return node[part]


def _assign(node: dict[str, Any], part: str, value: Any, label: str) -> None:
    if value is None and part in node:
        del node[part]
    else:
        node[part] = value


def _place_setting(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set below `trial:`; a null takes away what stood there."""
    put(tree, path, value)
    *parents, last = path.split(".")
    if value is None and not _nullable(path):
        node = tree
        for part in parents:
            node = node[part]
        del node[last]


def _nullable(path: str) -> bool:
    try:
        return resolve(path).problem(None) is None
    except PathError:
        return True  # the checks to come name the unknown key


def _place_dimension(search: dict[str, Any], rest: str, value: Any, label: str) -> Path:
    """Set below `search:`, whose keys are dotted paths themselves: a whole dimension, or one key of it."""
    path, parent = rest.split(".when.", 1) if ".when." in rest else (rest, "")
    head, _, tail = path.rpartition(".")
    if parent or tail not in _DIMENSION_KEYS or path in search:
        if value is None and rest not in search and not parent:
            raise UserError(f"{label}: {rest} is not searched{did_you_mean(rest, search)}; searched: "
                            f"{', '.join(search)}")
        target = _child(_child(search, path, label), "when", label) if parent else search
        _assign(target, parent or path, value, label)
        return (path, "when", parent) if parent else (path,)
    dimension = _child(search, head, label)
    if tail in _FORMS and value is not None:
        for other in (*_FORMS, "step"):
            if other != tail and not (other == "step" and tail == "int"):
                dimension.pop(other, None)
    _assign(dimension, tail, value, label)
    return (head, tail)
