"""Control of a prepared base: `python -m benchmarks.control quickstart --cache DIR [--what
tasks|controllers|adapted]`.

`tasks`, for every task: success of human text, of the model without guidance and with it (Wilson or bootstrap
95 % intervals over targets), lm-score, seconds, the controller's ranking accuracy by noise level; last, the
time of the metric `controllability` over all tasks as one trial pays it. `controllers`: success and ranking
accuracy with counted and with trained controllers. `adapted`: both after quantized trials have been trained:
ranking by noise level of every task, and what heads that were trained on the base keep there, as they are,
after a few steps more, and against heads fitted anew (earlier calls with other `--quantizers` are kept).
`--cache` is the folder `cache` of an earlier run; what it lacks is made. Needs no Ray.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import RESULTS, save
from search.run.validation import load_checked
from spaces import points
from spaces.config import PluginRef
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.control.accuracy import ranking_accuracy
from trainable.control.base import TaskContext
from trainable.control.generating import guided
from trainable.control.heads import fit
from trainable.control.oracles.choosing import oracle_for
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.controllability import Controllability, all_scores, human_words, mean_scores
from trainable.metrics.diversity import distinct_n
from trainable.metrics.intervals import mean_interval
from trainable.metrics.perplexity import pooled_perplexity
from trainable.registry import TASKS
from trainable.scoring.teacher import Teacher
from trainable.seeds import stream
from trainable.stages.evaluation import Measurement
from trainable.stages.prepare import Prepared
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

TASK_NAMES = ("length", "semantic", "pos", "spans", "tree", "infill", "compose")
TRAINABLE = ("pos", "spans", "tree")
HEADS, ADAPT_STEPS, MORE_STEPS = "pos", 320, 60
"""The task whose trained heads are moved; steps of a trial (the quickstart's top rung); steps that
moved heads go on."""
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Noise levels as shares of T."""


class ControlBenchmark:
    """A base with its corpus and teacher."""

    def __init__(self, args, draw: int = 0):
        """`draw`: which targets; 0: those of every earlier figure."""
        space = load_checked(args.space, parse(args.settings))
        config = space.config(points.complete(space.dimensions, {}))
        sampling = config.sampling.model_copy(update={"steps": args.steps, "temperature": args.temperature})
        self.config, self.n = config.model_copy(update={"sampling": sampling}), args.targets
        self.draw = (draw,) if draw else ()
        shared = prepared(config, args.cache, WorkerContext())
        self.shared = Prepared(**shared)
        self.corpus = TokenizedCorpus.open(Path(shared["corpus"]))
        self.base = load(shared["base"])
        self.teacher = Teacher.load(shared["teacher"], self.corpus, torch.device("cpu"))
        self.length, self.cache = config.corpus.max_length, {}
        self.context = TaskContext(self.corpus, self.cache, self.base.model, self.base.process)
        self.process = self.base.sampling(sampling)

    def task(self, name: str, context: TaskContext | None = None, **params):
        """A prepared task and its fixed targets."""
        task = TASKS.build(PluginRef(name=name, **params))
        targets = task.targets(self.corpus, self.n, stream("benchmark control", name, *self.draw))
        task.prepare(context or self.context)
        if self.config.evaluation.guidance.by == "reweight":
            task.constituents()  # counted now, so that no task's seconds hold what all share
        return task, targets

    def success(self, task, targets, inner_steps: int | None = None) -> dict:
        """Success, lm-score, distinct-2, the share of texts that stand in training text word for word,
        seconds and other scores of one guided generation; with `inner_steps=0` unguided."""
        began = time.perf_counter()
        guidance = self.config.evaluation.guidance
        if inner_steps is not None:
            guidance = guidance.model_copy(update={"inner_steps": inner_steps})
        words = guided(self.process, task, targets, guidance, self.corpus, self.length,
                       stream("benchmark noise"))
        scores = all_scores(task, words, targets)
        value, low, high = mean_interval(scores.pop("success"))
        return {"success": value, "low": low,
                "high": high, "lm_score": pooled_perplexity(*self.teacher.nll(words))[0],
                "seconds": time.perf_counter() - began, "distinct2": distinct_n(words, 2),
                "copied": sum(tuple(text) in self.train for text in words) / len(words),
                "example": " ".join(words[0]),
                **{key: sum(found) / len(found) for key, found in scores.items()}}

    @cached_property
    def train(self) -> set[tuple[str, ...]]:
        """All training texts."""
        return {tuple(self.corpus.decode(row)) for row in self.corpus.ids("train")}

    def ranking(self, task, targets, process=None) -> list[float]:
        """Accuracy by noise level."""
        times = [int(level * self.base.process.levels) for level in LEVELS]
        return ranking_accuracy(task, process or self.process, self.corpus, targets, times,
                                stream("benchmark ranking"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--what", choices=("tasks", "controllers", "adapted"), default="tasks")
    parser.add_argument("--quantizers", default="fixed:Q0i4f,binary")
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--tasks", default=",".join(TASK_NAMES))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench, names = ControlBenchmark(args), args.tasks.split(",")
    figures = {"targets": args.targets, "steps": args.steps, "temperature": args.temperature,
               "guidance": bench.config.evaluation.guidance.model_dump(), "noise_levels": LEVELS,
               "human_lm_score": bench.teacher.facts["heldout_perplexity"]}
    if args.what == "tasks":
        print(f"{'task':9s} {'oracle':18s} {'human':>6s} {'unguided':>9s} {'guided':>22s} {'lm-score':>9s} "
              f"{'seconds':>8s}")
        figures["tasks"] = {name: one_task(bench, name) for name in names}
        figures["one_trial"] = one_trial(bench, names)
    elif args.what == "adapted":
        figures["adapt_steps"] = ADAPT_STEPS
        path = RESULTS / f"control_adapted_{Path(args.space).stem}.json"
        found = {quantizer: adapted(bench, quantizer, names) for quantizer in args.quantizers.split(",")}
        figures["adapted"] = (json.loads(path.read_text())["adapted"] if path.is_file() else {}) | found
    else:
        trained = [name for name in names if name in TRAINABLE]
        figures["controllers"] = {name: controllers(bench, name) for name in trained}
    save(f"control_{args.what}_{Path(args.space).stem}", figures)


def one_task(bench: ControlBenchmark, name: str) -> dict:
    """The row of one task."""
    task, targets = bench.task(name)
    human = mean_scores(task, *human_words(bench.corpus, targets))
    row = {"oracle": task.oracle(targets[0]), "human": human,
           "unguided": bench.success(task, targets, inner_steps=0),
           "guided": bench.success(task, targets), "ranking": bench.ranking(task, targets)}
    found, plain = row["guided"], row["unguided"]
    interval = f"{found['success']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    print(f"{name:9s} {row['oracle']:18s} {human['success']:6.3f} {plain['success']:9.3f} {interval:>22s} "
          f"{found['lm_score']:9.2f} {found['seconds']:8.1f}", flush=True)
    return row


def controllers(bench: ControlBenchmark, name: str) -> dict:
    """Counted against trained: guided success, ranking accuracy, seconds to prepare (shared by the
    tasks that follow)."""
    rows = {}
    for kind in ("counted", "trained"):
        began = time.perf_counter()
        task, targets = bench.task(name, controller=kind)
        rows[kind] = {"prepare_seconds": time.perf_counter() - began, **bench.success(task, targets),
                      "ranking": bench.ranking(task, targets)}
        print(
            f"{name:9s} {kind:8s} success {rows[kind]['success']:.3f} lm-score {rows[kind]['lm_score']:.2f} "
            f"prepared in {rows[kind]['prepare_seconds']:.1f} s; ranking by noise level "
            + " ".join(f"{value:.2f}" for value in rows[kind]["ranking"]), flush=True)
    return rows


def adapted(bench: ControlBenchmark, quantizer: str, names: list[str]) -> dict:
    """A trial with this quantizer on the table, trained: each task's ranking there, and the heads'
    three ways to it."""
    dumped = bench.config.model_dump(mode="json") | {"quantization": {"quantizer": quantizer}}
    dumped["adapt"]["optim"]["lr"] = 1e-3
    config = type(bench.config).model_validate(dumped)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(config, bench.shared, [ADAPT_STEPS], Path(folder), torch.device("cpu"), {})
        trial.run.advance(ADAPT_STEPS)
    process = bench.base.process.sampling(trial.model, bench.config.sampling)
    there = TaskContext(bench.corpus, bench.cache, trial.model, bench.base.process)
    rows = {"ranking": {}, "heads": {}}
    for name in names:
        rows["ranking"][name] = bench.ranking(*bench.task(name, there), process)
        print(f"{quantizer:12s} {name:9s} ranking "
              + " ".join(f"{value:.2f}" for value in rows["ranking"][name]), flush=True)
    task, targets = bench.task(HEADS, bench.context, controller="trained")
    ways = {"moved": lambda: task.heads,
            f"moved, {MORE_STEPS} steps more": lambda: fit(trial.model, bench.base.process, data,
                                                           steps=MORE_STEPS, heads=copy.deepcopy(moved)),
            "fitted there": lambda: fit(trial.model, bench.base.process, data)}
    data = bench.cache["control", "annotated", id(bench.corpus),
                       oracle_for("auto", bench.corpus).full_name][0]
    moved = task.heads
    for label, make in ways.items():
        began = time.perf_counter()
        task.heads = make()
        seconds = time.perf_counter() - began
        words = guided(process, task, targets, bench.config.evaluation.guidance, bench.corpus, bench.length,
                       stream("benchmark noise"))
        rows["heads"][label] = {"seconds": seconds, "success": mean_scores(task, words, targets)["success"],
                                "lm_score": pooled_perplexity(*bench.teacher.nll(words))[0],
                                "ranking": bench.ranking(task, targets, process)}
        print(f"{quantizer:12s} {HEADS} heads {label:20s} {json.dumps(rows['heads'][label])}", flush=True)
    return rows


def one_trial(bench: ControlBenchmark, names: list[str]) -> dict:
    """Seconds of the metric for one trial at the top rung, a worker's first and a later one."""
    tasks = tuple(PluginRef(name=name) for name in names)
    evaluation = bench.config.evaluation.model_copy(update={"control_tasks": tasks})
    config, cache, seconds = bench.config.model_copy(update={"evaluation": evaluation}), {}, []
    for _ in range(2):
        measurement = Measurement(config=config, model=bench.base.model, process=bench.base.process,
                                  corpus=bench.corpus,
                                  teacher=bench.teacher, facts={}, device=torch.device("cpu"), cache=cache)
        began, spent = time.perf_counter(), time.process_time()
        row = Controllability(Controllability.Params()).measure(measurement)
        seconds.append(time.perf_counter() - began)
        spent = time.process_time() - spent
    samples = config.evaluation.control_samples
    print(f"controllability {row['controllability']:.3f} over {len(names)} tasks x {samples} targets: "
          f"{seconds[0]:.1f} s, later {seconds[1]:.1f} s")
    return {"samples": samples, "first_seconds": seconds[0], "later_seconds": seconds[1],
            "later_cpu_seconds": spent, "controllability": row["controllability"]}


if __name__ == "__main__":
    main()
