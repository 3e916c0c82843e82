"""Strict YAML: safe, one document, no duplicate keys, numbers as people write them, and
the line of every key.

PyYAML follows YAML 1.1: `1e-3` is text, `on` is true, `1:30` is 90, and the last of two equal keys
wins in silence. Here plain scalars follow the YAML 1.2 core rules instead, in writing too, so that
a round trip is exact.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer

from spaces.errors import UserError
from spaces.values import PLAIN, cut, dotted, show

Path = tuple[str | int, ...]
_MOST_NODES, _DEEPEST = 100_000, 50


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


_LOADERS: list[Any] = [_Loader]
"""To be tried in turn. libyaml's parser, where PyYAML has it, takes a fifth of the time; composing stays in
Python, whose depth is bounded."""
if yaml.__with_libyaml__:
    class _Quick(Composer, yaml.CSafeLoader):
        yaml_implicit_resolvers: dict = {}

        def __init__(self, text: str):
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

    _LOADERS.insert(0, _Quick)
_UNLIKE = re.compile(r"[\t?!]|[|>]\S*#")
"""What libyaml takes and PyYAML's own parser, whose word counts, refuses; tags for those before a comma."""

for _name, _pattern, _first in PLAIN:
    for _class in [*_LOADERS, _Dumper]:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)


@dataclass(frozen=True)
class Document:
    """Plain values of a YAML text, and the line (from 1) where each key path starts."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)


def read(text: str, source: str) -> Document:
    """Parse one YAML document. Raises `UserError` with source, line and column, on one line."""
    _check_readable(text, source)
    try:
        node = _node(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UserError(f"{place}: malformed YAML: {error.problem}{context}") from None
    except ValueError as error:  # "\U00110000", a character that there is not
        raise UserError(f"{source}: malformed YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{source}: malformed YAML: nested deeper than {_DEEPEST} levels") from None
    if node is None:
        return Document(None)
    builder = _Builder(source)
    return Document(builder.build(node, ()), builder.lines)


def _node(text: str) -> yaml.Node | None:
    """Of the one document of a text. Raises yaml.YAMLError."""
    for loader in [_Loader] if _UNLIKE.search(text) else _LOADERS:
        reading = loader(text)
        try:
            return reading.get_single_node()
        except yaml.YAMLError:
            if loader is _Loader:  # its words are for people, and it takes some texts that libyaml refuses
                raise
        finally:
            reading.dispose()
    return None


def write(data: Any) -> str:
    """YAML text that `read` turns back into `data`; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110,
                     default_flow_style=None)


def _check_readable(text: str, source: str) -> None:
    """Raises `UserError` naming the first character that YAML forbids."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise UserError(f"{source}:{line}: character U+{ord(found[0]):04X} is not allowed; "
                        "is this a text file?")


class _Builder:
    """Turns YAML nodes into dicts, lists and scalars, noting lines and refusing what a space cannot hold."""

    def __init__(self, source: str):
        self.source, self.nodes = source, 0
        self.lines: dict[Path, int] = {}

    def fail(self, node: yaml.Node, path: Path, message: str) -> UserError:
        where = f"{dotted(path)}: " if path else ""
        mark = node.start_mark
        return UserError(f"{self.source}:{mark.line + 1}:{mark.column + 1}: {where}{message}")

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > _MOST_NODES or len(path) > _DEEPEST:  # also ends aliases that contain themselves
            raise self.fail(node, path[:5], "too large or too deep: an alias that repeats itself?")
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        raise self.fail(node, path,
                        f"tag {show(node.tag)} is not allowed; legal: mappings, lists, text, numbers")

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = self.scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                raise self.fail(key_node, path, "keys must be text; put quotes around it")
            if name in result:
                first = self.lines[(*path, name)]
                raise self.fail(key_node, (*path, name), f"key given twice, first on line {first}; keep one")
            result[name] = self.build(value_node, (*path, name))
            self.lines[(*path, name)] = key_node.start_mark.line + 1
        return result

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            return self.number(node, path)
        if kind == "str":
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise self.fail(node, path, "text holds half a surrogate pair")
            return text
        raise self.fail(node, path,
                        f"tag {show(node.tag)} is not allowed; legal: text, numbers, true, false, null")

    def number(self, node: yaml.ScalarNode, path: Path) -> int | float:
        text = node.value.replace("_", "").lower()
        try:
            value = float(text.replace(".", "", 1) if text.lstrip("+-.") in ("inf", "nan") else text)
            whole = int(text) if math.isfinite(value) and "." not in text and "e" not in text else None
        except ValueError:
            raise self.fail(node, path, f"{cut(node.value)} is not a number") from None
        if not math.isfinite(value) or whole is not None and not -(2**63) <= whole < 2**63:
            raise self.fail(node, path, f"{cut(node.value)} cannot be stored; legal: finite, below 2^63")
        if whole is None and "." not in text and value.is_integer() and abs(value) < 2**53:
            return int(value)  # 1e3 counts as the whole number 1000
        return value if whole is None else whole
