"""Reads text back with the grammar that wrote the built-in corpus: the most probable derivation,
or the best cover.

The productions are those of `corpora.restaurant.rules`, taken as a probabilistic context-free grammar
(weights of a symbol's productions, an optional slot filled as often as the generator fills it). That a field
is said only once is not asked for, so the reader accepts a little more than the generator writes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from trainable.control.oracles.base import Oracle, Reading
from trainable.control.oracles.brackets import reading_of
from trainable.corpora.restaurant.grammar import OPTIONAL_SHARE, Slot, parse, productions
from trainable.corpora.restaurant.lexicon import LEAVES

UNREAD = "X"
SENTENCES = ("first", "nameless", "more", "filler")
"""The symbols that the generator strings together to a text."""

_LEAF = re.compile(r"\(([A-Z]+) ([^\s()]+)\)")


class _Item(NamedTuple):
    """One step of a production: a word (`symbol` False) or a symbol."""

    name: str
    symbol: bool
    optional: bool


class _Rule(NamedTuple):
    log_weight: float
    template: tuple[str | Slot, ...]
    items: tuple[_Item, ...]


class _Found(NamedTuple):
    """The best derivation of a symbol over some words: log-probability, its rule, and its slots' ends
    (-1: left out)."""

    log_p: float
    rule: _Rule
    slots: tuple[tuple[str, int, int], ...]


def folded(word: str) -> str:
    """How words are compared: without case, and `an` is `a`."""
    word = word.lower()
    return "a" if word == "an" else word


@cache
def _alone() -> dict[str, str]:
    """The tag that each (folded) word has most often among the productions: what it is where
    nothing tells more."""
    counts: dict[str, Counter[str]] = {}
    for rules in _rules()[0].values():
        for rule in rules:
            for tag, word in _LEAF.findall(" ".join(part for part in rule.template if isinstance(part, str))):
                counts.setdefault(folded(word), Counter())[tag] += 1
    return {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}


@cache
def _rules() -> tuple[dict[str, tuple[_Rule, ...]], dict[str, frozenset[str]]]:
    """Every symbol's rules, and the (folded) words that each symbol can begin with."""
    table = {symbol: [(entry.weight, entry.template) for entry in entries]
             for symbol, entries in productions().items()}
    for symbol, leaf in LEAVES.items():
        table[symbol] = [(1, parse(text)) for say in leaf.say.values() for text in say]
    rules: dict[str, tuple[_Rule, ...]] = {}
    for symbol, entries in table.items():
        total = sum(weight for weight, _ in entries)
        rules[symbol] = tuple(_Rule(math.log(weight / total), template, _items(template))
                              for weight, template in entries)
    first: dict[str, frozenset[str]] = {}

    def begin(symbol: str) -> frozenset[str]:
        if symbol not in first:
            words: set[str] = set()
            for rule in rules[symbol]:
                for item in rule.items:
                    words |= begin(item.name) if item.symbol else {item.name}
                    if not item.optional:
                        break
                else:
                    raise ValueError(f"symbol {symbol} can be empty")
            first[symbol] = frozenset(words)
        return first[symbol]

    for symbol in rules:
        begin(symbol)
    return rules, first


def _items(template: tuple[str | Slot, ...]) -> tuple[_Item, ...]:
    items: list[_Item] = []
    for part in template:
        if isinstance(part, Slot):
            items.append(_Item(part.symbol, True, part.optional))
        else:
            items += [_Item(folded(word), False, False) for _, word in _LEAF.findall(part)]
    return tuple(items)


