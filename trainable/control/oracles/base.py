"""What an oracle is: words in; tags and labeled spans out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from spaces.errors import UserError
from trainable import registry

UPOS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT",
        "SCONJ", "SYM", "VERB", "X")
"""Universal part-of-speech tags (universaldependencies.org/u/pos)."""

PHRASES = ("ADJP", "ADVP", "CONJP", "FRAG", "INTJ", "LST", "NAC", "NML", "NP", "NX", "PP", "PRN", "PRT", "QP",
           "RRC", "S", "SBAR", "SBARQ", "SINV", "SQ", "UCP", "VP", "WHADJP", "WHADVP", "WHNP", "WHPP", "X")
"""Labels of phrases (Penn Treebank II, Bies et al. 1995; NML from its 2012 revision)."""

Span = tuple[int, int, str]
"""First word, last word (inclusive, as in the released targets), label."""


class Reading(NamedTuple):
    """One text as an oracle reads it."""

    tags: tuple[str, ...]
    """A tag for each word, of `UPOS`."""
    spans: tuple[Span, ...]
    """Every labeled constituent but the words themselves, outer before inner; a span may have
    several labels."""
    whole: bool
    """Whether the oracle could read the text as one piece."""


class Oracle(ABC):
    """Reads text that is cut into words. A subclass has `name`, a one-sentence docstring and
    what it `provides`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = registry.Params
    """None: an oracle is a name, because a name is what results carry."""
    provides: frozenset[str]
    """Of "tags" and "spans"."""
    sample: ClassVar[int] = 6000
    """Training texts that a controller may have read by it: fewer where reading is slow."""
    takes_model: ClassVar[bool] = False
    """Whether it is written `name:MODEL`."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639 codes of the languages that it reads; empty where that is not known, or all of them.
    An instance may know better: its model's."""

    def __init__(self, model: str = ""):
        """Raises `UserError` when what it needs is not installed, saying how to get it."""
        self.model = model

    @property
    def full_name(self) -> str:
        """How results name it: `spacy:en_core_web_sm`. Scores under different names are not comparable."""
        return f"{self.name}:{self.model}" if self.model else self.name

    @abstractmethod
    def read(self, words: Sequence[str]) -> Reading:
        """Tags and spans of `words`, as many tags as words. What it does not provide is empty."""

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """What to install, as a command, or None when it can be used."""
        return None


def refuse_missing(oracle: Oracle) -> None:
    """Raises `UserError` with the remedy when an oracle lacks what it needs."""
    remedy = type(oracle).missing(oracle.model)
    if remedy:
        raise UserError(f"control oracle {oracle.full_name!r} is not installed; get it with: {remedy}; "
                        "or use an oracle that is: grammar (built-in corpus), textblob")
