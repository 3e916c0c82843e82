"""What control needs to know of a corpus: its words, its fields and values, and how each value is said.

Small enough to travel in an exported model's JSON, so that an artifact can be controlled without the corpus.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from trainable.corpora.base import SPLITS
from trainable.corpora.tokenized import END, PAD, START, UNK, TokenizedCorpus
from trainable.corpora.tokens import Tokens

GRAMMAR_CORPUS = "restaurant"
MOST_POSITIONS = 65_536
"""Longest text that anything here reads."""


def oracle_of(corpus: AnyCorpus) -> str:
    """`grammar` where the grammar that generated the corpus can read a meaning back; else `words`."""
    if isinstance(corpus, Lexicon):
        return corpus.oracle
    return "grammar" if corpus.stats.get("corpus") == GRAMMAR_CORPUS else "words"


def language_of(corpus: AnyCorpus) -> str:
    """ISO 639 code of the text's language, as the corpus was told or tells it; empty where
    it is not known."""
    return "" if isinstance(corpus, Lexicon) else corpus.stats.get("language", "")


def phrases_for(field: str, value: str, oracle: str) -> list[list[str]]:
    """The ways to say that `field` is `value`, each a list of words; none when it is not said
    by fixed words."""
    if value.casefold() not in ("yes", "no"):
        return [value.split()]
    if oracle != "grammar":
        return []
    from trainable.corpora.restaurant.lexicon import FAMILY
    templates = [template for templates in FAMILY[value].values() for template in templates]
    phrases = {tuple(re.findall(r"([^\s()/]+)/[A-Z]+", template)) for template in templates}
    return [list(phrase) for phrase in sorted(phrases)]


def contains(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether `phrase` stands in `words` as a run of whole words, in any case."""
    folded, wanted = [word.casefold() for word in words], [word.casefold() for word in phrase]
    return any(folded[i:i + len(wanted)] == wanted for i in range(len(folded) - len(wanted) + 1))


@dataclass(frozen=True)
class Lexicon:
    """Vocabulary, positions, and for each field its values with the phrases that say them."""

    vocab: list[str]
    max_length: int
    values: dict[str, dict[str, list[list[str]]]]
    """Field -> value -> the phrases that say it, each a list of words."""
    oracle: str
    """What scores the content of a sentence: `grammar` or `words`."""
    tags: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Word -> share of each part-of-speech tag, by the oracle that suits the corpus; empty where
    none was counted."""
    tokenizer: dict[str, Any] | None = None
    """What `Tokens.to_json` gives, where ids are of a tokenizer's tokens."""

    @classmethod
    def of(cls, corpus: AnyCorpus, tags: dict[str, dict[str, float]] | None = None) -> Lexicon:
        """From a `TokenizedCorpus`: all fields and values in it that can be said. A `Lexicon` is given back.

        `tags`: word -> share of each tag (`trainable.control.tag_shares`), where they were counted.
        """
        if isinstance(corpus, Lexicon):
            return corpus
        oracle = oracle_of(corpus)
        seen: dict[str, set[str]] = {}
        for split in SPLITS:
            for row in corpus.rows(split, range(len(corpus.lengths(split)))):
                for field, value in (row.get("fields") or {}).items():
                    seen.setdefault(field, set()).add(value)
        values = {field: {value: ways
                          for value in sorted(found) if (ways := phrases_for(field, value, oracle))}
                  for field, found in seen.items()}
        sayable = {field: ways for field, ways in values.items() if ways}
        return cls(list(corpus.vocab), int(corpus.ids("valid").shape[1]), sayable, oracle, tags or {},
                   None if corpus.tokens is None else corpus.tokens.to_json())

    @classmethod
    def from_json(cls, value: dict) -> Lexicon:
        """The inverse of `to_json`. Raises ValueError where it is no lexicon."""
        if not isinstance(value, dict) or not {"vocab", "max_length", "values", "oracle"} <= value.keys():
            raise ValueError("not a lexicon: a JSON object with vocab, max_length, values, oracle")
        made = cls(**value)
        if problem := made._problem():
            raise ValueError(f"not a lexicon: {problem}")
        _ = made.tokens  # a tokenizer that cannot be read is told now, not at the first text
        return made

    def _problem(self) -> str | None:
        """What does not have the type that it should have."""
        if not _all_are(str, self.vocab) or len(set(self.vocab)) != len(self.vocab) or len(self.vocab) < 4:
            return "vocab is not a list of at least four different words"
        if type(self.max_length) is not int or not 2 <= self.max_length <= MOST_POSITIONS:
            return f"max_length is not a whole number from 2 to {MOST_POSITIONS:,}"
        if not isinstance(self.oracle, str):
            return "oracle is not a name"
        if not isinstance(self.values, dict) or not isinstance(self.tags, dict):
            return "values or tags is not a mapping"
        for field, ways in self.values.items():
            if not isinstance(ways, dict) or not all(
                    isinstance(said, list) and all(_all_are(str, phrase) for phrase in said)
                    for said in ways.values()):
                return f"values of {field!r} are not lists of phrases"
        for word, shares in self.tags.items():
            if not isinstance(shares, dict) or not all(isinstance(share, int | float) and 0 <= share <= 1
                                                       for share in shares.values()):
                return f"tags of {word!r} are not shares"
        return None

    def to_json(self) -> dict:
        """Plain lists, dicts and strings."""
        plain = asdict(self)
        if self.tokenizer is None:
            del plain["tokenizer"]
        return plain

    @cached_property
    def tokens(self) -> Tokens | None:
        """The tokenizer, where ids are of its tokens."""
        return None if self.tokenizer is None else Tokens.from_json(self.tokenizer, self.vocab)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.vocab)}

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids of words; words outside the vocabulary become UNK. Of a tokenizer, a word may have several."""
        if self.tokens is not None:
            return self.tokens.encode(words)
        return [self._index.get(word, UNK) for word in words]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Words of a row of ids, up to its first END; START and PAD are left out."""
        ids = list(ids)
        ids = ids[:ids.index(END)] if END in ids else ids
        if self.tokens is not None:
            return self.tokens.decode([i for i in ids if i not in (START, PAD)])
        return [self.vocab[i] for i in ids if i not in (START, PAD)]


def _all_are(kind: type, items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)


AnyCorpus = TokenizedCorpus | Lexicon
"""What knows words: a corpus, or what an exported model carries of one."""
