"""Phrases that training text shows, with their words: what a constituent bank draws from, counted once.

Two tables. `phrases` holds them word by word, with the tags of their neighbors. `nodes` holds what a bracket
has of its own, the words in it that stand in no bracket inside: `(S (NP it) (VP is (ADJP cheap)) .)` has the
full stop. A tree is put together of nodes, so that its words are those of many texts and not of one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainable.control.oracles.base import Oracle, Reading, Span
from trainable.control.syntax import EDGE, INDEX, readings
from trainable.control.tag_parsing import Rule, TagGrammar
from trainable.corpora.tokenized import UNK

if TYPE_CHECKING:
    from trainable.control.base import TaskContext


@dataclass
class Node:
    """A bracket, and those right inside it in order."""

    span: Span
    inside: list[Node] = field(default_factory=list)
    _last: tuple[Sequence[int], tuple[Hashable, ...]] | None = field(default=None, repr=False, compare=False)
    """What `_tagged` gave for which tags: nodes around it ask again."""

    @cached_property
    def children(self) -> list[int | Node]:
        """In order: brackets, and positions of the words that stand in none; the text's first word is 0."""
        begins, found, at = {node.span[0]: node for node in self.inside}, [], self.span[0]
        while at <= self.span[1]:
            node = begins.get(at)
            found.append(at if node is None else node)
            at = at + 1 if node is None else node.span[1] + 1
        return found

    @cached_property
    def own(self) -> list[int]:
        """Positions of the words that stand in no bracket inside."""
        return [child for child in self.children if isinstance(child, int)]

    def shapes(self, tags: Sequence[int] | None = None) -> list[Hashable]:
        """What tells nodes apart, from all that is inside to the labels right inside; first of all with the
        `tags` of the text's words, where they are known: of all inside, then of its own (its rule)."""
        known = [] if tags is None else [("tags", self._tagged(tags)), ("rule", self.rule(tags))]
        return [*known, self.shape,
                (self.span[2], *(None if isinstance(child, int) else
                                 (child.span[2], child.span[1] - child.span[0]) for child in self.children)),
                (self.span[2], *(None if isinstance(child, int) else child.span[2]
                                 for child in self.children))]

    @cached_property
    def shape(self) -> tuple[Hashable, ...]:
        """Label and children, None for a word: all brackets inside, but not where in the text."""
        return self.span[2], *(None if isinstance(child, int) else child.shape for child in self.children)

    def _tagged(self, tags: Sequence[int]) -> tuple[Hashable, ...]:
        if self._last is None or self._last[0] is not tags:
            self._last = tags, (self.span[2], *(tags[child] if isinstance(child, int) else child._tagged(tags)
                                                for child in self.children))
        return self._last[1]

    def rule(self, tags: Sequence[int]) -> Rule:
        """Label and children, tags of words and labels of brackets."""
        return self.span[2], tuple(tags[child] if isinstance(child, int) else child.span[2]
                                   for child in self.children)


def nodes_of(spans: Sequence[Span]) -> list[Node]:
    """Every bracket, outer before inner; of equal ones the first is the outer. One that crosses
    another before it is left out."""
    found: list[Node] = []
    path: list[Node] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        while path and path[-1].span[1] < span[0]:
            path.pop()
        if path and span[1] > path[-1].span[1]:
            continue
        node = Node(span)
        if path:
            path[-1].inside.append(node)
        path.append(node)
        found.append(node)
    return found


@dataclass(frozen=True)
class Rows:
    """Different rows of words seen in one place."""

    ids: Tensor
    """[K, n] word ids."""
    share: Tensor
    """[K] log of how often text showed each, as a share."""
    neighbors: Tensor
    """[K, 2] tags of the words before and behind; [K, 0] where they are not told."""

    @cached_property
    def lift(self) -> Tensor:
        """[K] log of a row's share over the product of its words' shares at their places. Times the model's
        probabilities of its words there it is, by Bayes' rule, how likely the row is, words being taken as
        independent, as the posterior gives them."""
        each = torch.zeros(self.ids.shape[1], int(self.ids.amax()) + 1).scatter_add(
            1, self.ids.T, self.share.exp().repeat(self.ids.shape[1], 1))
        return self.share - each.gather(1, self.ids.T).log().sum(0)


@dataclass(frozen=True)
class Constituents:
    """Both tables, and the rules. No phrase is a whole text, and none has a word that is unknown."""

    phrases: dict[tuple[str, int], Rows]
    """(label, words) -> such phrases."""
    nodes: dict[Hashable, Rows]
    """Shape of a node -> words of its own. Nodes with none are not there."""
    grammar: TagGrammar
    """Over the tags of all texts that a bracket spans."""

    @classmethod
    def count(cls, read: Iterable[tuple[list[int], Reading]]) -> Constituents:
        """From the `readings` of training texts."""
        phrases: defaultdict[tuple[str, int], Counter] = defaultdict(Counter)
        nodes: defaultdict[Hashable, Counter] = defaultdict(Counter)
        rules, roots = Counter[Rule](), Counter[str]()
        for ids, reading in read:
            inner = tuple(INDEX[tag] for tag in reading.tags)
            tags = (INDEX[EDGE], *inner, INDEX[EDGE])
            for first, last, label in set(reading.spans):
                row = tuple(ids[first:last + 1])
                if len(row) < len(ids) and UNK not in row:
                    phrases[label, len(row)][row, (tags[first], tags[last + 2])] += 1
            found = nodes_of(reading.spans)
            if found and found[0].span[:2] == (0, len(ids) - 1):
                roots[found[0].span[2]] += 1
                rules.update(node.rule(inner) for node in found)
            for node in found:
                own = tuple(ids[i] for i in node.own)
                if 0 < len(own) < len(ids) and UNK not in own:
                    for shape in node.shapes(inner):
                        nodes[shape][own, ()] += 1
        return cls({key: _rows(counts) for key, counts in phrases.items()},
                   {key: _rows(counts) for key, counts in nodes.items()}, TagGrammar(rules, roots))

    def node(self, node: Node, tags: Sequence[int] | None = None) -> Rows | None:
        """Rows for its words, by the closest of its shapes that text showed; of these `tags` where the
        text's are known."""
        return next((self.nodes[shape] for shape in node.shapes(tags) if shape in self.nodes), None)


def _rows(counts: Counter) -> Rows:
    numbers = torch.tensor(list(counts.values()), dtype=torch.float32)
    return Rows(torch.tensor([row for row, _ in counts]), (numbers / numbers.sum()).log(),
                torch.tensor([tags for _, tags in counts], dtype=torch.long).view(len(counts), -1))


def bank_of(context: TaskContext, oracle: Oracle) -> Callable[[], Constituents] | None:
    """What gives the constituents of a context's corpus, counted once when first asked for; None where
    the oracle brackets nothing."""
    if "spans" not in oracle.provides:
        return None
    return partial(context.cached, "constituents", oracle.full_name,
                   make=lambda: Constituents.count(readings_of(context, oracle)))


def readings_of(context: TaskContext, oracle: Oracle) -> list[tuple[list[int], Reading]]:
    """The `readings` of training text, read once."""
    return context.cached("readings", oracle.full_name,
                          make=lambda: list(readings(context.corpus, oracle)))
