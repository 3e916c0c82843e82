"""Phrases out of a dependency parse, for parsers that give no brackets: which runs of words hang together,
and under which label a constituency parser would have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainable.control.oracles.base import Span

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_NOMINAL = frozenset({"NOUN", "PROPN", "PRON", "NUM"})
_VERBAL = frozenset({"VERB", "AUX"})
_AUXILIARY = frozenset({"aux", "auxpass"})
_SUBJECT = frozenset({"nsubj", "nsubjpass", "expl", "csubj"})
_INSIDE = frozenset({"compound", "amod", "nummod", "nmod", "poss", "det", "quantmod"})
"""Relations of words that are part of a noun phrase and none of their own."""
_JOINED = frozenset({"punct", "cc", "conj"})


def phrases(doc: Doc) -> tuple[Span, ...]:
    """(first, last, label) in order: whole subtrees, subtrees without what is joined to them, verbs with
    all that follows, noun chunks, and the text as a whole. Punctuation ends a clause and no other phrase."""
    found = {(chunk.start, _trimmed(doc, chunk.start, chunk.end - 1), "NP") for chunk in doc.noun_chunks}
    for token in doc:
        for first, last, label in _of(token):
            found.add((first, _trimmed(doc, first, last), label))
            if label == "S":
                found.add((first, last, label))
    if any(token.pos_ in _VERBAL for token in doc):
        found.add((0, len(doc) - 1, "S"))
    return tuple(sorted(found))


def _of(token: Token) -> Iterator[Span]:
    """What a token is the head of."""
    whole = token.left_edge.i, token.right_edge.i
    for first, last in dict.fromkeys((whole, _without_joined(token))):
        if token.tag_ in ("WDT", "WP"):
            yield first, last, "WHNP"
        elif token.pos_ in _NOMINAL and token.dep_ not in _INSIDE:
            yield first, last, "NP"
        elif token.pos_ in ("ADP", "SCONJ") and token.dep_ in ("prep", "agent", "dative"):
            yield first, last, "PP"
        elif first < last and (token.pos_ == "ADJ" or token.dep_ == "amod"):
            yield first, last, "ADJP"
        elif token.pos_ == "ADV" and token.dep_ == "advmod":
            yield first, last, "ADVP"
        elif token.pos_ in _VERBAL and token.dep_ not in _AUXILIARY:
            yield from _clause(token, first, last)


def _clause(verb: Token, first: int, last: int) -> Iterator[Span]:
    """The clause of a verb, and the verb phrases in it: from each auxiliary, and from the
    verb, to its end."""
    subject = any(child.dep_ in _SUBJECT for child in verb.children)
    if subject:
        yield first, last, "SBAR" if verb.dep_ == "relcl" else "S"
    elif verb.dep_ not in _INSIDE:
        yield first, last, "VP"
    begins = [child.i for child in verb.children if child.dep_ in _AUXILIARY and child.i < verb.i]
    for start in {*begins, verb.i}:
        yield start, last, "VP"


def _without_joined(token: Token) -> tuple[int, int]:
    """Edges of a subtree without conjuncts and what joins them."""
    kept = [child for child in token.children if child.dep_ not in _JOINED]
    return (min([token.i, *(child.left_edge.i for child in kept)]),
            max([token.i, *(child.right_edge.i for child in kept)]))


def _trimmed(doc: Doc, first: int, last: int) -> int:
    """The last word that is no punctuation."""
    while last > first and doc[last].is_punct:
        last -= 1
    return last
