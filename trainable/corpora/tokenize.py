"""A corpus cut to token ids once, kept as Arrow files, and opened by mapping them into memory.

A folder holds `vocab.json`, `train.arrow`, `valid.arrow` (one record batch each, so that all ids lie in one
piece) and `stats.json`. Opening reads the word list and two footers; the ids are views of the mapped files,
shared by all processes.
"""

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
from trainable.corpora.tokens import Tokens
from trainable.registry import CORPORA

START, END, UNK, PAD = range(4)
SPECIALS = ("START", "END", UNKNOWN, "PAD")
TOKENS, WORDS = "tokens.json", "words"
"""In the folder of a corpus in a tokenizer's tokens (`trainable.corpora.subwords`): the tokenizer, and the
same text in words."""
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
    return pa.schema([
        ("ids", pa.list_(pa.int32(), max_length)), ("length", pa.int32()), ("text", pa.large_string()),
        ("fields", pa.string()), ("upos", pa.list_(pa.string())), ("tree", pa.large_string()),
    ])


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


class TokenizedCorpus:
    """A tokenized corpus on disk, mapped into memory. Open it with `TokenizedCorpus.open(folder)`."""

    START, END, UNK, PAD = START, END, UNK, PAD

    def __init__(self, vocab: list[str], stats: dict[str, Any], batches: dict[str, pa.RecordBatch],
                 tokens: Tokens | None = None, words: TokenizedCorpus | None = None):
        """`tokens`: the tokenizer that ids are of, where they are not of words; then `words` is the same text
        in words."""
        self.vocab = vocab
        self.stats = stats
        self.tokens = tokens
        self.words = words or self
        """The text in words, whatever the ids are: what a teacher reads."""
        self._batches = batches = {split: _worded(batch) for split, batch in batches.items()}
        self._index = {word: i for i, word in enumerate(vocab[len(SPECIALS) :], len(SPECIALS))}
        self._ids, self._lengths = {}, {}
        for split, batch in batches.items():
            column = batch.column("ids")
            self._ids[split] = column.values.to_numpy(zero_copy_only=True).reshape(len(column),
                                                                                   column.type.list_size)
            self._lengths[split] = batch.column("length").to_numpy(zero_copy_only=True)

    @classmethod
    def open(cls, folder: Path | str) -> TokenizedCorpus:
        """Map what `build` wrote, and look whether it holds together (a tenth of a second for a million
        texts). Raises `UserError` naming a missing or damaged file."""
        folder = Path(folder)
        vocab, stats = (_read_json(folder / name) for name in ("vocab.json", "stats.json"))
        if (not isinstance(vocab, list) or tuple(vocab[: len(SPECIALS)]) != SPECIALS
                or not all(isinstance(word, str) for word in vocab)):
            raise UserError(f"{folder / 'vocab.json'}: not a word list that begins with "
                            f"{', '.join(SPECIALS)}; {_REBUILD}")
        if not isinstance(stats, dict):
            raise UserError(f"{folder / 'stats.json'}: not an object; {_REBUILD}")
        batches: dict[str, pa.RecordBatch] = {split: _map(folder / f"{split}.arrow", len(vocab))
                                              for split in SPLITS}
        if not (folder / TOKENS).is_file():
            return cls(vocab, stats, batches)
        try:
            tokens = Tokens.from_json(_read_json(folder / TOKENS), vocab)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / TOKENS}: does not fit vocab.json ({_line(error)}); "
                            f"{_REBUILD}") from None
        return cls(vocab, stats, batches, tokens, cls.open(folder / WORDS))

    def ids(self, split: Split) -> np.ndarray:
        """[N, max_length] int32, a read-only view of the mapped file."""
        return self._ids[split]

    def lengths(self, split: Split) -> np.ndarray:
        """[N] int32: words of each row, START and END not counted."""
        return self._lengths[split]

    def rows(self, split: Split, indices: Iterable[int]) -> list[dict[str, Any]]:
        """For each index: `words`, `text`, `fields`, `upos`, `tree` as the corpus gave them; None for
        what it does not have."""
        batch = self._batches[split].select(["text", "fields", "upos", "tree"]).take(pa.array(list(indices),
                                                                                              pa.int64()))
        rows = batch.to_pylist()
        for row in rows:
            row["words"] = row["text"].split(" ")
            row["fields"] = None if row["fields"] is None else _fields(row["fields"])
        return rows

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids of words, without START and END; words outside the vocabulary become UNK. Of a tokenizer, a
        word may have several."""
        if self.tokens is not None:
            return self.tokens.encode(words)
        return [self._index.get(word, UNK) for word in words]

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """One id for each word: UNK where none alone says it."""
        return self.encode(words) if self.tokens is None else self.tokens.word_rows(words)

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Words of a row of ids up to its first END; START and PAD are skipped."""
        words: list[str] = []
        if self.tokens is not None:
            row = np.asarray(ids).tolist()
            row = row[:row.index(END)] if END in row else row
            return self.tokens.decode([i for i in row if i not in (START, PAD)])
        for i in np.asarray(ids).tolist():
            if i == END:
                break
            if i not in (START, PAD):
                words.append(self.vocab[i])
        return words


def _worded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that hold words: folders of before such rows were left out may have others."""
    lengths = batch.column("length").to_numpy(zero_copy_only=True)
    return batch if len(lengths) == 0 or lengths.min() > 0 else batch.filter(pa.array(lengths > 0))


_REBUILD = "delete the folder to have it built again"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a tokenized corpus is a folder written by "
                        "corpora.tokenize.build") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({_line(error)}); {_REBUILD}") from None


def _fields(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"a tokenized corpus holds fields that are not JSON ({_line(error)}); "
                        f"{_REBUILD}") from None
    return found


def _map(path: Path, words: int) -> pa.RecordBatch:
    """The one batch of a file, with offsets within it and ids of so many words: what lies outside would be
    read from wherever it points to."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        names = _schema(8).names
        if reader.num_record_batches != 1 or reader.schema.names[:len(names)] != names:
            raise pa.ArrowInvalid(f"not one record batch of {', '.join(names)}")
        kind = reader.schema.field("ids").type
        if (not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.int32()
                or reader.schema.field("length").type != pa.int32()):
            raise pa.ArrowInvalid("ids or lengths of another type")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        ids, lengths = batch.column("ids"), batch.column("length")
        if ids.null_count or ids.values.null_count or lengths.null_count or batch.column("text").null_count:
            raise pa.ArrowInvalid("rows without ids, length or text")
        values, lengths = ids.values.to_numpy(), lengths.to_numpy()
        if len(values) and not 0 <= values.min() <= values.max() < words:
            raise pa.ArrowInvalid(f"ids beyond the {words:,} words of the vocabulary")
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= kind.list_size - 2:
            raise pa.ArrowInvalid("lengths beyond the rows")
        return batch
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_REBUILD}") from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged or not an Arrow file ({_line(error)}); {_REBUILD}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
