"""A tokenized corpus, opened by mapping its Arrow files into memory.

A folder holds `vocab.json`, `train.arrow`, `valid.arrow` (one record batch each, so that all ids lie in one
piece) and `stats.json`; `trainable.corpora.tokenize` writes it. Opening reads the word list and two footers;
the ids are views of the mapped files, shared by all processes.

pyarrow is imported where files are read: an exported model needs the special ids alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.errors import UserError
from trainable.corpora.base import SPLITS, UNKNOWN, Split
from trainable.corpora.special import END, PAD, START, UNK
from trainable.corpora.tokens import Tokens

if TYPE_CHECKING:
    import pyarrow as pa

SPECIALS = ("START", "END", UNKNOWN, "PAD")
TOKENS, WORDS = "tokens.json", "words"
"""In the folder of a corpus in a tokenizer's tokens (`trainable.corpora.subwords`): the tokenizer, and the
same text in words."""
COLUMNS = ("ids", "length", "text", "fields", "upos", "tree")
"""Of a split's file."""


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
        import pyarrow as pa

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
    import pyarrow as pa

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
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1 or tuple(reader.schema.names[:len(COLUMNS)]) != COLUMNS:
            raise pa.ArrowInvalid(f"not one record batch of {', '.join(COLUMNS)}")
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
