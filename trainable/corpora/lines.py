"""Any text: one example per line or row, or per sentence where lines are paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from trainable import registry
from trainable.corpora.base import UNKNOWN, Corpus, Example, Split
from trainable.corpora.readers import KINDS, Format, Text, texts
from trainable.corpora.sources import existing_file, has_words, one_split
from trainable.corpora.words import KINDS as TOKENIZERS
from trainable.corpora.words import Tokenizer, splitter, tokenizer_version

_HEADING = re.compile(r"\s*(=(?: =)*) .* \1\s*")
_STRAIGHT = ('"', "'")
_CLOSING = (")", "]", "”", "’", "''")
_ABBREVIATION = re.compile(
    r"(?:[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]?|Mrs?|Ms|Drs?|St|Jr|Sr|Prof|Rev|Gen|Col|Capt|Lt|No|vs|etc|cf|c)\.")


class Lines(Corpus):
    """Text from a file, one example per line or row, optionally cut into sentences."""

    name = "lines"
    later = frozenset({"column", "format"})

    class Params(registry.Params):
        """Where the text is and how it is split and cut."""

        path: str = Field(description=KINDS)
        valid_path: str | None = Field(None, description="file with the held-out texts; null: "
                                                         "take valid_share of path")
        valid_share: float = Field(0.05, gt=0, lt=1, description="share of the lines that is held out")
        tokenizer: Tokenizer = Field("whitespace",
                                     description="whitespace for text that is tokenized already; "
                                                 f"legal: {TOKENIZERS}")
        skip_headings: bool = Field(False, description="leave out lines such as `= Title =` (WikiText)")
        max_words: int | None = Field(None, ge=4,
                                      description="lines of more words are cut into sentences; null: never")
        min_words: int = Field(1, ge=1, description="examples of fewer words are left out")
        unknown: str = Field("<unk>", description="the word by which the text hides rare words; becomes UNK")
        column: str | None = Field(None, description="column, or field, that holds the text in files that "
                                                     "have some; null: text, or the only one")
        format: Format = Field("auto", description="what the files are; auto: by the end of their names, "
                               ".jsonl, .ndjson, .json, .tsv, .csv, .parquet, else plain lines")

    params: Params

    def version(self) -> str:
        """The tokenizer's version."""
        return tokenizer_version(self.params.tokenizer)

    def sources(self) -> Sequence[Path]:
        """The text files."""
        paths = [self.params.path] + ([self.params.valid_path] if self.params.valid_path else [])
        return [existing_file(path, KINDS) for path in paths]

    def examples(self, split: Split) -> Iterator[Example]:
        """One example per line or sentence; one without words for a row that has none. A line is held
        out as a whole, and so are lines that repeat it."""
        words_of = splitter(self.params.tokenizer)
        for where, line in self._texts(split):
            words = [UNKNOWN if word == self.params.unknown else word for word in words_of(line)]
            if not words:
                yield Example((), where=where)
            long = self.params.max_words is not None and len(words) > self.params.max_words
            for part in sentences(words) if long else [words]:
                if len(part) >= self.params.min_words:
                    yield Example(tuple(part), where=where)

    def _texts(self, split: Split) -> Iterator[Text]:
        files = self.sources()
        path = files[-1] if split == "valid" else files[0]
        rows = texts(path, self.params.column, self.params.format)
        if self.params.skip_headings:
            rows = (row for row in rows if not _HEADING.fullmatch(row[1]))
        if len(files) > 1:
            yield from rows
            return
        yield from one_split(list(rows), lambda row: row[1] if has_words(row[1]) else "",
                             self.params.valid_share, split, path, "a file of their own as valid_path")


def sentences(words: Sequence[str]) -> Iterator[list[str]]:
    """Cut words after each sentence end: a word that is or ends in `.`, `!` or `?` (with the closing
    quotes and brackets that follow it) before a word that does not begin in small letters. Abbreviations and
    initials do not end a sentence.
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
    """Whether `word` closes a quotation or bracket of `before`. A straight quote closes when
    it is an even one."""
    return word in _CLOSING or (word in _STRAIGHT and before.count(word) % 2 == 1)
