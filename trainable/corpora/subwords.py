"""A corpus in the tokens of a Hugging Face tokenizer, beside the same text in words.

The folder is one of `trainable.corpora.tokenized` with `tokens.json` beside it, and holds in `words/` the
corpus as it is without the tokenizer: what a teacher learns, so that one teacher serves all tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spaces.config import CorpusConfig
from spaces.errors import UserError
from trainable.corpora import tokenize
from trainable.corpora.base import SPLITS, Example, Split
from trainable.corpora.tokenize import BATCH
from trainable.corpora.tokenized import SPECIALS, TOKENS, UNK, WORDS, TokenizedCorpus
from trainable.corpora.tokens import FIRST, Tokens


def build(config: CorpusConfig, out: Path) -> None:
    """Write the corpus of `config`, which names a tokenizer, into the folder `out`.

    The vocabulary is START, END, UNK, PAD, then the tokenizer's ordinary tokens: all, or (`tokens: seen`)
    those that training text has more than `min_count` times. Texts of more than `max_length` - 2 tokens
    are counted and left out. Raises `UserError` as `tokenize.build`, and for a tokenizer that does not do.
    """
    assert config.tokenizer is not None
    tokens = Tokens.open(config.tokenizer, config.mask)
    tokenize.build(config.model_copy(update={"tokenizer": None}), out / WORDS)
    words = TokenizedCorpus.open(out / WORDS)
    if config.tokens == "seen":
        counts = np.zeros(FIRST + len(tokens.ids), dtype=np.int64)
        for example in _examples(words, "train"):
            np.add.at(counts, tokens.encode(example.words), 1)
        tokens = tokens.only(row for row in range(FIRST, len(counts)) if counts[row] > config.min_count)
    stats: dict[str, Any] = {**words.stats, "vocabulary": FIRST + len(tokens.ids),
                             "tokenizer": config.tokenizer, "sentences": {}, "mean_words": {},
                             "mean_tokens": {}, "unk_rate": {},
                             "dropped": dict(words.stats["dropped"]), "changed_words": {}}
    for split in SPLITS:
        _write(words, tokens, split, config, out, stats)
    vocab = [*SPECIALS, *tokens.spellings()]
    (out / TOKENS).write_text(json.dumps(tokens.to_json(), ensure_ascii=False), encoding="utf-8")
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (out / "stats.json").write_text(json.dumps(stats, indent=1), encoding="utf-8")


def _examples(words: TokenizedCorpus, split: Split) -> Iterator[Example]:
    """The texts of a split as the corpus gave them."""
    count = len(words.lengths(split))
    for start in range(0, count, BATCH):
        for row in words.rows(split, range(start, min(start + BATCH, count))):
            upos = None if row["upos"] is None else tuple(row["upos"])
            yield Example(tuple(row["words"]), row["fields"], upos, row["tree"])


def _write(words: TokenizedCorpus, tokens: Tokens, split: Split, config: CorpusConfig, out: Path,
           stats: dict[str, Any]) -> None:
    """One split's file, and what is said of it in `stats`."""
    parts, lengths, tokens_in, unknown, changed = [], list[int](), 0, 0, 0
    source = _examples(words, split)
    while batch := list(islice(source, BATCH)):
        kept: list[Example] = []
        rows: list[np.ndarray] = []
        for example in batch:
            ids = tokens.encode(example.words)
            if len(ids) > config.max_length - 2:
                stats["dropped"][split] += 1
                continue
            read = tokens.decode(ids)
            changed += sum(a != b for a, b in zip(read, example.words, strict=False))
            changed += abs(len(read) - len(example.words))
            if len(read) != len(example.words):  # what was said of each word fits no more
                example = Example(example.words, example.fields)
            lengths.append(len(read))
            tokens_in, unknown = tokens_in + len(ids), unknown + ids.count(UNK)
            kept.append(example)
            rows.append(np.array(ids, dtype=np.int32))
        parts.append(tokenize.record_batch(kept, rows, config.max_length,
                                           lengths[len(lengths) - len(kept):]))
    if not lengths:
        kind = {"train": "training", "valid": "held-out"}[split]
        raise UserError(f"corpus {stats['corpus']!r}: no {kind} text is left of {stats['dropped'][split]:,}: "
                        f"all have more than corpus.max_length - 2 = {config.max_length - 2} tokens of "
                        f"{config.tokenizer}")
    table = pa.Table.from_batches(parts)
    tokenize.write_split(table.combine_chunks().to_batches()[0], out / f"{split}.arrow")
    stats["sentences"][split] = len(lengths)
    stats["mean_words"][split] = round(float(np.mean(lengths)), 3)
    stats["mean_tokens"][split] = round(tokens_in / len(lengths), 3)
    stats["unk_rate"][split] = round(unknown / tokens_in, 6)
    stats["changed_words"][split] = round(changed / max(1, sum(lengths)), 6)
