"""Control of one phrase: which words it shall reach over, and its label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.control.base import ControlTask, Target, TaskContext, TaskParams
from trainable.control.constituents import Constituents, bank_of
from trainable.control.controllers import CONTROLLER, Controller, prepare_controller
from trainable.control.heads import Heads
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.control.oracles.base import PHRASES, Oracle, Span
from trainable.control.oracles.choosing import AUTO, oracle_for, oracle_named
from trainable.control.pos import oracle_of_target
from trainable.control.syntax import PhraseBatch, Syntax
from trainable.control.target_files import Entry
from trainable.corpora.base import UNKNOWN, Split
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.models.prediction import Prediction


class Spans(ControlTask):
    """A span (i, j, label) that the text's bracketing shall hold exactly; words count from 0,
    j is the last one."""

    name = "spans"

    class Params(TaskParams):
        """`oracle`: who brackets, the targets and the generated text alike."""

        oracle: str = Field(AUTO, description="grammar, textblob (flat chunks), benepar:MODEL; auto: "
                                              "grammar or textblob")
        controller: Controller = CONTROLLER

    params: Params
    syntax: Syntax | None
    heads: Heads | None
    bank: Callable[[], Constituents] | None = None
    _held: tuple[list[Target], PhraseBatch] | None = None

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """One span of more than one word, drawn evenly from the row's; not the whole text, which
        length would ask for."""
        oracle = oracle_for(self.params.oracle, corpus, "spans")
        return self._drawn(corpus.decode(corpus.ids(split)[row]), oracle, generator)

    def _drawn(self, words: list[str], oracle: Oracle, generator: torch.Generator) -> Target | None:
        spans = sorted({span for span in oracle.read(words).spans if 0 < span[1] - span[0] < len(words) - 1})
        if not spans:
            return None
        return {"span": list(spans[int(torch.randint(len(spans), (), generator=generator))]),
                "oracle": oracle.full_name}

    def no_target_reason(self, corpus: TokenizedCorpus) -> str:
        """No span."""
        return "no held-out text has a span of more than one word; use another oracle or leave the task out"

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """`{"words_": [...], "spans": [[i, j, label]]}`: the file's span where the oracle reads it in
        the words too, else one that the oracle does read there."""
        oracle, words = oracle_for(self.params.oracle, corpus, "spans"), entry.words()
        entry.fits(len(words), int(corpus.ids("valid").shape[1]))
        spans = _spans(entry)
        shared = [span for span in spans if span in oracle.read(words).spans]
        drawn = ({"span": list(shared[0]), "oracle": oracle.full_name} if shared
                 else self._drawn(words, oracle, generator))
        if drawn is None:
            raise UserError(f"{entry.where}: oracle {oracle.full_name} reads no span of more than one word "
                            "in this text")
        return {**drawn, "human": words}

    def size(self, entry: Entry) -> int:
        """The number of words."""
        _spans(entry)
        return len(entry.words())

    def check(self, max_length: int) -> None:
        """The file, and a named oracle."""
        super().check(max_length)
        if self.params.oracle != AUTO:
            oracle_named(self.params.oracle, "spans")

    def prepare(self, context: TaskContext) -> None:
        """Tags by word and tag rows by phrase, counted in training text; or heads trained
        on noisy latents."""
        oracle = oracle_for(self.params.oracle, context.corpus, "spans")
        prepare_controller(self, context, oracle)
        self.bank = bank_of(context, oracle)

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """-log p(words i..j are such a phrase); 0 for a phrase that training text never shows."""
        values, sentences = self.log_probs(prediction, targets)
        if not len(values):  # differentiable all the same
            return 0 * prediction.log_probs[:, 0, 0]
        return values.new_zeros(len(targets)).index_add(0, sentences, -values)

    def log_probs(self, prediction: Prediction, targets: list[Target]) -> tuple[Tensor, Tensor]:
        """(log-probability [N] of each wanted span that text shows, whose sentence it is [N])."""
        if self.heads is not None:
            assert prediction.hidden is not None
            return self.heads.log_prob(prediction.hidden,
                                       [self.requested_spans(target) for target in targets])
        assert self.syntax is not None
        held = self._held
        if held is None or held[0] is not targets:  # guidance comes back with the same list at every step
            asked = [self.requested_spans(target) for target in targets]
            self._held = held = (targets, PhraseBatch(self.syntax, asked, prediction.log_probs.device))
        wanted = held[1]
        if not wanted.count:
            return prediction.log_probs.new_zeros(0), wanted.sentences
        return wanted.log_prob(self.syntax.log_tags_of(prediction.probs)), wanted.sentences

    def tag_counts(self) -> Syntax | None:
        """Of training text; none with a trained controller."""
        return self.syntax

    def constituents(self) -> Constituents | None:
        """Of training text, counted when they are first asked for."""
        return None if self.bank is None else self.bank()

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """The phrase; each position up to the word behind it holds a word."""
        made = Layout.free(length)
        made.spans = self.requested_spans(target)
        made.count_words(min(length, max(last for _, last, _ in made.spans) + 3))
        return made

    def requested_spans(self, target: Target) -> list[Span]:
        """The spans that a target wants."""
        first, last, label = target["span"]
        return [(first, last, label)]

    def symbols(self, lexicon: Lexicon) -> list[str]:
        """Where a phrase of each label opens and closes, and where the text ends."""
        return ([f"{self.name} {edge}" for label in PHRASES for edge in (f"({label}", f"{label})")]
                + [f"{self.name} end"])

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """A row for each phrase: its label opens at its first word and closes at its last.
        Other labels are an X."""
        rows = []
        for first, last, label in self.requested_spans(target):
            label = label if label in PHRASES else "X"
            opened, closed = [""] * positions, [""] * positions
            opened[first + 1], closed[last + 1] = f"{self.name} ({label}", f"{self.name} {label})"
            rows += ([opened, closed] if first == last
                     else [[a or b for a, b in zip(opened, closed, strict=True)]])
        return rows

    def said(self, target: Target) -> str:
        """`words 3 to 5: NP`, counted from 1."""
        return ", ".join(f"words {first + 1} to {last + 1}: {label}"
                         for first, last, label in self.requested_spans(target))

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`: the span with its label is there; `unlabeled`: with any label; each as far as
        its words are known."""
        spans = oracle_of_target(self, target).read(words).spans
        first, last, label = target["span"]
        known = known_share(words[first:last + 1])
        return {"success": known * ((first, last, label) in spans),
                "unlabeled": known * any(span[:2] == (first, last) for span in spans)}

    def oracle(self, target: Target) -> str:
        """The bracketing's name."""
        return target["oracle"]

    def code(self, target: Target) -> list[str]:
        """First, last and label."""
        first, last, label = target["span"]
        return [f"<{first}>", f"<{last}>", f"<{label}>"]


def known_share(words: Sequence[str]) -> float:
    """Share of words that are not UNK, 0 of none: what a phrase that an oracle reads in them counts."""
    return sum(word != UNKNOWN for word in words) / len(words) if words else 0.0


def _spans(entry: Entry) -> list[Span]:
    value = entry.get("spans")
    if not isinstance(value, list) or not value:
        raise UserError(f"{entry.where}: spans should be a list of [first, last, label]")
    return [_span(entry, item) for item in value]


def _span(entry: Entry, value: object) -> Span:
    if (not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, int) for part in value[:2])
            or not isinstance(value[2], str) or not 0 <= value[0] <= value[1]):
        raise UserError(f"{entry.where}: a span should be [first, last, label], not {value!r}")
    words = entry.words()
    # released texts end in a line break, which spans may include
    reach = len(words) + ("\n" in entry.strings("words_"))
    if value[1] >= reach or value[0] >= len(words):
        raise UserError(f"{entry.where}: span {value!r} reaches beyond the {len(words)} words")
    return value[0], min(value[1], len(words) - 1), value[2]
