"""A search of spaces/dllmquant.yaml against single methods set by hand:
`python -m benchmarks.post_training_search --cache DIR --work DIR`.

Every arm has the same budget of trials. The arms by hand are one method each at the options that people leave
it at (`BY_HAND`), all parts of as many bits, the space's first sampler and temperature, with `SWEPT` tried in
every combination; beside them stands the first with the sampler set by hand, too (`SAMPLED`). The search
has the whole space, by the space's own first points, sampler and scheduler, and what that stops early counts
as a trial; `SEARCHES` names searches of parts of it. A seed is that of calibration and sampler; evaluation is
the same throughout. Arms that the first seed leaves behind `CLOSE` of the best one have no others.

A trial counts where it keeps the space's constraints, with distinct-2 at least `DIVERSE` of that of the
full-precision base under the space's first sampler: perplexity falls, too, where texts repeat each other.
Hypervolume is told in one box, fixed by the arms by hand alone: the best value of each objective, and the
worst but for the quarter of their points that is worst, with a tenth of the distance to spare. Objectives
are counts and divergences, none of them a time. `--cache` is the folder `cache` of an earlier run or a new
one, `--base` as in `benchmarks.post_training`. Done trials stand in WORK/trials.jsonl, so the command can be
stopped (--minutes) and given again. No Ray.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import prepared
from benchmarks.common import save
from benchmarks.post_training import BASES
from benchmarks.post_training_search_show import SEARCH, Row, box_of, front, show, summary, volume
from search.engine.engine import Engine, RunningTrial
from search.pareto.objectives import judged
from search.records.journal import append_line, mend_tail, read_lines
from search.records.memory import MemoryRecords
from search.run.allocation import BITS, TAG, allocated_points, example, searched_bits
from search.run.first_points import first_points
from search.run.simulator import VirtualClock, simulate
from search.run.validation import load_checked, problem
from search.schedulers.registry import build
from search.study.opening import searcher
from spaces import points
from spaces.config import CalibrationConfig, TrialConfig
from spaces.overrides import parse
from spaces.schema import Space
from trainable.quantization.post_training.stored import chain_of
from trainable.stages.prepare import Prepared
from trainable.stages.sensitivity import prepare_sensitivity
from trainable.stages.trial import Trial
from trainable.storage.folders import content_key
from trainable.workers.context import WorkerContext

METHOD, TRANSFORMS = "calibration.method.name", "calibration.transforms"
SAMPLER, TEMPERATURE, STEPS = "sampling.sampler", "sampling.temperature", "sampling.steps"
BY_HAND: dict[str, Any] = {TRANSFORMS: [], "calibration.source": "corrupted",
                           "calibration.token_weight": "uniform", "calibration.corrections": []}
ROTATED: dict[str, Any] = {TRANSFORMS: ["rotation"]}
ARMS: dict[str, dict[str, Any]] = {
    "gptq": {METHOD: "gptq"}, "rtn": {METHOD: "rtn"}, "hqq": {METHOD: "hqq"},
    "smoothquant": {METHOD: "smoothquant"}, "awq": {METHOD: "awq"},
    "gptq + rotation": {METHOD: "gptq", **ROTATED}, "quant_dllm": {METHOD: "quant_dllm"}}
SAMPLED: dict[str, dict[str, dict[str, Any]]] = {
    "gaussian": {"gptq, ddim": {METHOD: "gptq", SAMPLER: {"name": "ddim", "eta": 0.0}}},
    "masked": {"gptq, quota": {METHOD: "gptq", SAMPLER: {"name": "quota", "order": "entropy"},
                               TEMPERATURE: 0.8}}}
"""By base: what docs/masked.md found to be the best sampler of texts as diverse as the Gaussian's, and the
usual other sampler of a Gaussian process."""
SWEPT = ("calibration.method.group", "calibration.activation_bits", STEPS)
"""Beside the bits, which all parts share."""
DEFAULT = {f"search.{SAMPLER}": {"choice": ["ancestral"]}, f"search.{TEMPERATURE}": {"choice": [0.5]}}
SEARCHES: dict[str, dict[str, Any]] = {
    SEARCH: {}, "search, default sampler": DEFAULT,
    "search without chain": {f"search.{SAMPLER}": {"choice": [
        each for each in BASES["masked"][f"search.{SAMPLER}"]["choice"] if "chain" not in str(each)]}}}
CLOSE, DIVERSE = 0.95, 0.97


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, default="masked")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=48, help="budget of every arm")
    parser.add_argument("--searches", default=SEARCH, help=f"separated by semicolons: {'; '.join(SEARCHES)}")
    parser.add_argument("--minutes", type=float, default=8, help="stop after that long")
    parser.add_argument("--name", default="post_training_search", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    changes = {**BASES[args.base], **parse(args.settings), "budget.trials": args.trials}
    trials = Trials(load_checked("dllmquant", changes), args.cache, args.work,
                    time.monotonic() + 60 * args.minutes)
    try:
        changes["constraints"] = bounds(trials)
        space = load_checked("dllmquant", changes)
        arms = {**ARMS, **SAMPLED[args.base]}
        found = {name: [by_hand(space, arm, 0, args.trials, trials)] for name, arm in arms.items()}
        for name in close(space, found):
            found[name] += [by_hand(space, arms[name], seed, args.trials, trials)
                            for seed in range(1, args.seeds)]
        for name in args.searches.split(";"):
            own = {**changes, **SEARCHES[name.strip()]}
            found[name.strip()] = [searched(own, seed, trials) for seed in range(args.seeds)]
        for runs in found.values():
            for seed, one in enumerate(runs) if len(runs) == args.seeds else ():
                one["again"] = again(space, one["complete"], seed, trials)
    except PausedError:
        raise SystemExit("time is up; give the command again to go on") from None
    figures = {"base": args.base, "settings": args.settings, "trials": args.trials, "seeds": args.seeds,
               "constraints": changes["constraints"], **summary(space, found, tuple(arms))}
    show(figures)
    save(args.name, figures)


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
                values = {name: event[name] for name in judged(self.space.objectives, self.space.constraints)
                          if name in event}
                line = self.keep(key, {"values": values, "cpu_seconds": time.process_time() - began})
            yield index, line

    def common(self, config: TrialConfig) -> Prepared:
        """Folders of corpus, teacher and base, the same for all trials."""
        if self.shared is None:
            self.shared = Prepared(**prepared(config, self.cache, self.context))
        return self.shared

    def losses(self, space: Space, seed: int) -> Row:
        """What the parts of the base lose at each number of bits (`prepare_sensitivity`), as a search of that
        seed finds it before its first trial; with `cpu_seconds`."""
        config, choices = seeded(example(space), seed), searched_bits(space)
        key = content_key("losses", config.model_dump(mode="json"), choices)
        if (line := self.kept(key)) is not None:
            return line
        common, began = self.common(config), time.process_time()
        *_, table = prepare_sensitivity(config, choices, Path(self.cache), Path(common.corpus),
                                        Path(common.base), self.context.device)
        del table["path"]
        return self.keep(key, {**table, "cpu_seconds": time.process_time() - began})

    def _trial(self, config: TrialConfig) -> Trial:
        shutil.rmtree(self.folder, ignore_errors=True)
        return Trial(config, self.common(config), self.space.rungs, self.folder, self.context.device,
                     self.context.cache)


def as_it_acts(config: TrialConfig) -> TrialConfig:
    """The same trial under calibration seed 0 where it is calibrated on nothing: seeds do not differ then."""
    own = config.calibration
    if chain_of(own.method, own.transforms).needs or own.corrections or own.activation_range == "static":
        return config
    return seeded(config, 0)


def seeded(config: TrialConfig, seed: int) -> TrialConfig:
    """With other calibration states."""
    return config.model_copy(update={"calibration": config.calibration.model_copy(update={"seed": seed})})


def bounds(trials: Trials) -> list[str]:
    """The space's constraints, with the distinct-2 that is asked of all trials: the base's own, unrounded, at
    the space's first settings and as many steps as any trial has, times `DIVERSE`."""
    space = trials.space
    most = max(space.dimensions[STEPS].values())
    config = space.config(points.complete(space.dimensions, {STEPS: most}))
    (_, line), = trials.rungs(config.model_copy(update={"calibration": CalibrationConfig()}),
                              [len(space.rungs) - 1])
    least = DIVERSE * line["values"]["diversity"]
    return [*(str(bound) for bound in space.constraints if bound.metric != "diversity"),
            f"diversity >= {least:.3f}"]


