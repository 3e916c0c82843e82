"""Control of a text's whole bracketing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainable.control.base import Target
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus
from trainable.control.oracles.base import Oracle, Span
from trainable.control.oracles.choosing import oracle_for
from trainable.control.pos import oracle_of_target
from trainable.control.spans import Spans, known_share
from trainable.control.target_files import Entry
from trainable.corpora.base import Split
from trainable.corpora.tokenized import END, TokenizedCorpus
from trainable.models.prediction import Prediction


class Tree(Spans):
    """A text's labeled brackets without its words and tags; success is the labeled bracketing
    F1 (PARSEVAL)."""

    name = "tree"

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """All spans of the row, and its number of words."""
        oracle = oracle_for(self.params.oracle, corpus, "spans")
        return self._of(corpus.decode(corpus.ids(split)[row]), oracle)

    def _of(self, words: list[str], oracle: Oracle) -> Target | None:
        spans = [list(span) for span in oracle.read(words).spans]
        return {"spans": spans, "words": len(words), "oracle": oracle.full_name} if spans else None

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """The oracle's bracketing of the line's `words_`."""
        words = entry.words()
        entry.fits(len(words), int(corpus.ids("valid").shape[1]))
        made = self._of(words, oracle_for(self.params.oracle, corpus, "spans"))
        return {**(made or {"spans": [[0, len(words) - 1, "S"]], "words": len(words), "oracle": "none"}),
                "human": words}

    def said(self, target: Target) -> str:
        """Every phrase, and the number of words."""
        return f"{target['words']} words; {super().said(target)}"

    def size(self, entry: Entry) -> int:
        """The number of words."""
        return len(entry.words())

    def requested_spans(self, target: Target) -> list[Span]:
        """Every span."""
        return [(first, last, label) for first, last, label in target["spans"]]

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """END behind the last word, and every phrase."""
        made = Layout.of_length(target["words"], length)
        made.spans, made.complete = self.requested_spans(target), True
        return made

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """Every phrase, and the end of the text."""
        end = [""] * positions
        end[target["words"] + 1] = f"{self.name} end"
        return [*super().condition(target, positions), end]

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """Sum over the target's spans of -log p(such a phrase is there), and -log p(END behind
        the last word)."""
        log_probs = prediction.log_probs
        values, sentences = self.log_probs(prediction, targets)
        ends = torch.tensor([[(target["words"] + 1) * log_probs.shape[2] + END] for target in targets],
                            device=log_probs.device)
        losses = -log_probs.flatten(1).gather(1, ends)[:, 0]
        return losses.index_add(0, sentences, -values.to(losses))

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`: labeled F1 over all brackets; `unlabeled`: F1 of the brackets alone; `exact`:
        the same tree. A bracket counts as far as the words in it are known."""
        found = oracle_of_target(self, target).read(words).spans
        wanted = self.requested_spans(target)

        def worth(span: tuple) -> float:
            return known_share(words[span[0]:span[1] + 1])

        return {"success": bracketing_f1(found, wanted, worth),
                "exact": float(sorted(found) == sorted(wanted)) * known_share(words),
                "unlabeled": bracketing_f1([span[:2] for span in found],
                                           [span[:2] for span in wanted], worth)}

    def code(self, target: Target) -> list[str]:
        """The brackets in order: `(S (NP ( ) (VP ( ( ) )`, a bare pair for each word."""
        opening: list[list[Span]] = [[] for _ in range(target["words"])]
        for span in self.requested_spans(target):
            opening[span[0]].append(span)
        symbols: list[str] = []
        for i in range(target["words"]):
            symbols += [f"<({label}>" for _, _, label in sorted(opening[i], key=lambda span: -span[1])]
            symbols.append("<w>")
            symbols += ["<)>"] * sum(span[1] == i for span in self.requested_spans(target))
        return symbols


def bracketing_f1(found: Iterable[tuple], wanted: Iterable[tuple],
                  worth: Callable[[tuple], float] = lambda span: 1.0) -> float:
    """F1 of two multisets of brackets, a shared one counting what it is `worth`; 0 when either is empty
    and the other is not."""
    found, wanted = list(found), list(wanted)
    shared = sum(count * worth(span) for span, count in (Counter(found) & Counter(wanted)).items())
    return 2 * shared / max(1, len(found) + len(wanted))
