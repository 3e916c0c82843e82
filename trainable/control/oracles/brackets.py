"""Bracketed trees, `(S (NP (PROPN Aromi)) (VP (AUX is) ...))`, as tags and labeled spans."""

from __future__ import annotations

import re

from trainable.control.oracles.base import Reading, Span

_TOKEN = re.compile(r"\(([^\s()]+)|([^\s()]+)|\)")


def reading_of(tree: str, whole: bool = True) -> Reading:
    """Tags and spans of a bracketed tree. Raises `ValueError` when the brackets do not close."""
    open_nodes: list[tuple[str, int, int]] = []
    tags: list[str] = []
    spans: list[tuple[int, Span]] = []
    opened = 0
    for match in _TOKEN.finditer(tree):
        label, word = match.groups()
        if label is not None:
            open_nodes.append((label, len(tags), opened))
            opened += 1
        elif word is not None:
            if not open_nodes:
                raise ValueError(f"a word outside of brackets: {word!r} in {tree[:60]!r}")
            tags.append(open_nodes[-1][0])
            # a word's own bracket is a tag, no span
            open_nodes[-1] = ("", open_nodes[-1][1], open_nodes[-1][2])
        else:
            if not open_nodes:
                raise ValueError(f"a bracket too many in {tree[:60]!r}")
            label, start, order = open_nodes.pop()
            if label and len(tags) > start:
                spans.append((order, (start, len(tags) - 1, label)))
    if open_nodes:
        raise ValueError(f"{len(open_nodes)} brackets are not closed in {tree[:60]!r}")
    return Reading(tuple(tags), tuple(span for _, span in sorted(spans)), whole)