def grid(space: Space, arm: Row) -> list[Row]:
    """The points of an arm by hand, the sampler's steps varying slowest."""
    settled = {**BY_HAND, **arm}
    parts = [path for path in space.dimensions if path.startswith(BITS)]
    order = sorted(SWEPT, key=lambda path: path != STEPS)
    every = []
    for steps, bits, *values in itertools.product(
            space.dimensions[STEPS].values(), space.dimensions[parts[0]].values(),
            *(space.dimensions[path].values() for path in order[1:])):
        given = {**settled, **dict.fromkeys(parts, bits), **dict(zip(order, [steps, *values], strict=True))}
        every.append(points.complete(space.dimensions, given))
    return list({json.dumps(point, sort_keys=True): point for point in every}.values())


def by_hand(space: Space, arm: Row, seed: int, budget: int, trials: Trials) -> Row:
    """One arm: what its points measure, as many as the budget has."""
    found: list[Row] = []
    for point in grid(space, arm)[:budget]:
        (_, line), = trials.rungs(seeded(space.config(point), seed), [len(space.rungs) - 1])
        found.append({"number": len(found), "point": point, **line["values"],
                      "cpu_seconds": line["cpu_seconds"]})
    return {"complete": found, "trials": len(found), "cpu_seconds": sum(row["cpu_seconds"] for row in found)}


def again(space: Space, rows: Sequence[Row], seed: int, trials: Trials) -> list[Row]:
    """The members of a front in other held-out texts and by other noise: what was luck is not there again."""
    found = []
    for row in front(space, rows):
        config = seeded(space.config(row["point"]), seed)
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"seed": 1})})
        (_, line), = trials.rungs(config, [len(space.rungs) - 1])
        found.append({**row, **line["values"]})
    return found


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
    table = trials.losses(space, seed)
    for values, tag in [*first_points(space), *((point, TAG) for point in allocated_points(space, table))]:
        engine.enqueue(values, tag)
    measured = Measured(space, seed, trials)
    simulate(engine, clock, measured.evaluate, 1, measured.on_step)
    measured.go_on()
    return trials.keep(key, {"complete": measured.complete, "trials": len(engine.ended),
                             "counts": dict(engine.counts), "cpu_seconds": measured.cpu_seconds,
                             "losses_cpu": table["cpu_seconds"],
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
        began, top, lines = self.cpu_seconds, len(self.space.rungs) - 1, []
        try:
            for index, line in self.trials.rungs(seeded(live.config, self.seed), range(top + 1)):
                self.cpu_seconds += line["cpu_seconds"]
                lines.append({**line["values"], "cpu_seconds": line["cpu_seconds"]})
                if index == top:
                    self.complete.append({"number": live.number, "point": live.values, **line["values"],
                                          "cpu_seconds": self.cpu_seconds - began, "rungs": lines})
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


if __name__ == "__main__":
    main()
