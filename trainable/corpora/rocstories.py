"""ROCStories (Mostafazadeh et al. 2016): five-sentence everyday stories from the CSV file that its
authors send out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from trainable import registry
from trainable.corpora.base import Corpus, Example, Split
from trainable.corpora.sources import csv_rows, existing_file, has_words, one_split
from trainable.corpora.words import KINDS as TOKENIZERS
from trainable.corpora.words import Tokenizer, splitter, tokenizer_version

SENTENCES = tuple(f"sentence{i}" for i in range(1, 6))


class ROCStories(Corpus):
    """Five-sentence stories from a ROCStories CSV file, one story per example."""

    name = "rocstories"

    class Params(registry.Params):
        """Where the stories are and how they are split and cut."""

        path: str = Field(description=f"CSV file with the columns {', '.join(SENTENCES)}")
        valid_path: str | None = Field(None, description="CSV file with the held-out stories; null: "
                                                         "take valid_share of path")
        valid_share: float = Field(0.05, gt=0, lt=1, description="share of the stories that is held out")
        tokenizer: Tokenizer = Field("spacy", description=TOKENIZERS)

    params: Params

    def version(self) -> str:
        """The tokenizer's version."""
        return tokenizer_version(self.params.tokenizer)

    def sources(self) -> Sequence[Path]:
        """The CSV files."""
        paths = [self.params.path] + ([self.params.valid_path] if self.params.valid_path else [])
        return [existing_file(path, f"a CSV file with the columns {', '.join(SENTENCES)}") for path in paths]

    def examples(self, split: Split) -> Iterator[Example]:
        """One example per story, its title left out."""
        words_of = splitter(self.params.tokenizer)
        yield from (Example(tuple(words_of(story)), where=where) for where, story in self._stories(split))

    def _stories(self, split: Split) -> Iterator[tuple[str, str]]:
        """(file and row, story)."""
        files = self.sources()
        path = files[-1] if split == "valid" else files[0]
        stories = [(f"{path}, line {number}", " ".join(row[column].strip() for column in SENTENCES))
                   for number, row in csv_rows(path, SENTENCES)]
        if len(files) > 1:
            yield from stories
            return
        yield from one_split(stories, lambda story: story[1] if has_words(story[1]) else "",
                             self.params.valid_share, split, path, "a file of their own as valid_path")
