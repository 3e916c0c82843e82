"""How often generation under guidance reaches what was asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from trainable.control.base import ControlTask, Target
from trainable.control.generating import Controlled
from trainable.corpora.base import UNKNOWN
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.base import Measurable, Metric, heldout_words, scaled
from trainable.metrics.perplexity import pooled_perplexity
from trainable.registry import TASKS


def share_error(successes: float, n: int) -> float:
    """Standard error of k of n successes, by Laplace's estimate (k + 1) / (n + 2): not 0 even at
    none or all of n."""
    share = (successes + 1) / (n + 2)
    return math.sqrt(share * (1 - share) / n)


def all_scores(task: ControlTask, sentences: Sequence[Sequence[str]],
               targets: Sequence[Target]) -> dict[str, list[float]]:
    """Each score of every target that has it, in order; spaces in names become underscores."""
    scores: dict[str, list[float]] = {}
    for words, target in zip(sentences, targets, strict=True):
        for key, value in task.score(list(words), target).items():
            scores.setdefault(key.replace(" ", "_"), []).append(value)
    return scores


def mean_scores(task: ControlTask, sentences: Sequence[Sequence[str]],
                targets: Sequence[Target]) -> dict[str, float]:
    """Mean of each score over the targets that have it."""
    return {key: sum(values) / len(values) for key, values in all_scores(task, sentences, targets).items()}


def mean_error(values: Sequence[float]) -> float:
    """Standard error of a mean of successes, or of shares between 0 and 1 (sample deviation / sqrt(n))."""
    n = len(values)
    if n < 2 or all(value in (0.0, 1.0) for value in values):
        return share_error(sum(values), n)
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def human_words(corpus: TokenizedCorpus, targets: Sequence[Target]) -> tuple[list[list[str]], list[Target]]:
    """The human text behind each target that has one, as the model could write it, and those targets."""
    drawn = [target for target in targets if "row" in target or "human" in target]
    rows = heldout_words(corpus, [target["row"] for target in drawn if "row" in target])
    return [target["human"] if "human" in target else rows.pop(0) for target in drawn], drawn


def column(label: str, oracle: str) -> str:
    """`controllability_pos_spacy_en_core_web_sm`: scores by different oracles never share a column."""
    return f"controllability_{label}_{re.sub(r'[^A-Za-z0-9]+', '_', oracle)}"


class Controllability(Metric):
    """Success under control, mean over the configured tasks; each task's column ends in the oracle
    that scored it."""

    name, unit, direction = "controllability", "", "maximize"
    ideal = 1.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`controllability`, its `_se`; per task `controllability_TASK_ORACLE`, its `_se`,
        further scores, the teacher's perplexity, `_nfe`, the mean forward passes of a text (those of
        candidates, repairs and guidance counted), `_unk`, the share of UNK among the words, and `_human`:
        the success of the human texts that the targets were drawn from, the oracle's ceiling. UNK counts for
        nothing in any task. `controllability_nfe` is the mean over tasks.

        Targets and noise are the same for every trial of a run; at lower rungs they are the first
        of those at the top.
        """
        row: dict[str, float] = {}
        values, variances, oracles, passes = [], [], [], []
        names: set[str] = set()
        tasks = [TASKS.build(ref) for ref in m.config.evaluation.control_tasks]
        asked = [(task, self._targets(m, task)) for task in tasks]
        for (task, targets), texts in zip(asked, m.controlled(asked), strict=True):
            label = task.name if task.name not in names else f"{task.name}{len(names) + 1}"
            names.add(label)
            scores, oracle, further = self._task(m, task, targets, texts)
            success, prefix = scores.pop("success"), column(label, oracle)
            values.append(sum(success) / len(success))
            variances.append(mean_error(success) ** 2)
            row |= {prefix: values[-1], f"{prefix}_se": math.sqrt(variances[-1])}
            row |= {f"{prefix}_{key}": sum(found) / len(found) for key, found in scores.items()}
            row |= {f"{prefix}_{key}": value for key, value in further.items()}
            oracles.append(f"{label}={oracle}")
            passes.append(further["nfe"])
        if not values:
            return {}
        m.notes["controllability_oracle"] = ",".join(oracles)
        mean, error = sum(values) / len(values), math.sqrt(sum(variances)) / len(values)
        return {"controllability": mean, "controllability_se": error,
                "controllability_nfe": sum(passes) / len(passes), **row}

    def _targets(self, m: Measurable, task: ControlTask) -> list[Target]:
        n = scaled(m.config.evaluation.control_samples, m.share)
        return task.targets(m.corpus, n, m.generator(f"control/{task.name}"))

    def _task(self, m: Measurable, task: ControlTask, targets: Sequence[Target],
              texts: Controlled) -> tuple[dict[str, list[float]], str, dict[str, float]]:
        """(scores of every target, oracle, further columns)."""
        sentences, passes = texts
        further = {"unk": sum(words.count(UNKNOWN) for words in sentences) / max(1, sum(map(len, sentences))),
                   "nfe": float(passes.double().mean())}
        human, drawn = human_words(m.corpus, targets)
        if drawn:
            further["human"] = mean_scores(task, human, drawn)["success"]
        if len(targets) > 1:
            further["perplexity"] = pooled_perplexity(*m.teacher.nll(sentences))[0]
        return all_scores(task, sentences,
                          targets), "+".join(sorted({task.oracle(target) for target in targets})), further
