"""Control of syntax by a row of part-of-speech tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.control.base import ControlTask, Target, TaskContext, TaskParams
from trainable.control.constituents import Constituents, bank_of
from trainable.control.controllers import CONTROLLER, Controller, counted, prepare_controller
from trainable.control.heads import Heads
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.control.oracles.base import UPOS, Oracle
from trainable.control.oracles.choosing import AUTO, oracle_for, oracle_named
from trainable.control.syntax import EDGE, INDEX, TAGS, Syntax, tag_weights
from trainable.control.target_files import MARKS, Entry
from trainable.corpora.base import UNKNOWN, Split
from trainable.corpora.tokenized import END, TokenizedCorpus
from trainable.models.prediction import Prediction


class Pos(ControlTask):
    """A row of universal part-of-speech tags, one per word; success is the share of words with
    the target's tag."""

    name = "pos"

    class Params(TaskParams):
        """`oracle`: who tags, the targets and the generated text alike."""

        oracle: str = Field(AUTO, description="grammar, textblob, spacy:MODEL, benepar:MODEL; auto: "
                                              "grammar or textblob")
        controller: Controller = CONTROLLER
        file_tags: bool = Field(False, description="take the tags of a target file as they are, "
                                                   "not the oracle's of its words")

    params: Params
    syntax: Syntax | None
    heads: Heads | None
    bank: Callable[[], Constituents] | None = None
    _held: tuple[list[Target], torch.Size, tuple[Tensor, Tensor, Tensor]] | None = None

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """The oracle's tags of the row, words outside the vocabulary being UNK as a model
        would write them."""
        oracle = oracle_for(self.params.oracle, corpus, "tags")
        words = corpus.decode(corpus.ids(split)[row])
        return {"tags": list(oracle.read(words).tags), "oracle": oracle.full_name} if words else None

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """`{"pos": [...], "words_": [...]}`."""
        oracle = oracle_for(self.params.oracle, corpus, "tags")
        if self.params.file_tags:
            target = {"tags": self._filed_tags(entry), "oracle": oracle.full_name}
        else:
            words = entry.words()
            target = {"tags": list(oracle.read(words).tags), "oracle": oracle.full_name, "human": words}
        entry.fits(len(target["tags"]), int(corpus.ids("valid").shape[1]))
        return target

    def _filed_tags(self, entry: Entry) -> list[str]:
        """The line's own tags, those of marks left out."""
        pairs = zip(entry.strings("pos"), entry.strings("words_"), strict=False)
        tags = [tag for tag, word in pairs if word not in MARKS]
        wrong = [tag for tag in tags if tag not in UPOS]
        if wrong:
            raise UserError(f"{entry.where}: {wrong[0]!r} is no tag of oracle {self.params.oracle}; legal: "
                            f"{', '.join(UPOS)}")
        return tags

    def size(self, entry: Entry) -> int:
        """The number of tags."""
        return len(self._filed_tags(entry) if self.params.file_tags else entry.words())

    def check(self, max_length: int) -> None:
        """The file, and a named oracle."""
        super().check(max_length)
        if self.params.oracle != AUTO:
            oracle_named(self.params.oracle, "tags")

    def prepare(self, context: TaskContext) -> None:
        """Tags by word, counted in training text or taken from an exported model's lexicon."""
        corpus = context.corpus
        if isinstance(corpus, Lexicon):
            self.syntax, self.heads, self.bank = Syntax.of_tags(corpus.tags, corpus.vocab), None, None
            return
        oracle = oracle_for(self.params.oracle, corpus, "tags")
        prepare_controller(self, context, oracle)
        self.bank = bank_of(context, oracle)

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """-[sum over words i of log p(tag i at i) + log p(END behind the last)], in nats for
        the whole target."""
        if self.heads is not None:
            assert prediction.hidden is not None
            log_tags = self.heads.log_tags(prediction.hidden)
        else:
            assert self.syntax is not None
            log_tags = self.syntax.log_tags_of(prediction.probs)
        held = self._held
        # guidance comes back with the same list at every step
        if held is None or held[0] is not targets or held[1] != prediction.log_probs.shape:
            self._held = held = targets, prediction.log_probs.shape, _places(targets, prediction.log_probs)
        wanted, used, ends = held[2]
        tags = (log_tags.gather(2, wanted)[..., 0] * used).sum(1)
        return -(tags + prediction.log_probs.flatten(1).gather(1, ends)[:, 0])

    def tag_counts(self) -> Syntax | None:
        """Of training text; none with a trained controller."""
        return self.syntax

    def constituents(self) -> Constituents | None:
        """Of training text, where the oracle brackets it, too."""
        return None if self.bank is None else self.bank()

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """END behind the last tag; each word weighs as often as it carries its tag in text. Counts,
        even where a trained controller was asked for."""
        made = Layout.of_length(len(target["tags"]), length)
        share = counted(self).tag_given_word
        made.weights = torch.zeros(length, len(share))
        tags = torch.tensor([INDEX[tag] for tag in target["tags"]])
        made.weights[1:len(tags) + 1] = tag_weights(share, tags)
        made.tags = tuple(tags.tolist())
        return made

    def symbols(self, lexicon: Lexicon) -> list[str]:
        """The tags, and the end."""
        return [f"pos {tag}" for tag in TAGS]

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """Each tag at its word, the end behind them."""
        tags = target["tags"]
        return [["", *(f"pos {tag}" for tag in tags), f"pos {EDGE}", *[""] * (positions - len(tags) - 2)]]

    def said(self, target: Target) -> str:
        """`DET NOUN VERB`."""
        return " ".join(target["tags"])

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`: share of the target's tags that stand at their word, over the longer of the two
        rows; `exact`: all. UNK has no tag."""
        tags, wanted = oracle_of_target(self, target).read(words).tags, target["tags"]
        same = sum(a == b and word != UNKNOWN for word, a, b in zip(words, tags, wanted, strict=False))
        longer = max(len(tags), len(wanted))
        return {"success": same / longer, "exact": float(same == longer)}

    def oracle(self, target: Target) -> str:
        """The tagger's name."""
        return target["oracle"]

    def code(self, target: Target) -> list[str]:
        """The tags."""
        return [f"<{tag}>" for tag in target["tags"]]

    def keys(self, lexicon: Lexicon) -> list[str]:
        """`pos`, where the lexicon knows tags."""
        return ["pos"] if lexicon.tags else []

    def parse(self, key: str, value: str, lexicon: Lexicon) -> Target:
        """`pos=DET NOUN AUX ADJ PUNCT`."""
        tags = value.upper().replace(",", " ").split()
        wrong = [tag for tag in tags if tag not in UPOS]
        if wrong:
            raise UserError(f"control pos={value}: {wrong[0]!r} is no tag; legal: {', '.join(UPOS)}")
        if len(tags) > lexicon.max_length - 2:
            raise UserError(f"control pos={value}: {len(tags)} tags, but the model writes at most "
                            f"{lexicon.max_length - 2} words")
        return {"tags": tags, "oracle": oracle_for(AUTO, lexicon, "tags").full_name}


def oracle_of_target(task: ControlTask, target: Target) -> Oracle:
    """The oracle that a target names, built once per task."""
    held = task.__dict__.setdefault("_oracles", {})
    if target["oracle"] not in held:
        held[target["oracle"]] = oracle_named(target["oracle"])
    return held[target["oracle"]]


def _places(targets: Sequence[Target], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of targets, for log-posteriors [B, L, V]: the tag that each position shall have [B, L, 1], where one is
    wanted [B, L] bool, and where that of END behind them stands in a flat row [B, 1]."""
    wanted = torch.full(like.shape[:2], -1, device=like.device)
    for row, target in zip(wanted, targets, strict=True):
        if len(target["tags"]) + 2 > len(row):
            raise ValueError(f"{len(target['tags'])} tags do not fit into {len(row)} positions")
        row[1:len(target["tags"]) + 1] = torch.tensor([INDEX[tag] for tag in target["tags"]])
    used = wanted >= 0
    ends = (used.sum(1, keepdim=True) + 1) * like.shape[2] + END
    return wanted.clamp(min=0)[..., None], used, ends
