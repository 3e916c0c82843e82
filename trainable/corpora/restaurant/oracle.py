"""The exact reader of the restaurant corpus: which field values a text says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from trainable.corpora.restaurant.lexicon import FAMILY, FIELDS, VALUES

_COPULAS = ("is", "are")


def read_fields(words: Sequence[str]) -> dict[str, str]:
    """Field -> value for every field that `words` say, in the order of `FIELDS`. Fields that are not said are absent.

    Reads from left to right, ignoring case. At each word the longest phrase of the lexicon that begins there is taken and its
    words are used up, so `not family friendly` is never also read as `family friendly`. A field that is said more than once has
    the value that is said first. Words between the phrases do not matter, so the reader also works on text that is not quite
    grammatical. On the corpus's own texts it returns exactly the gold fields.
    """
    phrases, longest = _phrases()
    lowered = tuple(word.lower() for word in words)
    found: dict[str, str] = {}
    position = 0
    while position < len(lowered):
        for size in range(min(longest.get(lowered[position], 0), len(lowered) - position), 0, -1):
            said = phrases.get(lowered[position : position + size])
            if said is not None:
                found.setdefault(*said)
                position += size
                break
        else:
            position += 1
    return {field: found[field] for field in FIELDS if field in found}


@cache
def _phrases() -> tuple[dict[tuple[str, ...], tuple[str, str]], dict[str, int]]:
    """(phrase -> (field, value), first word -> words of the longest phrase that begins with it), all in small letters."""
    phrases = {
        tuple(value.lower().split()): (field, value)
        for field, values in VALUES.items() if field != "family friendly" for value in values
    }
    for value, forms in FAMILY.items():
        for template in (template for templates in forms.values() for template in templates):
            words = [word for word in re.findall(r"([^\s()]+)/[A-Z]+", template)]
            if words[0] in _COPULAS:
                words = words[1:]
            phrases[tuple(words)] = ("family friendly", value)
            if words[0] == "not":
                phrases[("not", "a", *words[1:])] = ("family friendly", value)
    longest: dict[str, int] = {}
    for phrase in phrases:
        longest[phrase[0]] = max(longest.get(phrase[0], 0), len(phrase))
    return phrases, longest
