"""The `restaurant` corpus: plans what to say, lets the grammar say it, and keeps texts of the wanted length, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from random import Random

from pydantic import Field, model_validator

from spaces.errors import UserError
from trainable import registry
from trainable.corpora.base import Corpus, Example, Split
from trainable.corpora.restaurant.grammar import Grammar, finish
from trainable.corpora.restaurant.lexicon import FAST_FOOD_TYPES, FIELDS, VALUES

SHARE = {
    "name": 0.95, "Type": 0.85, "food": 0.8, "price": 0.65, "customer rating": 0.6, "area": 0.6, "family friendly": 0.5,
    "near": 0.6,
}
"""How often a text has each field to say."""
CONTINUE_SHARE = 0.7
"""How often a text goes on to a further sentence while planned fields are unsaid."""
REMARK_SHARE = 0.2
"""How often a text that still has room gets a remark that says no field."""
MAX_SENTENCES = 4
PATIENCE = 20_000
"""Texts in a row that may be refused (wrong length, seen before) before the corpus gives up."""


class Restaurant(Corpus):
    """English restaurant descriptions from a built-in grammar, with gold fields, tags and trees."""

    name = "restaurant"

    class Params(registry.Params):
        """Size, sentence length and seed of the generated corpus."""

        sentences: int = Field(20_000, ge=100, description="texts in the training split")
        valid_sentences: int = Field(1000, ge=1, description="texts in the held-out split; none is in the training split")
        min_words: int = Field(8, ge=4, le=30)
        max_words: int = Field(40, ge=10, le=60)
        seed: int = Field(0, ge=0)

        @model_validator(mode="after")
        def _room(self) -> Restaurant.Params:
            if self.max_words < self.min_words + 4:
                raise ValueError(f"max_words={self.max_words} must be at least min_words + 4 = {self.min_words + 4}")
            return self

    def examples(self, split: Split) -> Iterator[Example]:
        """The texts of one split; a shorter corpus is the beginning of a longer one with the same seed.

        Raises `UserError` when the grammar cannot make that many different texts of the asked lengths.
        """
        held_out = list(self._distinct("valid", self.params.valid_sentences, ()))
        if split == "valid":
            yield from held_out
        else:
            yield from self._distinct("train", self.params.sentences, (example.words for example in held_out))

    def version(self) -> str:
        """SHA-256 of the grammar's own source, so that a changed grammar never meets an old cache."""
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @cached_property
    def _grammar(self) -> Grammar:
        return Grammar()

    def _distinct(self, split: Split, count: int, taken: Iterable[tuple[str, ...]]) -> Iterator[Example]:
        rng = Random(f"{self.params.seed}/{split}")
        seen, refused = set(taken), 0
        while count:
            example = compose(self._grammar, rng, self.params.max_words)
            if self.params.min_words <= len(example.words) <= self.params.max_words and example.words not in seen:
                seen.add(example.words)
                count, refused = count - 1, 0
                yield example
                continue
            refused += 1
            if refused > PATIENCE:
                raise UserError(
                    f"corpus 'restaurant': no more different texts of {self.params.min_words} to {self.params.max_words} "
                    f"words; widen min_words and max_words or lower the number of sentences (now {count:,} short)"
                )


def compose(grammar: Grammar, rng: Random, max_words: int) -> Example:
    """One text of one to `MAX_SENTENCES` sentences; the first sentence that would pass `max_words` ends it and is left out.

    The fields are those that were said, which need not be all that were planned. The text is longer than `max_words` only
    when its first sentence is.
    """
    plan = draw_plan(rng)
    state = grammar.start(plan)
    trees: list[str] = []
    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    symbol = "first" if "name" in plan else "nameless"
    while symbol and len(trees) < MAX_SENTENCES:
        tree, after = grammar.expand(symbol, plan, state, rng)
        tree, new_words, new_tags = finish(tree)
        if trees and len(words) + len(new_words) > max_words:
            break
        trees.append(tree)
        words, tags, state = words + new_words, tags + new_tags, after
        if grammar.unsaid(state):
            symbol = "more" if rng.random() < CONTINUE_SHARE else ""
        else:
            symbol = "filler" if symbol != "filler" and rng.random() < REMARK_SHARE else ""
    unsaid = grammar.unsaid(state)
    fields = {field: value for field, value in plan.items() if field not in unsaid}
    return Example(words, fields, tags, trees[0] if len(trees) == 1 else f"(S {' '.join(trees)})")


def draw_plan(rng: Random) -> dict[str, str]:
    """Field values to say, drawn independently but for fast food, which only some types of place sell."""
    plan = {field: VALUES[field][int(rng.random() * len(VALUES[field]))] for field in FIELDS if rng.random() < SHARE[field]}
    if plan.get("food") == "fast food" and "Type" in plan:
        plan["Type"] = FAST_FOOD_TYPES[int(rng.random() * len(FAST_FOOD_TYPES))]
    return plan
