"""Filling a gap between two given pieces of text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from trainable.control.base import ControlTask, Target, TaskParams
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus
from trainable.control.target_files import Entry
from trainable.corpora.base import UNKNOWN, Split
from trainable.corpora.tokenized import END, UNK, TokenizedCorpus
from trainable.models.prediction import Prediction

LEAST = 3  # words of a gap, and of both contexts together, that make a target


class Infill(ControlTask):
    """Words between a given left and right context; success is ROUGE-L of the gap, 0 where
    a context is not kept."""

    name = "infill"

    class Params(TaskParams):
        """`share`: how much of the text is the gap."""

        share: float = Field(0.4, gt=0, lt=1,
                             description="share of the words that is left out, in the middle")

    params: Params

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """The row with its middle left out."""
        return self._of(corpus.decode(corpus.ids(split)[row]))

    def _of(self, words: list[str]) -> Target | None:
        gap = round(self.params.share * len(words))
        if gap < LEAST or len(words) - gap < LEAST:
            return None
        start = (len(words) - gap) // 2
        return {"left": words[:start], "right": words[start + gap:], "reference": words[start:start + gap]}

    def no_target_reason(self, corpus: TokenizedCorpus) -> str:
        """Texts too short."""
        return f"no held-out text is long enough for a gap of {LEAST} words; leave the task out"

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """`{"left": [...], "right": [...], "reference": [...]}`, each a list of words."""
        left, right, reference = (entry.words(key) for key in ("left", "right", "reference"))
        words = left + reference + right
        entry.fits(len(words), int(corpus.ids("valid").shape[1]))
        return {"left": left, "right": right, "reference": reference, "human": words}

    def said(self, target: Target) -> str:
        """The context, with the words to find as `_`."""
        return " ".join([*target["left"], *["_"] * len(target["reference"]), *target["right"]])

    def size(self, entry: Entry) -> int:
        """Words of both contexts and the gap."""
        return sum(len(entry.words(key)) for key in ("left", "right", "reference"))

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """Sum of -log p(word) over the words of both contexts and the END behind them. The gap
        is the model's own."""
        log_probs = prediction.log_probs
        wanted = torch.full(log_probs.shape[:2], -1, device=log_probs.device)
        for row, target in zip(wanted, targets, strict=True):
            size = len(target["left"]) + len(target["reference"]) + len(target["right"])
            if size + 2 > len(row):
                raise ValueError(f"{size} words do not fit into {len(row)} positions")
            row[1:len(target["left"]) + 1] = torch.tensor(corpus.encode(target["left"]))
            row[size + 1 - len(target["right"]):size + 2] = torch.tensor([*corpus.encode(target["right"]),
                                                                          END])
        used = (wanted >= 0) & (wanted != UNK)
        each = log_probs.gather(2, wanted.clamp(min=0)[..., None])[..., 0] * used
        return -each.sum(1)

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """Both contexts word for word, as many free words between them as were left out."""
        left, right = corpus.encode(target["left"]), corpus.encode(target["right"])
        made = Layout.of_length(len(left) + len(target["reference"]) + len(right), length)
        made.keep(1, left)
        made.keep(1 + len(left) + len(target["reference"]), right)
        return made

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`; `kept`: both contexts stand word for word; BLEU-4 (smoothed) and ROUGE-L F1 of
        what is between, where UNK is like no word of the reference."""
        left, right, reference = target["left"], target["right"], target["reference"]
        kept = (len(words) >= len(left) + len(right) and words[:len(left)] == left
                and words[len(words) - len(right):] == right)
        gap = words[len(left):max(len(left), len(words) - len(right))]
        gap = ["" if word == UNKNOWN else word for word in gap]
        rouge = rouge_l(gap, reference)
        return {"success": rouge * kept, "kept": float(kept), "bleu4": bleu4(gap, reference),
                "rouge_l": rouge}

    def oracle(self, target: Target) -> str:
        """The text that the gap was cut from."""
        return "reference"

    def code(self, target: Target) -> list[str]:
        """Left context, one mark per word of the gap, right context."""
        return [*target["left"], *["<gap>"] * len(target["reference"]), *target["right"]]


def bleu4(words: Sequence[str], reference: Sequence[str]) -> float:
    """Sentence BLEU-4 of words as they are cut, 0 to 1, as sacrebleu gives it (`effective_order`,
    smoothing `exp`; times 100).

    Orders of which the text has no n-gram are left out, so that three right words score 1. A precision
    without a match is smoothed by 1 / 2^k (Chen and Cherry 2014, method 3); without any match the score is 0.
    Brevity penalty as in Papineni et al. 2002.
    """
    precisions, halved = [], 1.0
    for n in range(1, 5):
        grams = _grams(words, n)
        if not grams:
            break
        same, total = (grams & _grams(reference, n)).total(), grams.total()
        if n == 1 and not same:
            return 0.0
        halved *= 1 if same else 2
        precisions.append((same or 1 / halved) / total)
    if not precisions:
        return 0.0
    brevity = min(0.0, 1 - len(reference) / len(words))
    return math.exp(brevity + sum(map(math.log, precisions)) / len(precisions))


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))


def rouge_l(words: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L F1 by rouge-score's own longest common subsequence, of words as the corpus cuts them.

    `rouge_scorer.score` of the joined texts gives other figures: it folds case and drops every sign that is
    not a-z or 0-9, so that punctuation, accents and the pound sign count for nothing there.
    """
    from rouge_score.rouge_scorer import _score_lcs

    return float(_score_lcs(list(reference), list(words)).fmeasure)
