"""What a model is told of a text while it trains, so that it can be led without a controller
(classifier-free guidance).

A condition is made of symbols that stand at positions: a length marks each position as inside or behind
the text, a meaning says itself everywhere, tags stand at their words. Symbols at one position add up,
in the model's embedding of them, so several controls can be told at once. Which symbols there are follows
from the tasks and the corpus (`symbols_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.control.base import ControlTask, Target
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.registry import TASKS
from trainable.seeds import stream

ALSO = 0.25
"""Share of the told texts of which a model is also told what another task would ask."""
DRAWS = 4
"""Targets of a task drawn of each training text: as many of them as differ, up to the first that repeats."""


def conditionable() -> list[str]:
    """Names of the tasks whose targets a model can be told."""
    return [name for name in TASKS if TASKS.get(name).symbols is not ControlTask.symbols]


def symbols_of(conditions: Sequence[PluginRef], lexicon: Lexicon) -> list[str]:
    """Every symbol that a model with these `model.conditions` knows, in the order of its embedding."""
    return list(dict.fromkeys(symbol for ref in conditions for symbol in TASKS.build(ref).symbols(lexicon)))


def check_conditions(conditions: Sequence[PluginRef]) -> None:
    """Raises `UserError` for a task that cannot be told, or that stands there twice."""
    names = [ref.name for ref in conditions]
    for i, name in enumerate(names):
        if name not in conditionable():
            raise UserError(f"control task {name!r} cannot be told to a model; legal: "
                            f"{', '.join(conditionable())}")
        if name in names[:i]:
            raise UserError(f"control task {name!r} is there twice")


def check_conditioned(task: ControlTask, by: str, conditions: Sequence[PluginRef]) -> None:
    """Raises `UserError` where a model with these conditions is to be led by what it was never told."""
    names = [ref.name for ref in conditions]
    missing = [name for name in task.required_conditions() if name not in names]
    if by in ("classifier_free", "both") and missing:
        raise UserError(f"control task {task.name!r} is led by {by}, "
                        f"and {missing[0]!r} is not among model.conditions "
                        f"({', '.join(names) or 'none'}): add it there, or give the task by: gradient")


def check_positions(task: str, by: str, tokenizer: str | None) -> None:
    """Raises `UserError` where a task led in this way takes each position for a word, and positions are
    tokens."""
    if tokenizer is not None and by != "reweight" and (task != "semantic" or by != "classifier_free"):
        raise UserError(f"control task {task!r} led by {by} takes each position for a word, and with "
                        f"corpus.tokenizer it is a token; legal: reweight")


def encode_conditions(task: ControlTask, targets: Sequence[Target], symbols: dict[str, int],
                      positions: int) -> Tensor:
    """[n, K, positions] ids of what a model with these symbols is told of each target, 0 for nothing.

    Raises `UserError` for a target that the model was never told of.
    """
    rows_of = [[[ids_of(symbol, symbols, target) for symbol in row]
                for row in task.condition(target, positions)]
               for target in targets]
    found = torch.zeros(len(rows_of), max(map(len, rows_of), default=0), positions, dtype=torch.long)
    for place, rows in zip(found, rows_of, strict=True):
        if rows:
            place[:len(rows)] = torch.tensor(rows)
    return found


def ids_of(symbol: str, symbols: dict[str, int], target: Target) -> int:
    """The id of a symbol, 0 for the empty one."""
    if symbol and symbol not in symbols:
        kind = symbol.partition(" ")[0]
        known = [other for other in symbols if other.startswith(f"{kind} ")]
        hint = f"of {kind} it knows {', '.join(other.partition(' ')[2] for other in known)}" if known else \
            f"{kind} is not among its model.conditions"
        raise UserError(f"control: the model was never told {symbol!r} while it trained; {hint}")
    return symbols[symbol] if symbol else 0


class Conditions:
    """What a model can be told of the training texts."""

    def __init__(self, rows_of: Sequence[Tensor], drop: float):
        """`ids`: for each task the ids [N, draws, K, L] of a few different targets per text, 0 for
        nothing; `drop`: share of the texts of which nothing is told."""
        self.ids, self.drop = list(rows_of), drop
        self.counts = [(ids != 0).flatten(2).any(2).sum(1) for ids in rows_of]

    @classmethod
    def open(cls, folder: Path, drop: float) -> Conditions:
        """From what `write` left."""
        tensors = load_file(folder / "told.safetensors")
        return cls([tensors[str(i)] for i in range(len(tensors))], drop)

    @staticmethod
    def write(conditions: Sequence[PluginRef], corpus: TokenizedCorpus, lexicon: Lexicon,
              folder: Path) -> None:
        """Draw targets of every training text for each task and keep what is told of them."""
        symbols = {symbol: i for i, symbol in enumerate(symbols_of(conditions, lexicon), 1)}
        save_file({str(i): draw_conditions(TASKS.build(ref), corpus, symbols, lexicon.max_length)
                   for i, ref in enumerate(conditions)}, folder / "told.safetensors")

    def at(self, rows: Sequence[int] | np.ndarray, generator: torch.Generator) -> Tensor:
        """[B, K, L] what is told of these texts in one step.

        Of a share `drop` nothing; else what one task asks, any of them equally often, and now and then
        what another does. Half of the time a task tells all that was drawn of a text, half of the time
        one of its targets.
        """
        texts, tasks = torch.as_tensor(rows), len(self.ids)
        count = len(texts)
        spoken = torch.rand(count, generator=generator) >= self.drop
        one = torch.randint(tasks, (count,), generator=generator)
        also = torch.rand(count, tasks, generator=generator) < ALSO
        shown = spoken[:, None] & (also | (torch.arange(tasks) == one[:, None]))
        parts = []
        for i, ids in enumerate(self.ids):
            draw = (torch.rand(count, generator=generator) * self.counts[i][texts]).long()
            every = torch.rand(count, generator=generator) < 0.5
            kept = shown[:, i, None] & (every[:, None] | (torch.arange(ids.shape[1]) == draw[:, None]))
            parts.append((ids[texts].long() * kept[:, :, None, None]).flatten(1, 2))
        return torch.cat(parts, 1)


def draw_conditions(task: ControlTask, corpus: TokenizedCorpus, symbols: dict[str, int],
                    positions: int) -> Tensor:
    """[N, draws, K, positions] ids of the different targets among `DRAWS` of each training text, int16.
    Texts without a target have none. Raises `UserError` where no text has one."""
    generator = stream("conditions", task.name)
    asked: list[Target] = []
    places: list[tuple[int, int]] = []
    for row in range(len(corpus.lengths("train"))):
        found: dict[str, Target] = {}
        for _ in range(DRAWS):
            target = task.target(corpus, "train", row, generator)
            if target is None or str(task.condition(target, positions)) in found:
                break
            found[str(task.condition(target, positions))] = target
        places += [(row, i) for i in range(len(found))]
        asked += found.values()
    if not asked:
        raise UserError(f"model.conditions: control task '{task.name}': {task.no_target_reason(corpus)}")
    ids = encode_conditions(task, asked, symbols, positions)
    rows, draws = (torch.tensor(side) for side in zip(*places, strict=True))
    rows_of = torch.zeros(len(corpus.lengths("train")), int(draws.max()) + 1, *ids.shape[1:],
                          dtype=torch.int16)
    rows_of[rows, draws] = ids.short()
    return rows_of
