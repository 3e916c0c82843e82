"""Texts of the built-in grammar with the face of a prepared corpus, in memory: for tests of control."""

import itertools
from types import SimpleNamespace

import numpy as np

from trainable.corpora.restaurant import Restaurant

START, END, UNK, PAD = range(4)
LENGTH = 20


def memory_corpus(kind, count=80):
    """The face of `TokenizedCorpus` over texts of the built-in grammar; as `e2e` the annotation
    is left out."""
    source = Restaurant(Restaurant.Params(sentences=100, valid_sentences=count, max_words=LENGTH - 2))
    table = {"train": list(itertools.islice(source.examples("train"), 100)),
             "valid": list(source.examples("valid"))}
    vocab = ["START", "END", "UNK", "PAD",
             *sorted({word for rows in table.values() for row in rows for word in row.words})]
    index = {word: i for i, word in enumerate(vocab)}
    ids = {split: np.full((len(rows), LENGTH), PAD, dtype=np.int32) for split, rows in table.items()}
    for split, rows in table.items():
        for place, row in zip(ids[split], rows, strict=True):
            place[:len(row.words) + 2] = [START, *(index[word] for word in row.words), END]

    def row_of(example):
        gold = {"upos": example.upos, "tree": example.tree} if kind == "restaurant" else {}
        return {"text": " ".join(example.words), "words": list(example.words), "fields": example.fields,
                **gold}

    def encode(words):
        return [index.get(word, UNK) for word in words]

    return SimpleNamespace(
        vocab=vocab, stats={"corpus": kind}, tokens=None, encode=encode, word_ids=encode,
        decode=lambda row: [vocab[i]
                            for i in itertools.takewhile(lambda i: i != END, row) if i not in (START, PAD)],
        ids=ids.__getitem__, lengths=lambda split: np.array([len(row.words) for row in table[split]]),
        rows=lambda split, indices: [row_of(table[split][i]) for i in indices])


CORPORA = {kind: memory_corpus(kind) for kind in ("restaurant", "e2e")}
