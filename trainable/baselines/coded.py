"""Training pairs for baselines that read a target as symbols: a text, and the code of a target
that it meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.control.base import ControlTask, Target
from trainable.corpora.tokenized import PAD, TokenizedCorpus

Tell = Callable[[str], None]
TELL_EVERY = 20
"""Training steps between words about the progress."""


class Codebook:
    """Word ids and, behind them, ids of the codes' other symbols. A code's words keep their ids."""

    def __init__(self, corpus: TokenizedCorpus, codes: Sequence[Sequence[str]]):
        self.words = len(corpus.vocab)
        known = {word: i for i, word in enumerate(corpus.vocab)}
        extra = dict.fromkeys(symbol for code in codes for symbol in code if symbol not in known)
        self.index = known | {symbol: self.words + i for i, symbol in enumerate(extra)}
        self.size = self.words + len(extra) + 1
        self.unknown = self.size - 1
        """Stands for a symbol that no training text had."""

    def ids(self, code: Sequence[str]) -> list[int]:
        """Ids of a code's symbols."""
        return [self.index.get(symbol, self.unknown) for symbol in code]


class Pairs:
    """The first `rows` texts of the training split that give a target, each with its code."""

    def __init__(self, task: ControlTask, corpus: TokenizedCorpus, rows: int, generator: torch.Generator):
        texts: list[np.ndarray] = []
        codes: list[Sequence[str]] = []
        split = corpus.ids("train")
        for row in range(min(rows, len(split))):
            target = task.target(corpus, "train", row, generator)
            if target is not None:
                texts.append(split[row])
                codes.append(task.code(target))
        if not codes:
            raise UserError(f"control task '{task.name}': no training text gives a target, "
                            "so no baseline can learn it")
        self.ids = torch.from_numpy(np.asarray(texts, dtype=np.int64))
        self.book = Codebook(corpus, codes)
        self.codes = [self.book.ids(code) for code in codes]

    def __len__(self) -> int:
        return len(self.codes)


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> Tensor:
    """Rows of ids as [N, longest], PAD at the end or, with `left`, at the beginning."""
    width = max(len(row) for row in rows)
    pads = [[PAD] * (width - len(row)) for row in rows]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)])


def coded(book: Codebook, task: ControlTask, targets: Sequence[Target]) -> list[list[int]]:
    """Code ids of targets."""
    return [book.ids(task.code(target)) for target in targets]
