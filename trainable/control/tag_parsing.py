"""The likeliest bracketing of a row of tags, by dynamic programming over the rules that training text shows.

A rule is a bracket's label and its children, tags and labels in order; its probability is its share among the
label's rules (a treebank grammar, Charniak 1996). Rules have as many children as text shows, so they are kept
as a trie: the chart is filled from the last word to the first, a prefix of rules at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from trainable.control.oracles.base import Span

Symbol = int | str
"""A tag by its number, or a label."""
Rule = tuple[str, tuple[Symbol, ...]]


@dataclass
class _Prefix:
    """What rules that begin alike go on with, and those that end here: label -> log-probability."""

    ahead: dict[Symbol, _Prefix] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """The best bracket of a label over some words."""

    log_p: float
    children: tuple[tuple[str, int, int], ...]
    """Label, first word and the one behind the last of each bracket inside."""


_State = tuple[float, tuple[tuple[str, int, int], ...]]


class TagGrammar:
    """Rules, and how often each label is that of a whole text."""

    def __init__(self, rules: Mapping[Rule, int], roots: Mapping[str, int]):
        totals: Counter[str] = Counter()
        for (label, _), count in rules.items():
            totals[label] += count
        self._start = _Prefix()
        for (label, children), count in rules.items():
            prefix = self._start
            for child in children:
                prefix = prefix.ahead.setdefault(child, _Prefix())
            prefix.ends[label] = math.log(count / totals[label])
        self._roots = {label: math.log(count / sum(roots.values())) for label, count in roots.items()}
        self.parse = lru_cache(maxsize=1024)(self._parse)

    def _parse(self, tags: tuple[int, ...]) -> tuple[Span, ...] | None:
        """Spans of the likeliest bracketing, outer before inner; None where no rules give the row."""
        size = len(tags)
        chart: list[list[dict[str, _Found]]] = [[{} for _ in range(size + 1)] for _ in range(size + 1)]
        for start in range(size - 1, -1, -1):
            self._fill(tags, start, chart)
        whole = {label: found.log_p + self._roots[label] for label, found in chart[0][size].items()
                 if label in self._roots} if size else {}
        if not whole:
            return None
        return tuple(_spans(chart, max(whole, key=lambda label: (whole[label], label)), 0, size))

    def _fill(self, tags: Sequence[int], start: int, chart: list[list[dict[str, _Found]]]) -> None:
        """All brackets that begin at `start`; those that begin behind it are there."""
        at: list[dict[int, tuple[_Prefix, _State]]] = [{} for _ in range(len(tags) + 1)]
        at[start][id(self._start)] = self._start, (0.0, ())
        for here in range(start, len(tags) + 1):
            if here > start:
                self._close(start, here, at, chart[start])
            for prefix, (log_p, children) in list(at[here].values()):
                if here < len(tags):
                    _reach(at[here + 1], prefix, tags[here], log_p, children)
                if here == start:  # brackets that begin here are met as they are closed
                    continue
                for end in range(here + 1, len(tags) + 1):
                    for label, found in chart[here][end].items():
                        if label in prefix.ahead:
                            _reach(at[end], prefix, label, log_p + found.log_p,
                                   (*children, (label, here, end)))

    def _close(self, start: int, end: int, at: list[dict[int, tuple[_Prefix, _State]]],
               row: list[dict[str, _Found]]) -> None:
        """Brackets from `start` to `end`, those with a single bracket inside as long as they get better."""
        fresh = list(at[end].values())
        while fresh:
            better: dict[str, float] = {}
            for prefix, (log_p, children) in fresh:
                for label, own in prefix.ends.items():
                    if label not in row[end] or log_p + own > row[end][label].log_p:
                        row[end][label] = _Found(log_p + own, children)
                        better[label] = log_p + own
            before = dict(at[end])
            for label, log_p in better.items():
                _reach(at[end], self._start, label, log_p, ((label, start, end),))
            fresh = [entry for key, entry in at[end].items() if before.get(key) is not entry]


def _reach(states: dict[int, tuple[_Prefix, _State]], prefix: _Prefix, symbol: Symbol, log_p: float,
           children: tuple[tuple[str, int, int], ...]) -> None:
    """Go on from a prefix by a symbol, where a rule does and no better way is known."""
    further = prefix.ahead.get(symbol)
    if further is not None and (id(further) not in states or log_p > states[id(further)][1][0]):
        states[id(further)] = further, (log_p, children)


def _spans(chart: list[list[dict[str, _Found]]], label: str, start: int, end: int) -> list[Span]:
    found = [(start, end - 1, label)]
    for child, first, last in chart[start][end][label].children:
        found += _spans(chart, child, first, last)
    return found

