"""Expands the productions of `rules` into bracketed trees, keeping track of which fields have been said."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random
from typing import NamedTuple

from trainable.corpora.restaurant import rules
from trainable.corpora.restaurant.lexicon import FIELDS, LEAVES, Leaf

OPTIONAL_SHARE = 0.6
"""How often an optional slot that can be filled is filled."""

_TOKEN = re.compile(r"<(\w+)(\??)>|([^\s()<>]+)/([A-Z]+)")
_ARTICLE = re.compile(r"\(DET a\)((?:[ )]|\([A-Z]+ )*)(?=[aeiou])", re.IGNORECASE)
_LEAF = re.compile(r"\(([A-Z]+) ([^\s()]+)\)")


class DeadEndError(Exception):
    """An obligatory symbol has no open production: what it would have said has been said by a sibling."""


@dataclass(frozen=True)
class Slot:
    """A symbol inside a template."""

    symbol: str
    optional: bool


Template = tuple[str | Slot, ...]


class Production(NamedTuple):
    """One way to write a symbol. It is open while all the symbols that it `needs` are."""

    weight: int
    template: Template
    needs: tuple[str, ...]


@cache
def parse(template: str) -> Template:
    """`(NP a/DET <type>)` -> ("(NP (DET a) ", Slot("type"), ")")."""
    parts: list[str | Slot] = []
    text, end = "", 0
    for match in _TOKEN.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        symbol, optional, word, tag = match.groups()
        if symbol is None:
            text += f"({tag} {word})"
        else:
            parts += [text, Slot(symbol, bool(optional))]
            text = ""
    parts.append(text + template[end:])
    return tuple(part for part in parts if part)


def _production(weight: int, text: str) -> Production:
    template = parse(text)
    return Production(weight, template, tuple(p.symbol for p in template if isinstance(p, Slot) and not p.optional))


@cache
def productions() -> dict[str, tuple[Production, ...]]:
    """Every symbol of the grammar with its productions."""
    table: dict[str, list[Production]] = {}
    symbol = ""
    for line in "\n".join((rules.FIRST, rules.LATER, rules.NOUN_PHRASES, rules.VERB_PHRASES, rules.REMARKS)).splitlines():
        if line.startswith(" "):
            weight, template = line.split(maxsplit=1)
            table[symbol].append(_production(int(weight), template))
        elif line:
            symbol = line
            table[symbol] = []
    for entry in re.sub(r"\n\s+", " ", rules.WORDS.strip()).splitlines():
        symbol, _, choices = entry.partition(":")
        for choice in choices.split(" | "):
            weight, template = re.fullmatch(r"\s*(\d+\s)?\s*(.+?)\s*", choice).groups()
            table.setdefault(symbol.strip(), []).append(_production(int(weight or 1), template))
    return {symbol: tuple(entries) for symbol, entries in table.items()}


class Grammar:
    """A generator over the productions. Deterministic: all randomness comes from the `Random` that is given.

    What is said lives in a set of open leaves, kept as the bits of an int. A leaf that says a field is open while the text
    plan has that field with a value that the leaf can say and the field is unsaid; saying it closes all leaves of the field
    and opens those for saying it again (they can say every value). Which productions of a symbol are open depends only on
    the open leaves that it can reach, and is remembered for each such set.
    """

    def __init__(self):
        self._rules = productions()
        self._bit = {symbol: 1 << i for i, symbol in enumerate(LEAVES)}
        self._field = {field: self._bits(lambda leaf, field=field: leaf.field == field) for field in FIELDS}
        self._again = self._bits(lambda leaf: leaf.again)
        self._reach = dict(self._bit)
        for symbol in self._rules:
            self._find_reach(symbol, ())
        self._open: dict[tuple[str, int], tuple[tuple[Template, ...], list[int]] | None] = {}

    def start(self, plan: dict[str, str]) -> int:
        """The leaves that are open at the beginning of a text that may say `plan`."""
        return self._bits(lambda leaf: plan.get(leaf.field) in leaf.say) & ~self._again

    def expand(self, symbol: str, plan: dict[str, str], state: int, rng: Random) -> tuple[str, int]:
        """(bracketed text, open leaves afterwards). A derivation that runs into a dead end is drawn again."""
        if not self._is_open(symbol, state):
            raise ValueError(f"nothing to say with <{symbol}> of {plan}")
        while True:
            pieces: list[str] = []
            try:
                after = self._write(symbol, plan, state, rng, pieces)
            except DeadEndError:
                continue
            return "".join(pieces), after

    def unsaid(self, state: int) -> frozenset[str]:
        """The planned fields that have still to be said."""
        fresh = state & ~self._again
        return frozenset(field for field, bits in self._field.items() if fresh & bits)

    def _bits(self, wanted: Callable[[Leaf], bool]) -> int:
        return sum(self._bit[symbol] for symbol, leaf in LEAVES.items() if wanted(leaf))

    def _find_reach(self, symbol: str, above: tuple[str, ...]) -> int:
        if symbol in above:
            raise ValueError(f"the grammar is recursive: {' > '.join((*above, symbol))}")
        if symbol not in self._reach:
            below = {part.symbol for rule in self._rules[symbol] for part in rule.template if isinstance(part, Slot)}
            reach = 0
            for part in below:
                reach |= self._find_reach(part, (*above, symbol))
            self._reach[symbol] = reach
        return self._reach[symbol]

    def _write(self, symbol: str, plan: dict[str, str], state: int, rng: Random, out: list[str]) -> int:
        if symbol in LEAVES:
            template, state = self._say(symbol, plan, state, rng)
        else:
            found = self._choices(symbol, state)
            if found is None:
                raise DeadEndError(symbol)
            templates, bounds = found
            template = templates[bisect(bounds, int(rng.random() * bounds[-1]))]
        for part in template:
            if isinstance(part, str):
                out.append(part)
            elif not part.optional:
                state = self._write(part.symbol, plan, state, rng, out)
            elif rng.random() < OPTIONAL_SHARE and self._is_open(part.symbol, state):
                mark, before = len(out), state
                try:
                    state = self._write(part.symbol, plan, state, rng, out)
                except DeadEndError:
                    del out[mark:]
                    state = before
        return state

    def _say(self, symbol: str, plan: dict[str, str], state: int, rng: Random) -> tuple[Template, int]:
        if not state & self._bit[symbol]:
            raise DeadEndError(symbol)
        leaf = LEAVES[symbol]
        value = plan[leaf.field]
        choices = leaf.say[value]
        if not leaf.again:
            own = self._field[leaf.field]
            state = state & ~own | own & self._again
        return parse(choices[0] if len(choices) == 1 else choices[int(rng.random() * len(choices))]), state

    def _choices(self, symbol: str, state: int) -> tuple[tuple[Template, ...], list[int]] | None:
        key = symbol, state & self._reach[symbol]
        if key not in self._open:
            rules = [rule for rule in self._rules[symbol] if all(self._is_open(need, state) for need in rule.needs)]
            bounds = list(accumulate(rule.weight for rule in rules))
            self._open[key] = (tuple(rule.template for rule in rules), bounds) if rules else None
        return self._open[key]

    def _is_open(self, symbol: str, state: int) -> bool:
        if symbol in LEAVES:
            return bool(state & self._bit[symbol])
        return self._choices(symbol, state) is not None


def finish(tree: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(tree, words, tags) with `an` where it must stand, capitals at sentence starts and single spaces between brackets."""
    tree = _ARTICLE.sub(lambda match: f"(DET an){match[1]}", re.sub(r"\s+(?=\))", "", re.sub(r"\s*\(", " (", tree)).strip())
    start = True

    def capital(match: re.Match) -> str:
        nonlocal start
        word = match[2][0].upper() + match[2][1:] if start else match[2]
        start = word in (".", "?")
        return f"({match[1]} {word})"

    tree = _LEAF.sub(capital, tree)
    leaves = _LEAF.findall(tree)
    return tree, tuple(word for _, word in leaves), tuple(tag for tag, _ in leaves)
