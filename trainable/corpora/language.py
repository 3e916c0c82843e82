"""Which language a text is in, and whether it is written with spaces, told from its words alone:
offline, no model.

The script is that of most letters. Where a script has one language, it is that; else it is the language
whose commonest words (spaCy's stop words) the text has most of, if it has clearly more of them
than of English ones.
"""

from __future__ import annotations

import runpy
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from trainable.corpora.words import spacy_languages

ENGLISH, UNDETERMINED = "en", "und"
"""`und` is ISO 639's own word for what is not known, here: not English in any case."""
LEAST = 50
"""Words below which nothing is told."""
_LANGUAGES = (("ar bg ca cs da de el en es et fa fi fr he hi hr hu id it lt lv mk nb nl pl pt ro ru sk sl sr "
               "sv tr uk vi"
               ).split())
_ONE_LANGUAGE = {"HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "THAI": "th", "GREEK": "el",
                 "HEBREW": "he", "ARMENIAN": "hy", "GEORGIAN": "ka", "KHMER": "km", "LAO": "lo",
                 "MYANMAR": "my", "TIBETAN": "bo"}
NO_SPACES = {"CJK": "Chinese characters", "HIRAGANA": "kana", "KATAKANA": "kana", "THAI": "Thai script",
             "LAO": "Lao script", "KHMER": "Khmer script", "MYANMAR": "Burmese script"}
"""Scripts that are written without spaces between words, and what people call them."""
_LONG, _SHORT = 6.0, 1.5
"""Characters of a word of such a script, and words of a text, from which and below which text is
taken to be uncut."""


@cache
def _stop_words() -> dict[str, frozenset[str]]:
    """Language -> its commonest words. The files are read by themselves: importing spaCy's languages
    takes seconds."""
    return {name: frozenset(word.lower()
                            for word in runpy.run_path(str(spacy_languages() / name / "stop_words.py"))
                            ["STOP_WORDS"]) for name in _LANGUAGES}


@cache
def _script(letter: str) -> str:
    """`LATIN`, `CJK`, `THAI`; empty for what is no letter."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def scripts(counts: Counter[str]) -> Counter[str]:
    """Letters of each script, in words that occur so many times."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            found[_script(letter)] += count
    del found[""]
    return found


def language_of(counts: Counter[str]) -> str:
    """ISO 639 code of the language of words that occur so many times; `und` where it is known only that
    it is not English; empty where nothing can be told: too few words, or words of no language."""
    total, letters = sum(counts.values()), scripts(counts)
    if total < LEAST or not letters:
        return ""
    if letters["HIRAGANA"] + letters["KATAKANA"] > 0.1 * letters.total():
        return "ja"
    script, most = letters.most_common(1)[0]
    if most > 0.5 * letters.total() and script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    folded: Counter[str] = Counter()
    for word, count in counts.items():
        folded[word.lower()] += count
    share = {name: sum(folded[word] for word in words if word in folded) / total
             for name, words in _stop_words().items()}
    best = max(share, key=lambda name: share[name])
    if (share[best] >= 0.25 and share[ENGLISH] < 0.6 * share[best]
            or share[best] >= 0.15 and share[ENGLISH] < 0.3 * share[best]):
        return best
    if script != "LATIN":
        return UNDETERMINED
    return ENGLISH if share[ENGLISH] >= 0.15 else ""


def uncut(counts: Counter[str], texts: int) -> str | None:
    """What people call the script of a text that is written without spaces and was not cut into words;
    None for others.

    `counts`: how often each word occurs; `texts`: how many texts they come from.
    """
    letters = scripts(counts)
    spaceless = {script: count for script, count in letters.items() if script in NO_SPACES}
    if not spaceless or sum(spaceless.values()) <= 0.5 * letters.total():
        return None
    sizes = list(_sizes(counts))
    words = sum(count for _, count in sizes)
    size = sum(size * count for size, count in sizes) / words
    if size > _LONG or size > 1.5 and sum(counts.values()) < _SHORT * texts:
        return NO_SPACES[max(spaceless, key=lambda script: spaceless[script])]
    return None


def _sizes(counts: Counter[str]) -> Iterator[tuple[int, int]]:
    """(letters, occurrences) of the words that are written in such a script."""
    for word, count in counts.items():
        size = sum(_script(letter) in NO_SPACES for letter in word)
        if size:
            yield size, count


def readable(language: str, languages: Sequence[str]) -> bool:
    """Whether who reads `languages` (none named: all) can read a text of `language` (empty: not told,
    so nothing is said)."""
    return not language or not languages or language in languages
