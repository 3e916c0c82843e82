"""Text under control: one sentence per target, guided, the best of several candidates where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask, Target
from trainable.control.conditions import encode_conditions
from trainable.control.guidance import GradientGuide, JoinedGuide
from trainable.control.infill import bleu4
from trainable.control.lexicon import AnyCorpus
from trainable.control.reweighting import reweighted
from trainable.diffusion.noise import Streams
from trainable.diffusion.process import Sampling

BATCH = 64  # latents guided at once: bounds memory


class Controlled(NamedTuple):
    """One text per target, in order: its `words`, and the forward `passes` [n] that it took, those of
    candidates that were not kept and of repairs among them."""

    words: list[list[str]]
    passes: Tensor


class Request(NamedTuple):
    """Targets of one task, which has been prepared, and where the noise of their texts comes from."""

    task: ControlTask
    targets: Sequence[Target]
    generator: torch.Generator


def guided(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
           corpus: AnyCorpus, length: int, generator: torch.Generator) -> list[list[str]]:
    """The words of `controlled`."""
    return controlled(sampling, task, targets, config, corpus, length, generator).words


def controlled(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
               corpus: AnyCorpus, length: int, generator: torch.Generator) -> Controlled:
    """One sentence per target. `task.prepare` must have been called; `length` is in positions.

    With `candidates` above 1, that many are generated for each target and one is kept by minimum Bayes risk.
    """
    return controlled_together(sampling, [Request(task, targets, generator)], config, corpus, length)[0]


def controlled_together(sampling: Sampling, requests: Sequence[Request], config: GuidanceConfig,
                        corpus: AnyCorpus, length: int) -> list[Controlled]:
    """`controlled` for each request, those that fit in one batch where gradients lead them alike: a task's
    noise is its own, so that its texts are the same but for how sums of a batch of another size are rounded.
    """
    found: list[Controlled | None] = [None] * len(requests)
    batches: list[tuple[list[int], list[GradientGuide]]] = []
    for number, request in enumerate(requests):
        own = request.task.guidance(config)
        wanted = [target for target in request.targets for _ in range(own.candidates)]
        if own.by != "gradient" or not 0 < len(wanted) <= BATCH:
            found[number] = _alone(sampling, request, own, corpus, length)
            continue
        guide = GradientGuide(request.task, wanted, own, corpus, sampling.steps)
        for numbers, guides in batches:
            if guides[0].joins(guide) and sum(len(each.targets) for each in [*guides, guide]) <= BATCH:
                numbers.append(number)
                guides.append(guide)
                break
        else:
            batches.append(([number], [guide]))
    for numbers, guides in batches:
        for number, part in zip(numbers, _batch(sampling, [requests[i].generator for i in numbers], guides,
                                                corpus, length), strict=True):
            found[number] = part
    return [each for each in found if each is not None]


def _batch(sampling: Sampling, generators: Sequence[torch.Generator], guides: Sequence[GradientGuide],
           corpus: AnyCorpus, length: int) -> list[Controlled]:
    """One batch that several guides lead."""
    sizes = [len(guide.targets) for guide in guides]
    if len(guides) == 1:
        drawn = sampling.generate(sizes[0], length, generators[0], guides[0])
    else:
        drawn = sampling.generate(sum(sizes), length, Streams(tuple(generators), tuple(sizes)),
                                  JoinedGuide(guides))
    parts = zip(drawn.ids.split(sizes), drawn.passes.cpu().split(sizes), guides, strict=True)
    return [_kept([corpus.decode(row) for row in ids.tolist()], passes, guide.config.candidates)
            for ids, passes, guide in parts]


def _alone(sampling: Sampling, request: Request, config: GuidanceConfig, corpus: AnyCorpus,
           length: int) -> Controlled:
    task, targets, generator = request
    condition = None
    if config.by in ("classifier_free", "both"):
        condition = encode_conditions(task, targets, sampling.model.symbols, length)
    each, total = config.candidates, sampling.steps
    wanted = [target for target in targets for _ in range(each)]
    words: list[list[str]] = []
    passes: list[Tensor] = []
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start:start + BATCH]
        if config.by == "reweight":
            found = reweighted(sampling, task, batch, config, corpus, length, generator)
            words += [corpus.decode(row) for row in found.ids.tolist()]
            passes.append(found.passes.cpu())
            continue
        guide = None if config.by == "classifier_free" else GradientGuide(task, batch, config, corpus, total)
        under = sampling
        if condition is not None:
            under = sampling.under(condition.repeat_interleave(each, 0)[start:start + BATCH], config.scale)
        found = under.generate(len(batch), length, generator, guide)
        words += [corpus.decode(row) for row in found.ids.tolist()]
        passes.append(found.passes.cpu())
    return _kept(words, torch.cat(passes) if passes else torch.zeros(0, dtype=torch.long), each)


def _kept(words: list[list[str]], passes: Tensor, each: int) -> Controlled:
    """Of `each` candidates in a row one, and the passes of all."""
    if each > 1:
        words = [least_risk(words[i:i + each]) for i in range(0, len(words), each)]
    return Controlled(words, passes.view(-1, each).sum(1))


def least_risk(candidates: Sequence[list[str]]) -> list[str]:
    """The candidate with the highest mean BLEU-4 against the others, the first of equals
    (Diffusion-LM, section 4.3).

    The released utility is another BLEU: add-one smoothing at every order, case folded, the candidate in
    the place of the reference and the others in that of the hypothesis; of equals the last. It can pick
    another candidate.
    """
    if len(candidates) < 2:
        return candidates[0]

    def agreement(i: int) -> float:
        return sum(bleu4(list(candidates[i]), list(other)) for j, other in enumerate(candidates) if j != i)

    return candidates[max(range(len(candidates)), key=agreement)]
