"""A search of spaces/dllmquant.yaml against single methods set by hand:
`python -m benchmarks.post_training_search --cache DIR --work DIR`.

Every arm has the same budget of trials. The arms by hand are one method each at the options that people leave
it at (`ARMS`), with `SWEPT` tried in every combination; the search has the whole space, by the space's own
sampler and scheduler, and what that stops early counts as a trial. A seed is that of the calibration and of
the sampler; evaluation is the same throughout. Arms that the first seed leaves behind `CLOSE` of the best one
have no others. Hypervolume is told in one box, fixed by the arms by hand
alone: the best value of each objective, and the worst but for the quarter of their points that is worst, with
`MARGIN` of the distance to spare. The space's objectives are counts and divergences, none of them a time.
`--cache` is the folder `cache` of an earlier run or a new one, `--base` as in `benchmarks.post_training`.
Done trials stand in WORK/trials.jsonl, so the command can be stopped (--minutes) and given again. No Ray.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import save
from benchmarks.post_training import BASES
from search.engine.engine import Engine, RunningTrial
from search.pareto.geometry import nondominated
from search.pareto.objectives import matrix
from search.pareto.reference_box import Box
from search.records.journal import append_line, mend_tail, read_lines
from search.records.memory import MemoryRecords
from search.run.first_points import first_points
from search.run.simulator import VirtualClock, simulate
from search.run.validation import load_checked, problem
from search.schedulers.registry import build
from search.study.opening import searcher
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from spaces.schema import Space
from trainable.quantization.post_training.stored import chain_of
from trainable.stages.prepare import Prepared
from trainable.stages.trial import Trial
from trainable.storage.folders import content_key
from trainable.workers.context import WorkerContext

METHOD, TRANSFORMS = "calibration.method.name", "calibration.transforms"
BY_HAND: dict[str, Any] = {TRANSFORMS: [], "calibration.source": "corrupted",
                           "calibration.token_weight": "uniform", "calibration.corrections": []}
ROTATED: dict[str, Any] = {TRANSFORMS: ["rotation"]}
ARMS: dict[str, dict[str, Any]] = {
    "rtn": {METHOD: "rtn"}, "hqq": {METHOD: "hqq"}, "smoothquant": {METHOD: "smoothquant"},
    "awq": {METHOD: "awq"}, "gptq": {METHOD: "gptq"}, "gptq + rotation": {METHOD: "gptq", **ROTATED},
    "quant_dllm": {METHOD: "quant_dllm"}}
SWEPT = ("calibration.method.bits", "calibration.method.group", "calibration.activation_bits",
         "sampling.steps")
SEARCH = "search"
WORST, MARGIN, CLOSE = 0.75, 0.1, 0.95
ASKED = 1.1
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, default="masked")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=72, help="budget of every arm")
    parser.add_argument("--minutes", type=float, default=8, help="stop after that long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    changes = {**BASES[args.base], **parse(args.settings), "budget.trials": args.trials}
    space = load_checked("dllmquant", changes)
    trials = Trials(space, args.cache, args.work, time.monotonic() + 60 * args.minutes)
    try:
        found = {name: [by_hand(space, name, 0, args.trials, trials)] for name in ARMS}
        others = close(space, found)
        for name in others:
            found[name] += [by_hand(space, name, seed, args.trials, trials) for seed in range(1, args.seeds)]
        found[SEARCH] = [searched(changes, seed, trials) for seed in range(args.seeds)]
    except PausedError:
        raise SystemExit("time is up; give the command again to go on") from None
    figures = {"base": args.base, "settings": args.settings, "trials": args.trials, "seeds": args.seeds,
               **summary(space, found)}
    show(figures)
    save("post_training_search", figures)


class PausedError(Exception):
    """The time of this call is up."""


class Trials:
    """Trials of the real trainable, each rung measured once."""

    def __init__(self, space: Space, cache: str, work: Path, until: float):
        work.mkdir(parents=True, exist_ok=True)
        self.space, self.cache, self.until = space, cache, until
        self.journal, self.folder = work / "trials.jsonl", work / "trial"
        self.journal.touch()
        mend_tail(self.journal)
        self.done = {line["key"]: line for line in read_lines(self.journal)}
        self.context = WorkerContext()
        self.shared: Prepared | None = None

    def kept(self, key: str) -> Row | None:
        """What stands under a key."""
        return self.done.get(key)

    def keep(self, key: str, line: Row) -> Row:
        """Write down what was found."""
        self.done[key] = {"key": key, **line}
        append_line(self.journal, self.done[key])
        return self.done[key]

    def rungs(self, config: TrialConfig, which: Sequence[int]) -> Iterator[tuple[int, Row]]:
        """Number and line (`values`, `cpu_seconds`) of each of these rungs of a trial."""
        config, trial = as_it_acts(config), None
        for index in which:
            key = content_key(config.model_dump(mode="json"), list(self.space.rungs), index)
            line = self.kept(key)
            if line is None:
                if time.monotonic() > self.until:
                    raise PausedError
                began = time.process_time()
                trial = trial or self._trial(config)
                event = trial.rung(index)
                values = {name: event[name] for name in metrics(self.space) if name in event}
                line = self.keep(key, {"values": values, "cpu_seconds": time.process_time() - began})
            yield index, line

    def _trial(self, config: TrialConfig) -> Trial:
        if self.shared is None:
            self.shared = Prepared(**prepared(config, self.cache, self.context))
        shutil.rmtree(self.folder, ignore_errors=True)
        return Trial(config, self.shared, self.space.rungs, self.folder, self.context.device,
                     self.context.cache)


def metrics(space: Space) -> list[str]:
    """Of the objectives."""
    return [item.metric for item in space.objectives]


def as_it_acts(config: TrialConfig) -> TrialConfig:
    """The same trial under calibration seed 0 where it is calibrated on nothing: seeds do not differ then."""
    own = config.calibration
    if chain_of(own.method, own.transforms).needs or own.corrections or own.activation_range == "static":
        return config
    return seeded(config, 0)


def seeded(config: TrialConfig, seed: int) -> TrialConfig:
    """With other calibration states."""
    return config.model_copy(update={"calibration": config.calibration.model_copy(update={"seed": seed})})


def grid(space: Space, name: str) -> list[Row]:
    """The points of an arm by hand, the sampler's steps varying slowest."""
    settled = {**BY_HAND, **ARMS[name]}
    asked = {path: space.dimensions[path].values() for path in SWEPT}
    order = sorted(SWEPT, key=lambda path: path != "sampling.steps")
    every = [points.complete(space.dimensions, {**settled, **dict(zip(order, values, strict=True))})
             for values in itertools.product(*(asked[path] for path in order))]
    return list({json.dumps(point, sort_keys=True): point for point in every}.values())


