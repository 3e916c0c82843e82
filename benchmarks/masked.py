"""Masked diffusion beside Gaussian, a part at a time: `python -m benchmarks.masked --cache DIR --part PART`.

`train` trains one base (`--process`, `--seed`) for `--seconds` CPU seconds on one thread, by the recipe of
its space, the learning rate falling with that time; an interrupted call is gone on with. `texts` measures
what it writes and its bound on held-out text; `samplers` how the masked base writes under each sampler, or
`--only` under one, at one `--temperature`; `confirm` the default quota and the best samplers at half its
passes, by fresh noise; `control` the control tasks (`--tasks`, `--targets`, `--draw` for other ones); `show`
prints all tables from the JSON. Every call adds its figures to benchmarks/results/masked.json, so that no
call needs to be long. `--text quickstart` (the built-in corpus) compares spaces/quickstart.yaml with
spaces/masked.yaml; `--text e2e --data DIR` spaces/e2e.yaml with spaces/masked_e2e.yaml. Corpus and teacher
are shared, from `--cache`, made where it lacks them. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from argparse import Namespace
from pathlib import Path

import torch

from benchmarks.common import RESULTS, save
from benchmarks.control import TASK_NAMES, ControlBenchmark, one_trial
from benchmarks.masked_show import show
from benchmarks.masked_texts import Ground, figures, named, settings, table
from benchmarks.timed_base import facts_of, timed_base
from search.run.validation import load_checked
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import Loaded, load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.nll_bound import NLLBound
from trainable.scoring.teacher import Teacher
from trainable.stages.evaluation import Measurement
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SPACES = {"quickstart": {"gaussian": "quickstart", "masked": "masked"},
          "e2e": {"gaussian": "e2e", "masked": "masked_e2e"}}
PARTS = ("train", "texts", "samplers", "confirm", "control", "show")
GAUSSIAN_STEPS = 50
TEMPERATURES = {"gaussian": (0.5, 0.7, 1.0), "masked": (0.5, 0.7, 0.8, 0.9, 1.0)}
"""Of values; in small steps where a row as diverse as the Gaussian's is looked for."""
AT_HALF = 24
"""Most passes of the masked rows that stand beside the Gaussian's 50."""
COMPARED = ({"name": "quota"}, {"name": "quota", "order": "random"}, {"name": "quota", "order": "entropy"},
            {"name": "entropy_bound", "bound": 0.5})
"""Masked samplers of part `texts`."""
ORDERS = ("confidence", "entropy", "margin", "random")
QUOTA = {"name": "quota", "order": "confidence"}
BEST = 3
"""Samplers that are confirmed beside the quota."""
BLOCKS = {"quickstart": (9, 6), "e2e": (22, 11)}
PASSES = {"quickstart": (16, 8, 6, 4), "e2e": (43, 22, 14, 8)}
"""Most passes of quota rows: enough for a word each, then about a half, a third and a quarter."""


class Bench:
    """Ground and bases of one text."""

    def __init__(self, args: Namespace):
        self.args, self.cache = args, Path(args.cache)
        payload = {"config": self.config("masked", 0).model_dump(mode="json"), "cache": args.cache}
        context = WorkerContext()
        self.corpus = Path(list(JOBS["corpus"](payload, context))[-1]["path"])
        told = {**payload, "corpus": str(self.corpus)}
        self.teacher = list(JOBS["teacher"](told, context))[-1]["path"]
        corpus = TokenizedCorpus.open(self.corpus)
        self.ground = Ground(corpus, Teacher.load(self.teacher, corpus, torch.device("cpu")))

    def changes(self, process: str) -> dict:
        """What the command changes of a space. `--set` is for the masked one alone."""
        own = parse(self.args.settings) if process == "masked" else {}
        path = {"trial.corpus.source.path": self.args.data} if self.args.text == "e2e" else {}
        return {**path, **own}

    def config(self, process: str, seed: int) -> TrialConfig:
        """The space's trial, unquantized, as its search starts with it."""
        space = load_checked(SPACES[self.args.text][process],
                             {**self.changes(process), "trial.base.seed": seed})
        return space.config(points.complete(space.dimensions, space.start[0]))

    def base(self, process: str, seed: int) -> Path:
        """The artifact, trained where it is not there."""
        if self.args.whole:
            told = {"config": self.config(process, seed).model_dump(mode="json"), "cache": self.args.cache,
                    "corpus": str(self.corpus)}
            return Path(list(JOBS["base"](told, WorkerContext()))[-1]["path"])
        return timed_base(self.config(process, seed), self.corpus, self.cache, self.args.seconds)