class _Chart:
    """All best derivations over one text, found on demand: the grammar has no recursion and
    no empty symbol."""

    def __init__(self, words: Sequence[str]):
        self.words = [folded(word) for word in words]
        self.rules, self.first = _rules()
        self._known: dict[tuple[str, int], dict[int, _Found]] = {}

    def find(self, symbol: str, start: int) -> dict[int, _Found]:
        """End position -> best derivation of `symbol` from `start`."""
        key = symbol, start
        found = self._known.get(key)
        if found is None:
            found = {}
            if start < len(self.words) and self.words[start] in self.first[symbol]:
                for rule in self.rules[symbol]:
                    for end, (log_p, slots) in self._match(rule, start).items():
                        if end not in found or log_p > found[end].log_p:
                            found[end] = _Found(log_p, rule, slots)
            self._known[key] = found
        return found

    def _match(self, rule: _Rule, start: int) -> dict[int, tuple[float, tuple]]:
        """End position -> (log-probability, slots) for one rule."""
        front: dict[int, tuple[float, tuple]] = {start: (rule.log_weight, ())}
        for item in rule.items:
            ahead: dict[int, tuple[float, tuple]] = {}
            for at, (log_p, slots) in front.items():
                if not item.symbol:
                    if at < len(self.words) and self.words[at] == item.name:
                        ahead[at + 1] = log_p, slots
                    continue
                if item.optional:
                    _keep(ahead, at, log_p + _LEFT_OUT, (*slots, (item.name, at, -1)))
                    log_p += _FILLED
                for end, below in self.find(item.name, at).items():
                    _keep(ahead, end, log_p + below.log_p, (*slots, (item.name, at, end)))
            if not ahead:
                return ahead
            front = ahead
        return front

    def brackets(self, symbol: str, start: int, end: int) -> str:
        """The derivation as bracketed text, with the grammar's own words."""
        found = self.find(symbol, start)[end]
        slots, pieces = iter(found.slots), []
        for part in found.rule.template:
            if isinstance(part, str):
                pieces.append(part)
            else:
                name, at, till = next(slots)
                pieces.append(self.brackets(name, at, till) if till >= 0 else "")
        return "".join(pieces)


_FILLED, _LEFT_OUT = math.log(OPTIONAL_SHARE), math.log(1 - OPTIONAL_SHARE)


def _keep(ahead: dict, end: int, log_p: float, slots: tuple) -> None:
    if end not in ahead or log_p > ahead[end][0]:
        ahead[end] = log_p, slots


Step = tuple[str | None, int, int]
"""Symbol (None: the word itself), first position, position behind the last."""


def _cover(chart: _Chart, symbols: Sequence[str], alone: bool) -> list[Step] | None:
    """The fewest derivations of `symbols` that cover the text in order, the most probable of these;
    None without one.

    With `alone`, a word may stand for itself, which counts as two pieces: only where no symbol covers it.
    """
    size = len(chart.words)
    best: list[tuple[int, float, Step] | None] = [(0, 0.0, (None, size, size))] * (size + 1)
    for start in range(size - 1, -1, -1):
        word = chart.words[start]
        options: list[tuple[int, float, Step]] = []
        if alone and (rest := best[start + 1]) is not None:
            options.append((rest[0] + 2, rest[1], (None, start, start + 1)))
        for symbol in symbols:
            if word in chart.first[symbol]:
                options += [(rest[0] + 1, rest[1] + found.log_p, (symbol, start, end))
                            for end, found in chart.find(symbol, start).items()
                            if (rest := best[end]) is not None]
        best[start] = (min(options, key=lambda option: (option[0], -option[1], option[2][1:])) if options
                       else None)
    steps: list[Step] = []
    at = 0
    while at < size:
        here = best[at]
        if here is None:
            return None
        steps.append(here[2])
        at = here[2][2]
    return steps


class GrammarOracle(Oracle):
    """The grammar of the built-in corpus: exact on its own texts, the fewest readable pieces on
    texts with mistakes."""

    name = "grammar"
    provides = frozenset({"tags", "spans"})

    def read(self, words: Sequence[str]) -> Reading:
        """The most probable derivation. Case and a/an are not looked at.

        A text that is not a row of whole sentences is covered by the fewest pieces that the grammar can write
        (the most probable of these), hung under one S; a word that no piece covers stands without a bracket,
        with the tag that it has most often in the grammar, X where the grammar does not know it. `whole`
        tells such texts apart.
        """
        return _read(tuple(words)) if words else Reading((), (), False)


# tasks ask for the tags and the spans of the same text, and for several targets of it
@lru_cache(maxsize=1024)
def _read(words: tuple[str, ...]) -> Reading:
    chart = _Chart(words)
    steps = _cover(chart, SENTENCES, alone=False)
    whole = steps is not None
    if steps is None:
        steps = _cover(chart, tuple(chart.rules), alone=True) or []
    pieces = [chart.brackets(symbol, start, end) if symbol is not None
              else f"({_alone().get(chart.words[start], UNREAD)} {chart.words[start]})"
              for symbol, start, end in steps]
    text = pieces[0] if whole and len(pieces) == 1 else f"(S {' '.join(pieces)})"
    return reading_of(text, whole)._replace(whole=whole)


