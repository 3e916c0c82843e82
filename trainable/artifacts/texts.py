"""Sentences of an exported model, free or under a control, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from trainable.artifacts.artifact import Loaded
from trainable.control.base import TaskContext
from trainable.control.conditions import check_conditioned
from trainable.control.generating import guided
from trainable.control.parsing import parse_controls

BATCH = 32  # sentences generated at once: bounds memory, and lets a long request show as it goes

Rows = list[dict[str, Any]]


def texts(loaded: Loaded, count: int, generator: torch.Generator, *, controls: Sequence[str] = (),
          steps: int | None = None, guidance: Mapping[str, Any] | None = None) -> Iterator[Rows]:
    """`count` sentences, as rows with `text`; under `controls` (`length=14`, all at once) also `control`,
    `oracle`, and what the tasks' own oracles say (`success` and more).

    `steps` and `guidance` (keys of `evaluation.guidance`) win over the exported settings. Raises `UserError`
    for a bad control, or one that the model was never told.
    """
    return (_under(loaded, controls, count, generator, steps, guidance or {}) if controls
            else _freely(loaded, count, generator, steps))


def _freely(loaded: Loaded, count: int, generator: torch.Generator, steps: int | None) -> Iterator[Rows]:
    for size in _batches(count):
        ids = loaded.generate(size, generator, steps=steps)
        yield [{"text": " ".join(words)} for words in loaded.words(ids)]


def _under(loaded: Loaded, controls: Sequence[str], count: int, generator: torch.Generator, steps: int | None,
           given: Mapping[str, Any]) -> Iterator[Rows]:
    task, target = parse_controls(controls, loaded.lexicon)
    task.prepare(TaskContext(loaded.lexicon))
    guidance = loaded.config.evaluation.guidance.model_copy(update=dict(given))
    check_conditioned(task, guidance.by, getattr(loaded.model.params, "conditions", ()))
    sampling = loaded.config.sampling.model_copy(update={"steps": steps} if steps else {})
    drawing, length = loaded.sampling(sampling), loaded.config.corpus.max_length
    told = {"control": ", ".join(controls), "oracle": task.oracle(target)}
    for size in _batches(count):
        sentences = guided(drawing, task, [target] * size, guidance, loaded.lexicon, length, generator)
        yield [{"text": " ".join(words), **told, **task.score(words, target)} for words in sentences]


def _batches(count: int) -> Iterator[int]:
    for start in range(0, count, BATCH):
        yield min(BATCH, count - start)