def texts(bench: Bench, process: str, seed: int) -> dict:
    """Worth of a base's texts under several settings, and its bound."""
    folder, config = bench.base(process, seed), bench.config(process, seed)
    base, count = load(folder), bench.args.samples
    if process == "gaussian":
        asked = [settings(config.sampling, {"name": "ancestral"}, GAUSSIAN_STEPS, temperature)
                 for temperature in TEMPERATURES[process]]
    else:
        asked = [settings(config.sampling, sampler, AT_HALF, temperature)
                 for sampler in COMPARED for temperature in TEMPERATURES[process]]
    rows = [figures(bench.ground, base, each, count) for each in asked]
    return {"training": facts_of(folder), **bound(bench, base, config), "rows": rows,
            "again": [figures(bench.ground, base, each, count, seed=1) for each in asked], **now()}


def bound(bench: Bench, base: Loaded, config: TrialConfig) -> dict:
    """The metric `nll_bound`, with the noise of evaluation seed 0."""
    measured = Measurement(config=config, model=base.model, process=base.process, corpus=bench.ground.corpus,
                           teacher=bench.ground.teacher, facts={}, device=torch.device("cpu"), seed=0)
    found = NLLBound(NLLBound.Params()).measure(measured)
    return {key: found[key] for key in ("nll_bound", "nll_bound_se")}


def samplers(bench: Bench, process: str, seed: int) -> dict:
    """The masked base under every sampler at one temperature. Rows are kept by what was asked, so that
    temperatures add up."""
    folder, temperature = bench.base(process, seed), bench.args.temperature
    config, base, rows = bench.config(process, seed), load(folder), {}
    for sampler, steps in asked_samplers(bench.args.text):
        if bench.args.only not in (None, sampler["name"]):
            continue
        row = figures(bench.ground, base, settings(config.sampling, sampler, steps, temperature),
                      bench.args.samples)
        rows[f"{named(sampler)}; {steps}; {temperature:g}"] = row
        print(sampler, steps, {key: round(row[key], 3)
                               for key in ("nfe", "perplexity", "distinct2", "words")}, flush=True)
    return {"training": facts_of(folder), "rows": rows, **now()}


def confirm(bench: Bench, process: str, seed: int, held: dict) -> dict:
    """Quota of one word a pass, at each temperature, and the samplers that were best at half of its passes,
    again with fresh noise."""
    config, base = bench.config(process, seed), load(bench.base(process, seed))
    rows = list(held["samplers"][bench.args.text][process][str(seed)]["rows"].values())
    most, found = PASSES[bench.args.text][0], []
    for quota in (row for row in rows if row["sampler"] == QUOTA and row["steps"] == most):
        few = [row for row in rows if row["nfe"] <= quota["nfe"] / 2]
        fitting = sorted((row for row in few if row["distinct2"] >= 0.97 * quota["distinct2"]),
                         key=lambda row: row["perplexity"])
        found.append([figures(bench.ground, base,
                              settings(config.sampling, row["sampler"], row["steps"], row["temperature"]),
                              bench.args.samples, seed=1) for row in (quota, *fitting[:BEST])])
        print(table(found[-1]), flush=True)
    return {"groups": found, **now()}


def asked_samplers(text: str) -> list[tuple[dict, int]]:
    """(sampler, most passes)."""
    most, half, third, fourth = PASSES[text]
    found: list[tuple[dict, int]] = [({"name": "quota", "order": order}, steps)
                                     for order in ORDERS for steps in PASSES[text]]
    found += [({"name": "quota", "order": "confidence", "set_temperature": 0.5}, most)]
    found += [({"name": "threshold", "threshold": value}, most) for value in (0.5, 0.7, 0.9)]
    found += [({"name": "factor", "factor": value}, most) for value in (0.5, 1.0, 2.0)]
    found += [({"name": "entropy_bound", "bound": value}, most) for value in (0.1, 0.5, 1.0, 2.0, 4.0)]
    found += [({"name": "ancestral"}, most), ({"name": "remdm", "eta": 0.02}, most),
              ({"name": "remdm", "strategy": "confidence"}, most)]
    found += [({"name": "quota", "order": "confidence", "block": block}, most) for block in BLOCKS[text]]
    found += [({"name": "entropy_bound", "bound": 1.0, "block": BLOCKS[text][0]}, most)]
    found += [({"name": "chain", "bound": 0.1, "ends": "drawn"}, half - 1)]
    found += [({"name": "chain", "bound": value}, steps)
              for steps in (half - 1, third, fourth) for value in (0.0, 0.1, 0.2)]
    return found


