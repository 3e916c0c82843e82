"""A corpus cut to token ids once and kept as Arrow files, as `trainable.corpora.tokenized` opens them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spaces.config import CorpusConfig
from spaces.errors import UserError
from trainable.corpora.base import SPLITS, UNKNOWN, Example, Split
from trainable.corpora.language import language_of, uncut
from trainable.corpora.sources import has_words
from trainable.corpora.tokenized import COLUMNS, END, PAD, SPECIALS, START, UNK
from trainable.registry import CORPORA

BATCH = 4096
"""Examples that are held as Python objects at a time."""


class _Index:
    """Numbers words in the order in which they are first seen, after the specials. The word `UNKNOWN`
    is always UNK."""

    def __init__(self) -> None:
        self.ids = {UNKNOWN: UNK}
        self.words: list[str] = []

    def __getitem__(self, word: str) -> int:
        found = self.ids.get(word)
        if found is None:
            if not word or " " in word:
                raise ValueError(f"a corpus gave {word!r} as a word: words are not empty and hold no space")
            found = self.ids[word] = len(SPECIALS) + len(self.words)
            self.words.append(word)
        return found


@dataclass
class _Taken:
    """One split: what is kept of it, and how many texts are not."""

    parts: list[pa.RecordBatch] = field(default_factory=list)
    kept: int = 0
    long: int = 0
    empty: int = 0
    first: str = ""
    """Where the first text stands that was left out."""

    def left_out(self, name: str, split: Split, most: int) -> UserError:
        """What to say where nothing is kept."""
        kind, count = {"train": "training", "valid": "held-out"}[split], self.long + self.empty
        if not count:
            return UserError(f"corpus {name!r}: it has no {kind} text at all")
        why = [f"{self.long:,} have more than corpus.max_length - 2 = {most} words"] * (self.long > 0)
        why += [f"{self.empty:,} hold no words"] * (self.empty > 0)
        first = f"; the first is {self.first}" if self.first else ""
        return UserError(f"corpus {name!r}: no {kind} text is left of {count:,}: {' and '.join(why)}{first}")


def build(config: CorpusConfig, out: Path) -> None:
    """Write the tokenized corpus of `config` into the folder `out`.

    The vocabulary is START, END, UNK, PAD, then the words that the training split has more than `min_count`
    times, in order of appearance, then the corpus's reserved words. A row is START words END PAD...; texts
    of more than `max_length` - 2 words are counted (their words too) and left out, and so are texts without
    a word that can be seen. Raises `UserError` when a split comes out empty, or when text that is written
    without spaces was not cut into words.
    """
    corpus, name = CORPORA.build(config.source), config.source.name
    index = _Index()
    counts = np.zeros(len(SPECIALS), dtype=np.int64)
    splits: dict[Split, _Taken] = {split: _Taken() for split in SPLITS}
    for split, taken in splits.items():
        for batch, ids in _numbered(_with_words(corpus.examples(split), taken), index):
            if split == "train":
                counts = _add(counts, np.concatenate(ids))
            kept = [i for i, row in enumerate(ids) if len(row) <= config.max_length - 2]
            taken.kept, taken.long = taken.kept + len(kept), taken.long + len(ids) - len(kept)
            if len(kept) < len(ids):
                taken.first = taken.first or next(batch[i].where for i in range(len(ids)) if i not in kept)
            taken.parts.append(record_batch([batch[i] for i in kept], [ids[i] for i in kept],
                                            config.max_length))
        if split == "train":
            seen = Counter(dict(zip(index.words, counts[len(SPECIALS):].tolist(), strict=False)))
            _check_cut(seen, taken, name)
        if not taken.kept:
            raise taken.left_out(name, split, config.max_length - 2)
    vocab, final = _vocabulary(index, counts, config.min_count, corpus.reserved())
    out.mkdir(parents=True, exist_ok=True)
    stats: dict[str, Any] = {"corpus": name, "vocabulary": len(vocab), "language": language_of(seen)
                             if config.language == "auto" else config.language, "sentences": {},
                             "dropped": {split: taken.long for split, taken in splits.items()},
                             "empty": {split: taken.empty for split, taken in splits.items()},
                             "mean_words": {}, "unk_rate": {}}
    for split, taken in splits.items():
        table = pa.Table.from_batches(taken.parts, _schema(config.max_length))
        batch = _renumber(table.combine_chunks(), final, config.max_length)
        write_split(batch, out / f"{split}.arrow")
        lengths, ids = batch.column("length").to_numpy(), batch.column("ids").values.to_numpy()
        stats["sentences"][split] = len(lengths)
        stats["mean_words"][split] = round(float(lengths.mean()), 3)
        stats["unk_rate"][split] = round(float((ids == UNK).sum() / lengths.sum()), 6)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (out / "stats.json").write_text(json.dumps(stats, indent=1), encoding="utf-8")


def write_split(batch: pa.RecordBatch, path: Path) -> None:
    """One split's file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _with_words(examples: Iterable[Example], taken: _Taken) -> Iterator[Example]:
    """The examples that hold a word which can be seen; the others are counted."""
    for example in examples:
        if any(map(has_words, example.words)):
            yield example
        else:
            taken.empty += 1
            taken.first = taken.first or example.where


