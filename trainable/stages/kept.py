"""What a worker keeps from trial to trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def shared(cache: dict[Any, Any], kind: str, key: str, make: Callable[[], T]) -> T:
    """Read-only objects that a worker keeps from trial to trial, newest of each kind only."""
    if cache.get(kind, (None,))[0] != key:
        cache[kind] = (key, make())
    found: T = cache[kind][1]
    return found