def by_hand(space: Space, name: str, seed: int, budget: int, trials: Trials) -> Row:
    """One arm: what its points measure, as many as the budget has."""
    found: list[Row] = []
    for point in grid(space, name)[:budget]:
        (_, line), = trials.rungs(seeded(space.config(point), seed), [len(space.rungs) - 1])
        found.append({"number": len(found), "point": point, **line["values"],
                      "cpu_seconds": line["cpu_seconds"]})
    return {"complete": found, "trials": len(found), "cpu_seconds": sum(row["cpu_seconds"] for row in found)}


def close(space: Space, found: Mapping[str, Sequence[Row]]) -> list[str]:
    """The arms that the first seed does not leave behind."""
    box = box_of(space, [row for runs in found.values() for row in runs[0]["complete"]])
    volumes = {name: volume(space, box, runs[0]["complete"]) for name, runs in found.items()}
    return [name for name, own in volumes.items() if own >= CLOSE * max(volumes.values())]


def searched(changes: Mapping[str, Any], seed: int, trials: Trials) -> Row:
    """One search of the space: the trials that went to the top, and what it cost."""
    space = load_checked("dllmquant", {**changes, "seed": seed})
    key = content_key("search", seed, space.to_yaml())
    if (line := trials.kept(key)) is not None:
        return line
    began, judged, clock = time.process_time(), problem(space), VirtualClock()
    scheduler = build(space.scheduler.name, judged, space.scheduler.options)
    engine = Engine(space, searcher(space, judged), scheduler, MemoryRecords(), clock=clock)
    for values, tag in first_points(space):
        engine.enqueue(values, tag)
    measured = Measured(space, seed, trials)
    simulate(engine, clock, measured.evaluate, 1, measured.on_step)
    measured.go_on()
    return trials.keep(key, {"complete": measured.complete, "trials": len(engine.ended),
                             "counts": dict(engine.counts), "cpu_seconds": measured.cpu_seconds,
                             "elapsed_cpu": time.process_time() - began})


class Measured:
    """What the trials of one search measured."""

    def __init__(self, space: Space, seed: int, trials: Trials):
        self.space, self.seed, self.trials = space, seed, trials
        self.complete: list[Row] = []
        self.cpu_seconds = 0.0
        self.paused = False

    def evaluate(self, live: RunningTrial) -> Iterator[tuple[float, Any]]:
        """A trial, rung by rung (`simulator.Evaluate`)."""
        began, top = self.cpu_seconds, len(self.space.rungs) - 1
        try:
            for index, line in self.trials.rungs(seeded(live.config, self.seed), range(top + 1)):
                self.cpu_seconds += line["cpu_seconds"]
                if index == top:
                    self.complete.append({"number": live.number, "point": live.values, **line["values"],
                                          "cpu_seconds": self.cpu_seconds - began})
                yield line["cpu_seconds"], {"rung": index, "steps": self.space.rungs[index],
                                            "final": index == top, **line["values"]}
        except PausedError:  # the simulator takes an error for one of the trial
            self.paused = True

    def on_step(self, now: float, engine: Engine) -> None:
        """`simulator.SimulationObserver`."""
        self.go_on()

    def go_on(self) -> None:
        """Raises `PausedError` when a trial could not be measured any more."""
        if self.paused:
            raise PausedError


