"""Cutting text into words: by whitespace, or by spaCy's rules for English (no trained model is needed)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

Tokenizer = Literal["spacy", "whitespace"]


def splitter(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """A function text -> words. Whitespace is never a word: spaCy's whitespace tokens are dropped."""
    if tokenizer == "whitespace":
        return str.split
    import spacy  # slow to import, so only where it is used

    cut = spacy.blank("en").tokenizer
    return lambda text: [token.text for token in cut(text) if not token.is_space]


def tokenizer_version(tokenizer: Tokenizer) -> str:
    """What a cache key needs to know of a tokenizer, without importing it."""
    return f"spacy {version('spacy')}" if tokenizer == "spacy" else tokenizer