def control(bench: Bench, process: str, seed: int) -> dict:
    """Success, lm-score and seconds of each task, and the seconds that all of them cost a trial."""
    config, folder = bench.config(process, seed), bench.base(process, seed)
    given = [*(bench.args.settings if process == "masked" else []), f"trial.base.path={folder}"]
    if bench.args.text == "e2e":
        given.append(f"trial.corpus.source.path={bench.args.data}")
    names = bench.args.tasks.split(",")
    asked = Namespace(space=SPACES[bench.args.text][process], settings=given, cache=bench.args.cache,
                      steps=config.sampling.steps, temperature=config.sampling.temperature,
                      targets=bench.args.targets)
    bench_ = ControlBenchmark(asked, bench.args.draw)
    _ = bench_.train  # read now: no task's seconds hold it
    tasks = {}
    for name in names:
        task, targets = bench_.task(name)
        began = time.process_time()
        tasks[name] = {"oracle": task.oracle(targets[0]), **bench_.success(task, targets),
                       "cpu_seconds": time.process_time() - began, **now()}
        print(process, name, {key: round(value, 3) for key, value in tasks[name].items()
                              if isinstance(value, float)}, tasks[name]["example"], flush=True)
    found = {"tasks": tasks}
    if set(names) == set(TASK_NAMES) or bench.args.trial:
        found["one_trial"] = {**one_trial(bench_, list(TASK_NAMES)), **now()}
    return found


def now() -> dict:
    """When, and how busy the machine was."""
    return {"date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[0], 1)}


def merged(held: dict, found: dict) -> dict:
    """`found` put into `held`, group by group; lists and figures are replaced."""
    return {key: merged(held[key], found[key])
            if isinstance(held.get(key), dict) and isinstance(found.get(key), dict)
            else found.get(key, held.get(key)) for key in {**held, **found}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--cache")
    parser.add_argument("--text", choices=tuple(SPACES), default="quickstart")
    parser.add_argument("--data", help="folder of the E2E dataset")
    parser.add_argument("--process", choices=("gaussian", "masked"), default="masked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of training")
    parser.add_argument("--whole", action="store_true",
                        help="the base of the space's own recipe, all its steps, instead")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.7, help="of samplers")
    parser.add_argument("--only", help="samplers of this name")
    parser.add_argument("--tasks", default=",".join(TASK_NAMES))
    parser.add_argument("--trial", action="store_true", help="time one trial's control as well")
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--draw", type=int, default=0, help="which targets; others than 0 need --label")
    parser.add_argument("--set", action="append", default=[], dest="settings",
                        help="of the masked space; results are then kept under --label")
    parser.add_argument("--label", help="of results with --set")
    parser.add_argument("--name", default="masked", help="benchmarks/results/NAME.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{args.name}.json"
    held = json.loads(path.read_text()) if path.is_file() else {}
    if held.get("seconds", args.seconds) != args.seconds:
        parser.error(f"{path.name} is of bases of {held['seconds']:g} seconds; give another --name")
    if args.part == "show":
        print(show(held))
        return
    if not args.cache or args.text == "e2e" and not args.data:
        parser.error("--cache DIR is needed, and --data DIR for e2e")
    if (args.settings or args.draw) and not args.label:
        parser.error("--set and --draw need --label")
    bench, process = Bench(args), args.process
    if args.part == "train":
        print(json.dumps(facts_of(bench.base(process, args.seed)), indent=1))
        return
    key = " ".join([process, *(["whole"] if args.whole else []),
                    *([args.label] if args.label and process == "masked" else [])])
    if args.part == "confirm":
        made = confirm(bench, process, args.seed, held)
    else:
        parts = {"texts": texts, "samplers": samplers, "control": control}
        made = parts[args.part](bench, process, args.seed)
    figures_ = {"seconds": args.seconds, args.part: {args.text: {key: {str(args.seed): made}}},
                "real": {args.text: {"perplexity_heldout": bench.ground.teacher.facts["heldout_perplexity"],
                                     **bench.ground.worth(bench.ground.real(args.samples))}}}
    found_all = merged({name: value for name, value in held.items() if name not in ("command", "host")},
                       figures_)
    save(args.name, found_all)
    print(show(figures_))


if __name__ == "__main__":
    main()