def box_of(space: Space, rows: Sequence[Row], worst: float = WORST) -> Box:
    """From what the arms by hand measured."""
    corners = {}
    for item in space.objectives:
        column = np.array([row[item.metric] for row in rows])
        sign = 1.0 if item.direction == "minimize" else -1.0
        best, low = sign * (sign * column).min(), sign * np.quantile(sign * column, worst)
        corners[item.metric] = (float(best), float(low + MARGIN * (low - best)))
    return Box.of(corners, space.objectives)


def volume(space: Space, box: Box, rows: Sequence[Row]) -> float:
    """Of the front of some trials."""
    return box.hypervolume(matrix(rows, space.objectives)) if rows else 0.0


def summary(space: Space, found: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Hypervolumes by arm and seed, and the search's as a multiple of the best arm's: of those that all seeds
    were tried with."""
    pooled = [row for name in ARMS for row in found[name][0]["complete"]]
    seeds = len(found[SEARCH])
    whole = [name for name in ARMS if len(found[name]) == seeds]
    boxes: dict[str, Any] = {}
    for label, worst in (("box", WORST), ("whole_box", 1.0)):
        box = box_of(space, pooled, worst)
        volumes = {name: [volume(space, box, one["complete"]) for one in runs]
                   for name, runs in found.items()}
        means = {name: statistics.fmean(volumes[name]) for name in whole}
        best = max(means, key=means.__getitem__)
        shares = {name: [own / hand for own, hand in zip(volumes[name], volumes[best], strict=False)]
                  for name in found}
        union = volume(space, box, pooled) / volumes[best][0]
        boxes[label] = {
            "corners": box.corners(), "best_arm": best, "volumes": volumes,
            "relative_to_best_arm": {name: told(share) for name, share in shares.items()},
            "all_arms_together": union, "all_arms_trials": sum(found[name][0]["trials"] for name in ARMS),
            "search_by_trials": {str(count): told(
                [volume(space, box, [row for row in one["complete"] if row["number"] < count]) / hand
                 for one, hand in zip(found[SEARCH], volumes[best], strict=True)])
                for count in counts(found)}}
    mean, half = boxes["box"]["relative_to_best_arm"][SEARCH]
    return {**boxes, "target": {"asked": ASKED, "mean": mean, "half": half, "holds": mean >= ASKED},
            "arms": {name: {"trials": [one["trials"] for one in runs],
                            "complete": [len(one["complete"]) for one in runs],
                            "cpu_seconds": [one["cpu_seconds"] for one in runs]}
                     for name, runs in found.items()},
            "searched_fronts": [front(space, one["complete"]) for one in found[SEARCH]]}


def told(values: Sequence[float]) -> list[float | None]:
    """Mean and half-width of its 95 % interval; None of one value, which has no width."""
    mean, half = interval(list(values))
    return [mean, half if math.isfinite(half) else None]


def shown(values: Sequence[float | None], digits: int) -> str:
    """The same in print."""
    mean, half = values
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def counts(found: Mapping[str, Sequence[Row]]) -> list[int]:
    """Budgets at which the search is told: quarters of the whole."""
    most = max(one["trials"] for one in found[SEARCH])
    return [most * part // 4 for part in range(1, 5)]


def front(space: Space, rows: Sequence[Row]) -> list[Row]:
    """Its members, by size."""
    keep = nondominated(matrix(rows, space.objectives))
    return sorted((dict(row) for row, kept in zip(rows, keep, strict=True) if kept),
                  key=lambda row: row["size_bytes"])


def show(figures: Mapping[str, Any]) -> None:
    """Print the table as Markdown."""
    box, whole, arms = figures["box"], figures["whole_box"], figures["arms"]
    print("\n| | trials | seeds | CPU s | hypervolume | of the best arm's | the same in the whole box |\n"
          "|---|---|---|---|---|---|---|")
    for name, volumes in box["volumes"].items():
        print(f"| {name} | {statistics.fmean(arms[name]['trials']):.0f} | {len(volumes)} "
              f"| {statistics.fmean(arms[name]['cpu_seconds']):.0f} | {shown(told(volumes), 3)} "
              f"| {shown(box['relative_to_best_arm'][name], 2)} "
              f"| {shown(whole['relative_to_best_arm'][name], 2)} |")
    print("all arms by hand together", box["all_arms_together"], whole["all_arms_together"],
          box["all_arms_trials"], "trials")
    print("search by trials", box["search_by_trials"])
    print(figures["target"])


if __name__ == "__main__":
    main()
