"""Any plain text: one example per line, or per sentence where lines are paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from trainable import registry
from trainable.corpora.base import UNKNOWN, Corpus, Example, Split
from trainable.corpora.sources import existing_file, held_out, text_lines
from trainable.corpora.words import Tokenizer, splitter, tokenizer_version

_HEADING = re.compile(r"\s*(=(?: =)*) .* \1\s*")
_STRAIGHT = ('"', "'")
_CLOSING = (")", "]", "”", "’", "''")
_ABBREVIATION = re.compile(
    r"(?:[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]?|Mrs?|Ms|Drs?|St|Jr|Sr|Prof|Rev|Gen|Col|Capt|Lt|No|vs|etc|cf|c)\.")


class Lines(Corpus):
    """Plain text, one example per line, optionally cut into sentences."""

    name = "lines"

    class Params(registry.Params):
        """Where the text is and how it is split and cut."""

        path: str = Field(description="UTF-8 text file, one example per line")
        valid_path: str | None = Field(None, description="text file with the held-out lines; null: take valid_share of path")
        valid_share: float = Field(0.05, gt=0, lt=1, description="share of the lines that is held out")
        tokenizer: Tokenizer = Field("whitespace", description="whitespace for text that is tokenized already")
        skip_headings: bool = Field(False, description="leave out lines such as `= Title =` (WikiText)")
        max_words: int | None = Field(None, ge=4, description="lines of more words are cut into sentences; null: never")
        min_words: int = Field(1, ge=1, description="examples of fewer words are left out")
        unknown: str = Field("<unk>", description="the word by which the text hides rare words; becomes UNK")

    params: Params

    def version(self) -> str:
        """The tokenizer's version."""
        return tokenizer_version(self.params.tokenizer)

    def sources(self) -> Sequence[Path]:
        """The text files."""
        paths = [self.params.path] + ([self.params.valid_path] if self.params.valid_path else [])
        return [existing_file(path, "a UTF-8 text file with one example per line") for path in paths]

    def examples(self, split: Split) -> Iterator[Example]:
        """One example per line or sentence. A line is held out as a whole, and so are lines that repeat it."""
        words_of = splitter(self.params.tokenizer)
        for line in self._lines(split):
            words = [UNKNOWN if word == self.params.unknown else word for word in words_of(line)]
            long = self.params.max_words is not None and len(words) > self.params.max_words
            for part in sentences(words) if long else [words]:
                if len(part) >= self.params.min_words:
                    yield Example(tuple(part))

    def _lines(self, split: Split) -> Iterator[str]:
        files = self.sources()
        path = files[-1] if split == "valid" else files[0]
        lines = (line for _, line in text_lines(path) if line.strip())
        if self.params.skip_headings:
            lines = (line for line in lines if not _HEADING.fullmatch(line))
        if len(files) > 1:
            yield from lines
            return
        kept = list(lines)
        chosen = held_out(kept, self.params.valid_share)
        yield from (line for line, valid in zip(kept, chosen, strict=True) if valid == (split == "valid"))


def sentences(words: Sequence[str]) -> Iterator[list[str]]:
    """Cut words after each sentence end: a word that is or ends in `.`, `!` or `?` (with the closing quotes and brackets
    that follow it) before a word that does not begin in small letters. Abbreviations and initials do not end a sentence.
    """
    start = 0
    for i, word in enumerate(words):
        if word[-1] not in ".!?" or _ABBREVIATION.fullmatch(word):
            continue
        end = i + 1
        while end < len(words) and _closes(words[end], words[start:end]):
            end += 1
        if end == len(words) or not words[end][0].islower():
            yield list(words[start:end])
            start = end
    if start < len(words):
        yield list(words[start:])


def _closes(word: str, before: Sequence[str]) -> bool:
    """Whether `word` closes a quotation or bracket of `before`. A straight quote closes when it is an even one."""
    return word in _CLOSING or (word in _STRAIGHT and before.count(word) % 2 == 1)
