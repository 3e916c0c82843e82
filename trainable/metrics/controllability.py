"""How often generation under guidance reaches what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainable.control.base import ControlTask, Target
from trainable.metrics.base import Measurable, Metric, heldout_words, scaled
from trainable.metrics.perplexity import pooled_perplexity
from trainable.registry import TASKS


def share_error(successes: float, n: int) -> float:
    """Standard error of k of n successes, by Laplace's estimate (k + 1) / (n + 2): not 0 even at none or all of n."""
    share = (successes + 1) / (n + 2)
    return math.sqrt(share * (1 - share) / n)


def mean_scores(task: ControlTask, sentences: Sequence[Sequence[str]], targets: Sequence[Target]) -> dict[str, float]:
    """Mean of each score over the targets that have it; spaces in names become underscores."""
    scores: dict[str, list[float]] = {}
    for words, target in zip(sentences, targets, strict=True):
        for key, value in task.score(list(words), target).items():
            scores.setdefault(key.replace(" ", "_"), []).append(value)
    return {key: sum(values) / len(values) for key, values in scores.items()}


class Controllability(Metric):
    """Share of control targets reached, mean over the configured tasks; `notes` say which oracle scored."""

    name, unit, direction = "controllability", "", "maximize"

    def measure(self, m: Measurable) -> dict[str, float]:
        """`controllability`, its `_se`; per task the success, its `_se`, partial scores and the teacher's perplexity.

        `..._human` is the success of the held-out sentences that the targets were drawn from: the ceiling that the
        oracle leaves. Targets are the same for every trial of a run.
        """
        row: dict[str, float] = {}
        values, variances, oracles = [], [], []
        names: set[str] = set()
        for ref in m.config.evaluation.control_tasks:
            task = TASKS.build(ref)
            label = task.name if task.name not in names else f"{task.name}{len(names) + 1}"
            names.add(label)
            columns, oracle = self._task(m, task, f"controllability_{label}")
            row |= columns
            values.append(columns[f"controllability_{label}"])
            variances.append(columns[f"controllability_{label}_se"] ** 2)
            oracles.append(f"{label}={oracle}")
        if not values:
            return {}
        m.notes["controllability_oracle"] = ",".join(oracles)
        mean, error = sum(values) / len(values), math.sqrt(sum(variances)) / len(values)
        return {"controllability": mean, "controllability_se": error, **row}

    def _task(self, m: Measurable, task: ControlTask, prefix: str) -> tuple[dict[str, float], str]:
        n = scaled(m.config.evaluation.control_samples, m.share)
        targets = task.targets(m.corpus, n, m.generator(f"control/{task.name}"))
        sentences = m.controlled(task, targets)
        scores = mean_scores(task, sentences, targets)
        success = scores.pop("success")
        columns = {prefix: success, f"{prefix}_se": share_error(success * n, n)}
        columns |= {f"{prefix}_{key}": value for key, value in scores.items()}
        drawn = [target for target in targets if "row" in target]
        if drawn:
            human = heldout_words(m.corpus, [target["row"] for target in drawn])
            columns[f"{prefix}_human"] = mean_scores(task, human, drawn)["success"]
        if n > 1:
            columns[f"{prefix}_perplexity"] = pooled_perplexity(*m.teacher.nll(sentences))[0]
        return columns, "+".join(sorted({task.oracle(target) for target in targets}))
