"""The E2E restaurant corpus (Novikova, Dušek, Rieser 2017), from its files or from the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from spaces.errors import UserError
from trainable import registry
from trainable.corpora.base import Corpus, Example, Split
from trainable.corpora.sources import csv_rows, existing_file, has_words, one_split, text_lines
from trainable.corpora.words import KINDS as TOKENIZERS
from trainable.corpora.words import Tokenizer, splitter, tokenizer_version

FORMATS = {"src1": {"train": "src1_train.txt", "valid": "src1_valid.txt"},
           "csv": {"train": "trainset.csv", "valid": "devset.csv"}}
"""File names by format, the preferred format first."""
EXPECTED = "a folder with src1_train.txt and src1_valid.txt, or trainset.csv and devset.csv, or one such file"
RENAMED = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
"""Names of fields in the CSV files -> names in the src1 files, which are used throughout."""
NEWLINE = "\n"
Pair = tuple[str, dict[str, str], str]
"""File and row, meaning, text; the text is empty where the row has none."""


class E2E(Corpus):
    """E2E restaurant descriptions with their fields, from src1_*.txt or CSV files, or from the hub."""

    name = "e2e"

    class Params(registry.Params):
        """Where the text is and how it is cut into words."""

        path: str | None = Field(None, description="folder with src1_*.txt or trainset.csv and devset.csv, "
                                                   "or one such file")
        hub: bool = Field(False, description="load through Hugging Face datasets instead of path")
        hub_name: str = "tuetschek/e2e_nlg"
        hub_revision: str | None = Field("refs/convert/parquet",
                                         description="the branch that holds data, not a script")
        tokenizer: Tokenizer = Field("spacy", description=TOKENIZERS)
        newline: Literal["row", "word", "none"] = Field(
            "row",
            description="the line break that published code keeps at each text's end: a vocabulary row only; "
                        "a word of every text; or neither")
        valid_share: float = Field(0.1, gt=0, lt=1,
                                   description="held-out share, by meaning, when path is one file")

        @model_validator(mode="after")
        def _source(self) -> E2E.Params:
            if self.hub == (self.path is not None):
                raise ValueError(f"set either path ({EXPECTED}) or hub: true")
            return self

    params: Params

    def reserved(self) -> tuple[str, ...]:
        """The line break, which the published vocabulary of 821 counts as a word.

        With `newline="row"` the vocabulary, and so every table's shape, is the published one, but no text
        ends in a line break: lengths, tags and generated sentences are those of the words.
        """
        return (NEWLINE,) if self.params.newline == "row" else ()

    def version(self) -> str:
        """The tokenizer's version."""
        return tokenizer_version(self.params.tokenizer)

    def sources(self) -> Sequence[Path]:
        """The files that are read; from the hub, the Arrow files of the local cache."""
        if self.params.hub:
            return [Path(file["filename"]) for split in self._hub.values() for file in split.cache_files]
        return list(dict.fromkeys(self._files.values()))

    def examples(self, split: Split) -> Iterator[Example]:
        """One example per text; its values are cut into words like the text, so that they can be
        found in it. A row that has no text is one without words."""
        words_of = splitter(self.params.tokenizer)
        cut = lru_cache(4096)(lambda value: " ".join(words_of(value)))  # few values, in all of the rows
        end = (NEWLINE,) if self.params.newline == "word" else ()
        for where, meaning, text in self._pairs(split):
            words = words_of(text)
            fields = {field: cut(value) for field, value in meaning.items()}
            yield Example((*words, *end) if words else (), fields, where=where)

    def _pairs(self, split: Split) -> Iterator[Pair]:
        if self.params.hub:
            for number, row in enumerate(self._hub[split], 1):
                where = f"{self.params.hub_name}, {split}, row {number}"
                text = row["human_reference"] or ""
                yield (where,
                       _read_mr(row["meaning_representation"] or "", where) if text.strip() else {}, text)
            return
        path = self._files[split]
        pairs: Callable[[Path], Iterator[Pair]] = _csv_pairs if path.suffix == ".csv" else _src1_pairs
        if len(set(self._files.values())) > 1:
            yield from pairs(path)
            return
        yield from one_split(list(pairs(path)), lambda pair: repr(pair[1]) if has_words(pair[2]) else "",
                             self.params.valid_share, split, path, "a folder with both splits")

    @cached_property
    def _files(self) -> dict[str, Path]:
        path = Path(self.params.path or "").expanduser()
        if path.is_file() and path.suffix in (".txt", ".csv"):
            return {"train": path, "valid": path}
        if not path.is_dir():
            raise UserError("corpus 'e2e', path: "
                            f"{path} {'is not .txt or .csv' if path.exists() else 'does not exist'}; "
                            f"expected {EXPECTED}")
        present = [names for names in FORMATS.values() if (path / names["train"]).is_file()]
        if not present:
            raise UserError(f"corpus 'e2e', path: {path} has neither src1_train.txt nor trainset.csv; "
                            f"expected {EXPECTED}")
        return {split: existing_file(path / name, "the other split of the corpus")
                for split, name in present[0].items()}

    @cached_property
    def _hub(self) -> dict:
        import datasets  # slow to import, so only where it is used

        name = self.params.hub_name
        try:
            loaded = datasets.load_dataset(name, revision=self.params.hub_revision)
        except (OSError, ValueError, RuntimeError) as error:
            # offline, unknown name, a dataset that is a script
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"corpus 'e2e', hub_name: cannot load {name} ({type(error).__name__}: {reason}); "
                            f"set path to {EXPECTED}") from None
        for split in ("train", "validation"):
            columns = loaded[split].column_names if split in loaded else []
            if not {"meaning_representation", "human_reference"} <= set(columns):
                raise UserError(f"corpus 'e2e', hub_name: {name} has no split {split!r} with the columns "
                                "meaning_representation and human_reference")
        return {"train": loaded["train"], "valid": loaded["validation"]}


def _src1_pairs(path: Path) -> Iterator[Pair]:
    """`field : value | field : value||text` per line."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        meaning, bars, text = line.partition("||")
        parts = [part.strip().partition(" : ") for part in meaning.split("|")]
        if not bars or not all(colon and field and value for field, colon, value in parts):
            raise UserError(f"{where}: expected `field : value | field : value||text`, got {line[:60]!r}")
        yield where, {field.strip(): value.strip() for field, _, value in parts}, text


def _csv_pairs(path: Path) -> Iterator[Pair]:
    """Columns mr, ref."""
    for number, row in csv_rows(path, ("mr", "ref")):
        where, text = f"{path}, line {number}", row["ref"]
        yield where, _read_mr(row["mr"], where) if text.strip() else {}, text


def _read_mr(text: str, where: str) -> dict[str, str]:
    """`name[The Mill], eatType[pub]` -> fields. Raises `UserError` that begins with `where`."""
    if not re.fullmatch(r"\s*[\w ]+\[[^\[\]]+\](\s*,\s*[\w ]+\[[^\[\]]+\])*\s*", text):
        raise UserError(f"{where}: expected a meaning like `name[The Mill], eatType[pub]`, got {text[:60]!r}")
    found = ((field.strip(), value.strip()) for field, value in re.findall(r"([\w ]+)\[([^\[\]]+)\]", text))
    return {RENAMED.get(field, field): value for field, value in found}
