"""Cutting text into words: by whitespace, by spaCy's rules for a language (no trained model is needed),
or by characters."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from spaces.errors import UserError

KINDS = "spacy (English rules), spacy:LANGUAGE (spacy:de), whitespace, characters"
_RUN = re.compile(r"[0-9A-Za-z]+|\S")


def spacy_languages() -> Path:
    """The folder in which spaCy has a folder for each language, found without importing spaCy."""
    found = importlib.util.find_spec("spacy")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "lang"


def _legal(tokenizer: str) -> str:
    kind, colon, language = tokenizer.partition(":")
    if kind not in ("spacy", "whitespace", "characters") or colon and (kind != "spacy" or not language):
        raise ValueError(f"{tokenizer!r} is no tokenizer; legal: {KINDS}")
    if language and not (language.isidentifier() and (spacy_languages() / language).is_dir()):
        raise ValueError(f"spaCy has no rules for {language!r}; legal: {KINDS}")
    return tokenizer


Tokenizer = Annotated[str, AfterValidator(_legal)]


def splitter(tokenizer: str) -> Callable[[str], list[str]]:
    """A function text -> words. Whitespace is never a word: spaCy's whitespace tokens are dropped.

    `characters`: every character with the marks that belong to it, but runs of Latin letters and digits
    whole, for text that is written without spaces. Raises `UserError` where spaCy's rules for a language need
    a package that is not here.
    """
    if tokenizer == "whitespace":
        return str.split
    if tokenizer == "characters":
        return _characters
    import spacy  # slow to import, so only where it is used

    language = tokenizer.partition(":")[2] or "en"
    try:
        cut = spacy.blank(language).tokenizer
    except ImportError as error:
        raise UserError(f"tokenizer {tokenizer!r}: needs a package that is not installed "
                        f"({' '.join(str(error).split())[:120]}); legal without it: characters") from None
    return lambda text: [token.text for token in cut(text) if not token.is_space]


def _characters(text: str) -> list[str]:
    words: list[str] = []
    for piece in _RUN.findall(text):
        if words and unicodedata.category(piece[0]) in ("Mn", "Mc", "Me", "Cf"):
            words[-1] += piece
        else:
            words.append(piece)
    return words


def tokenizer_version(tokenizer: str) -> str:
    """What a cache key needs to know of a tokenizer, without importing it."""
    return f"spacy {version('spacy')}" if tokenizer.startswith("spacy") else tokenizer
