"""The points of a space: which dimensions are active, how many points there are, and all of them in order.

A point is a mapping of dimension path to value that holds the active dimensions only. All functions take
the mapping of path to `Dimension` and know nothing of what the paths mean.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from spaces.dimensions import Dimension
from spaces.values import key

Dimensions = Mapping[str, Dimension]
Point = dict[str, Any]


class CycleError(ValueError):
    """Conditions that depend on each other; `paths` is the round trip."""

    def __init__(self, paths: list[str]):
        super().__init__(" -> ".join(paths))
        self.paths = paths


def order(dimensions: Dimensions) -> list[str]:
    """Paths in file order, but each after the dimensions that its conditions name. Raises `CycleError`."""
    done: dict[str, None] = {}

    def visit(path: str, trail: list[str]) -> None:
        if path in trail:
            raise CycleError([*trail[trail.index(path) :], path])
        if path not in done:
            for parent in dimensions[path].when:
                visit(parent, [*trail, path])
            done[path] = None

    for path in dimensions:
        visit(path, [])
    return list(done)


def is_active(dimension: Dimension, point: Mapping[str, Any]) -> bool:
    """Whether all conditions of `dimension` hold in `point`."""
    return all(
        parent in point and key(point[parent]) in {key(value) for value in values}
        for parent, values in dimension.when.items()
    )


def active(dimensions: Dimensions, values: Mapping[str, Any]) -> Point:
    """`values` without those of dimensions that are not active. Raises `KeyError` for an active one
    without a value."""
    point: Point = {}
    for path in order(dimensions):
        if is_active(dimensions[path], point):
            point[path] = values[path]
    return point


def complete(dimensions: Dimensions, part: Mapping[str, Any]) -> Point:
    """The point that has the values of `part` where they are active, and first values elsewhere."""
    point: Point = {}
    for path in order(dimensions):
        if is_active(dimensions[path], point):
            point[path] = part[path] if path in part else dimensions[path].values()[0]
    return point


def walk(dimensions: Dimensions) -> Iterator[Point]:
    """All points, the last dimension varying fastest. A continuous dimension stands for its two ends."""
    paths = order(dimensions)

    def below(index: int, point: Point) -> Iterator[Point]:
        if index == len(paths):
            yield dict(point)
            return
        path = paths[index]
        if not is_active(dimensions[path], point):
            yield from below(index + 1, point)
            return
        for value in dimensions[path].values():
            point[path] = value
            yield from below(index + 1, point)
        del point[path]

    return below(0, {})


def count(dimensions: Dimensions) -> int | None:
    """Number of points; None when a continuous dimension makes it infinite."""
    if not all(dimension.finite for dimension in dimensions.values()):
        return None
    total = 1
    for part in _components(dimensions):
        total *= _count_component(part)
    return total


def _components(dimensions: Dimensions) -> list[dict[str, Dimension]]:
    """Sets of dimensions that are tied by conditions, each in dependency order."""
    owner = {path: path for path in dimensions}

    def root(path: str) -> str:
        while owner[path] != path:
            path = owner[path]
        return path

    for path, dimension in dimensions.items():
        for parent in dimension.when:
            owner[root(path)] = root(parent)
    parts: dict[str, dict[str, Dimension]] = {}
    for path in order(dimensions):
        parts.setdefault(root(path), {})[path] = dimensions[path]
    return list(parts.values())


def _count_component(part: dict[str, Dimension]) -> int:
    """Points of tied dimensions. Values that all conditions treat alike are counted together,
    not one by one."""
    paths = list(part)

    def below(index: int, point: Point) -> int:
        if index == len(paths):
            return 1
        path = paths[index]
        if not is_active(part[path], point):
            return below(index + 1, point)
        groups = _alike(path, part)
        if len(groups) == 1:
            (value, size), = groups
            return size * below(index + 1, {**point, path: value})
        return sum(size * below(index + 1, {**point, path: value}) for value, size in groups)

    return below(0, {})


def _alike(path: str, part: Dimensions) -> list[tuple[Any, int]]:
    """One value of each group that no condition tells apart, with the group's size."""
    listed = [{key(v) for v in other.when[path]} for other in part.values() if path in other.when]
    named = {key(v): v for other in part.values() for v in other.when.get(path, ()) if part[path].contains(v)}
    values = part[path].values()
    total = len(values)
    unnamed = (next((value for value in values if key(value) not in named), None) if total > len(named)
               else None)
    sizes: Counter = Counter()
    example: dict[tuple, Any] = {}
    for mark_of, value in named.items():
        mark = tuple(mark_of in group for group in listed)
        sizes[mark] += 1
        example.setdefault(mark, value)
    groups = [(example[mark], size) for mark, size in sizes.items()]
    return groups + ([(unnamed, total - len(named))] if total > len(named) else [])


def can_hold(dimensions: Dimensions, path: str) -> bool:
    """Whether the conditions of the dimension at `path` hold anywhere in the space."""
    wanted = {name: dimensions[name] for name in _with_parents(dimensions, [path])}
    few = {}
    for name, item in wanted.items():
        few[name] = _choice(item,
                            [value for value, _ in _alike(name, wanted)] if item.finite else item.values())
    return any(path in point for point in walk(few))


def distinct(dimensions: Dimensions, paths: Collection[str], limit: int = 100_000) -> int:
    """How many different combinations of values the named dimensions can take together; to be inactive is a
    value too.

    Where other dimensions decide which of them are active, it is counted up to `limit`. All of them must be
    finite.
    """
    wanted = {path: dimensions[path] for path in _with_parents(dimensions, paths)}
    few = {path: item if path in paths else _choice(item, [value for value, _ in _alike(path, wanted)])
           for path, item in wanted.items()}
    if len(few) == len(paths):
        return count(few) or 0
    found: set[tuple[Any, ...]] = set()
    for point in walk(few):
        found.add(tuple(key(point[path]) if path in point else None for path in paths))
        if len(found) == limit:
            break
    return len(found)


def reachable(dimensions: Dimensions, paths: Collection[str], limit: int = 10_000) -> Iterator[Point]:
    """Every combination that the named dimensions (and those that their conditions name) can take,
    `limit` at most.

    Continuous dimensions stand for their ends. Where there are more than `limit` combinations, ranges of
    whole numbers stand for their ends too, plus the values that conditions name.
    """
    wanted = {path: dimensions[path] for path in _with_parents(dimensions, paths)}
    few = {path: item if item.finite else _choice(item, item.values()) for path, item in wanted.items()}
    size = count(few)
    if size is not None and size > limit:
        for path, item in wanted.items():
            if item.kind == "int":
                named = [v for other in wanted.values() for v in other.when.get(path, ())]
                few[path] = _choice(item, (item.low, item.high, *named))
    return itertools.islice(walk(few), limit)


def _choice(dimension: Dimension, values: Iterable[Any]) -> Dimension:
    unique = {key(value): value for value in values}
    return Dimension(choice=tuple(unique.values()), when=dimension.when)


def _with_parents(dimensions: Dimensions, paths: Collection[str]) -> list[str]:
    """The paths and everything that their conditions depend on, in file order."""
    found, todo = set(), list(paths)
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo.extend(dimensions[path].when)
    return [path for path in dimensions if path in found]
