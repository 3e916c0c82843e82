"""Record what ranks and bit-widths are worth trained one by one, and as members of one supernet, for
`benchmarks.supernet_front`: `python -m benchmarks.supernet_record --cache DIR --work DIR`.

Every point of benchmarks/tables/supernet.yaml is trained by itself and measured at every rung, and measured
as a member of one supernet, under several trial seeds, with CPU seconds of each part. What is done stands in
WORK/supernet.jsonl, so that the command can be stopped (--minutes) and given again; it ends by writing
benchmarks/tables/supernet.parquet with what there is. `--cache` is the `cache` of a run of
spaces/masked.yaml. No Ray.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch

from benchmarks.arms import prepared
from search.records.journal import append_line, mend_tail, read_lines
from spaces.config import TrialConfig
from spaces.schema import Space, load
from trainable.stages.members import member_of
from trainable.stages.prepare import Prepared
from trainable.stages.supernet import prepare_supernet
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

HERE = Path(__file__).parent / "tables"
SPACE, TABLE = HERE / "supernet.yaml", HERE / "supernet.parquet"
METRICS = ("nll_bound", "size_bytes")
TIMES = (1, 2)
"""Steps of a supernet, in those of a trial."""
COLUMNS = ("kind", "seed", "times", "rank", "bits", "rung", "steps", "start_seconds", "train_seconds",
           "measure_seconds", *METRICS)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the runs of their own")
    parser.add_argument("--supernets", type=int, default=5, help="seeds of them")
    parser.add_argument("--minutes", type=float, default=7.0, help="stop starting parts after that long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, begun, context = load(SPACE), time.monotonic(), WorkerContext()
    args.work.mkdir(parents=True, exist_ok=True)
    journal = args.work / "supernet.jsonl"
    journal.touch()
    mend_tail(journal)
    done = {line["part"] for line in read_lines(journal)}
    shared = Prepared(**prepared(space.example, args.cache, context))
    longest: dict[str, float] = {}
    list(of_own(space.example, (1,), shared, args.work / "trial", context))  # untimed: what is imported
    for name, part in parts(space, args.seeds, args.supernets, shared, Path(args.cache), args.work / "trial",
                            context):
        since, kind = time.monotonic(), name.split()[0]
        if name in done or since - begun + longest.get(kind, 0.0) > 60 * args.minutes:
            continue
        append_line(journal, {"part": name, "rows": list(part())})
        longest[kind] = max(longest.get(kind, 0.0), time.monotonic() - since)
        print(f"{time.monotonic() - begun:6.1f} s", name, flush=True)
    rows = [row for line in read_lines(journal) for row in line["rows"]]
    pa.parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in COLUMNS}), TABLE)
    print(f"{len(rows)} rows -> {TABLE.name}")


def parts(space: Space, seeds: int, supernets: int, shared: Prepared, cache: Path, folder: Path,
          context: WorkerContext) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    """What is recorded in one go, by name: a supernet with its members, or a point trained by itself."""
    for seed in range(max(seeds, supernets)):
        configs = [seeded(space.config(point), seed) for point in space.enumerate()]
        for times in TIMES if seed < supernets else ():
            yield (f"supernet {seed} {times}",
                   partial(of_members, longer(configs, times), space.rungs, shared, cache, folder, context))
        for config in configs if seed < seeds else ():
            rank, bits = member_of(config)[:2]
            yield (f"own {seed} {rank} {bits}", partial(of_own, config, space.rungs, shared, folder, context))


def longer(configs: list[TrialConfig], times: int) -> list[TrialConfig]:
    """Members of a supernet of so many times the steps of a trial."""
    return [config.model_copy(update={"adapt": config.adapt.model_copy(update={
        "supernet_steps": times * config.adapt.optim.steps})}) for config in configs]


def seeded(config: TrialConfig, seed: int) -> TrialConfig:
    """The trial under another seed, of its training and its noise."""
    return config.model_copy(update={"seed": seed})


def of_members(configs: list[TrialConfig], rungs: tuple[int, ...], shared: Prepared, cache: Path,
               folder: Path, context: WorkerContext) -> Iterator[Row]:
    """One supernet, and all its members: as trials of one rung, and as the lowest rung of several."""
    began = time.process_time()
    made = list(prepare_supernet(configs[0], shared, cache, context.device))[-1]
    paths = Prepared(shared.corpus, shared.teacher, shared.base, made["path"])
    times = round(made["supernet_steps"] / rungs[-1])
    yield {"kind": "supernet", "seed": configs[0].seed, "times": times, "steps": made["supernet_steps"],
           "train_seconds": time.process_time() - began}
    for config in configs:
        for kind, used in (("member", rungs[-1:]), ("lowest rung", rungs)):
            for row in measured(kind, config, paths, used, folder, context, 1):
                yield {**row, "times": times}


def of_own(config: TrialConfig, rungs: tuple[int, ...], shared: Prepared, folder: Path,
           context: WorkerContext) -> Iterator[Row]:
    """A point trained by itself, at every rung."""
    alone = config.model_copy(update={"adapt": config.adapt.apart})
    yield from measured("own", alone, shared, rungs, folder, context, len(rungs), member_of(config)[:2])


def measured(kind: str, config: TrialConfig, paths: Prepared, rungs: tuple[int, ...], folder: Path,
             context: WorkerContext, count: int, point: tuple[int, int] | None = None) -> Iterator[Row]:
    """The first `count` rungs of a trial, with CPU seconds of its start, of training since the last rung, and
    of measuring."""
    rank, bits = point or member_of(config)[:2]
    shutil.rmtree(folder, ignore_errors=True)
    clock = [time.process_time()]
    trial = Trial(config, paths, rungs, folder, context.device, context.cache)
    clock.append(time.process_time())
    for rung, steps in enumerate(rungs[:count]):
        if kind == "own":
            assert trial.run is not None
            trial.run.advance(steps)
        clock.append(time.process_time())
        found = trial.rung(rung)
        clock.append(time.process_time())
        yield {"kind": kind, "seed": config.seed, "rank": rank, "bits": bits, "rung": rung, "steps": steps,
               "start_seconds": 0.0 if rung else clock[1] - clock[0], "train_seconds": clock[-2] - clock[-3],
               "measure_seconds": clock[-1] - clock[-2], **{name: found[name] for name in METRICS}}


if __name__ == "__main__":
    main()