def _check_cut(seen: Counter[str], taken: _Taken, name: str) -> None:
    """Raises `UserError` where text without spaces came out as whole sentences."""
    script = uncut(seen, taken.kept + taken.long)
    if script is not None:
        raise UserError(f"corpus {name!r}: its text is in {script}, written without spaces, "
                        "and the tokenizer leaves whole sentences as words; set corpus.source.tokenizer: "
                        "characters (or spacy:zh, or give text that is cut by spaces)")


def _numbered(examples: Iterable[Example], index: _Index) -> Iterator[tuple[list[Example], list[np.ndarray]]]:
    """Batches of examples, each with the provisional ids of its words."""
    source = iter(examples)
    while batch := list(islice(source, BATCH)):
        yield batch, [np.fromiter(map(index.__getitem__, e.words), np.int32, len(e.words)) for e in batch]


def _add(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    more = np.bincount(ids, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _schema(max_length: int) -> pa.Schema:
    kinds = (pa.list_(pa.int32(), max_length), pa.int32(), pa.large_string(), pa.string(),
             pa.list_(pa.string()), pa.large_string())
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))


def record_batch(examples: list[Example], ids: list[np.ndarray], max_length: int,
                 lengths: Sequence[int] | None = None) -> pa.RecordBatch:
    """Rows START ids END PAD... with what is known of each text. `lengths`: their words, where an id is not
    a word."""
    rows = np.full((len(ids), max_length), PAD, dtype=np.int32)
    rows[:, 0] = START
    for row, words in zip(rows, ids, strict=True):
        row[1 : len(words) + 1] = words
        row[len(words) + 1] = END
    schema = _schema(max_length)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), max_length),
        [len(words) for words in ids] if lengths is None else list(lengths),
        [" ".join(e.words) for e in examples],
        [None if e.fields is None else json.dumps(e.fields, ensure_ascii=False) for e in examples],
        [e.upos for e in examples],
        [e.tree for e in examples],
    ]
    return pa.record_batch([pa.array(column, kind.type) if isinstance(column, list) else column
                            for column, kind in zip(columns, schema, strict=True)], schema=schema)


def _vocabulary(index: _Index, counts: np.ndarray, min_count: int,
                reserved: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(word list, provisional id -> final id)."""
    words = [word for word, n in zip(index.words, counts[len(SPECIALS) :], strict=False) if n > min_count]
    words += [word for word in reserved if word not in set(words)]
    place = {word: i for i, word in enumerate(words, len(SPECIALS))}
    final = [*range(len(SPECIALS)), *(place.get(word, UNK) for word in index.words)]
    return [*SPECIALS, *words], np.array(final, dtype=np.int32)


def _renumber(table: pa.Table, final: np.ndarray, max_length: int) -> pa.RecordBatch:
    batch, = table.to_batches()
    ids = final[batch.column("ids").flatten().to_numpy()]
    return batch.set_column(0, "ids", pa.FixedSizeListArray.from_arrays(pa.array(ids), max_length))
