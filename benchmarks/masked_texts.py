"""What texts of a base are worth: perplexity, diversity, passes, and lengths beside those of real text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spaces.config import PluginRef, SamplingConfig
from trainable.artifacts.artifact import Loaded
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.masked.sampling import MaskedSampling
from trainable.metrics.base import heldout_rows, heldout_words
from trainable.metrics.diversity import distinct_n
from trainable.metrics.perplexity import pooled_perplexity
from trainable.scoring.teacher import Teacher
from trainable.seeds import stream

BATCH = 256
EARLY = 0.05
"""A text ends early that is shorter than this quantile of real lengths."""


@dataclass(frozen=True)
class Ground:
    """What texts are held against."""

    corpus: TokenizedCorpus
    teacher: Teacher

    def real(self, count: int, seed: int = 0) -> list[list[str]]:
        """Held-out texts."""
        return heldout_words(self.corpus, heldout_rows(self.corpus, count, stream("masked benchmark", seed)))

    def worth(self, words: Sequence[Sequence[str]]) -> dict:
        """Figures of texts."""
        value, error = pooled_perplexity(*self.teacher.nll([list(text) for text in words]))
        lengths, real = [len(text) for text in words], self.corpus.lengths("valid")
        return {"texts": len(words), "perplexity": value, "perplexity_se": error,
                "distinct2": distinct_n(words, 2), "distinct_texts": len(set(map(tuple, words))) / len(words),
                "words": float(np.mean(lengths)), "length_distance": variation(lengths, real.tolist()),
                "early": float(np.mean(np.array(lengths) < np.quantile(real, EARLY)))}


def variation(a: Sequence[int], b: Sequence[int]) -> float:
    """Total variation distance of two histograms: 0 the same, 1 nothing shared."""
    first, second = Counter(a), Counter(b)
    return sum(abs(first[k] / len(a) - second[k] / len(b)) for k in {*first, *second}) / 2


def settings(base: SamplingConfig, sampler: dict, steps: int, temperature: float) -> SamplingConfig:
    """Sampling settings; `sampler` as a space writes it."""
    return base.model_copy(update={"sampler": PluginRef(**sampler), "steps": steps,
                                   "temperature": temperature})


def written(base: Loaded, config: SamplingConfig, count: int, seed: int) -> tuple[list[list[str]], dict]:
    """`count` texts, and what they cost: passes of the network for a text (NFE), CPU seconds."""
    sampling, length = base.sampling(config), base.config.corpus.max_length
    generator, words, passes = stream("masked benchmark", "noise", seed), [], []
    began = time.process_time()
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        if isinstance(sampling, MaskedSampling):
            found = sampling.generate(n, length, generator)
            ids = found.ids
            passes += found.passes.tolist()
        else:
            ids = sampling.sample(n, length, generator)
            passes += [sampling.steps] * n
        words += base.words(ids)
    seconds = time.process_time() - began
    return words, {"nfe": float(np.mean(passes)), "nfe_p95": float(np.quantile(passes, 0.95)),
                   "cpu_seconds": seconds}


def figures(ground: Ground, base: Loaded, config: SamplingConfig, count: int, seed: int = 0) -> dict:
    """One row: settings, cost, worth, an example."""
    words, cost = written(base, config, count, seed)
    sampler = {"name": config.sampler.name, **config.sampler.params}
    return {"sampler": sampler, "steps": config.steps, "temperature": config.temperature, **cost,
            **ground.worth(words), "example": " ".join(words[0])}


def table(rows: Sequence[dict]) -> str:
    """Rows of `figures` as a Markdown table."""
    head = ("| sampler | most passes | temperature | passes (NFE), mean, p95 | perplexity | distinct-2 | "
            "words | length distance | ends early |\n" + "|---" * 9 + "|")
    return "\n".join([head, *(
        f"| {named(row['sampler'])} | {row['steps']} | {row['temperature']:g} | {row['nfe']:.1f}, "
        f"{row['nfe_p95']:.0f} | {row['perplexity']:.2f} ± {1.96 * row['perplexity_se']:.2f} | "
        f"{row['distinct2']:.3f} | {row['words']:.1f} | {row['length_distance']:.2f} | "
        f"{100 * row['early']:.1f} % |" for row in rows)])


def named(sampler: dict) -> str:
    """`entropy_bound, bound 0.5`."""
    return ", ".join([sampler["name"],
                      *(f"{key} {value}" for key, value in sampler.items() if key != "name")])
