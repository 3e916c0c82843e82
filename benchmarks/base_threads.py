"""A base's training steps with 1, 2, ... threads, in turn: `python -m benchmarks.base_threads [SPACE]`.

What a run does with processors that idle while it is prepared (`trainable.training.threads`): the base of a
space is trained for some steps with each number of threads, as often as `--repeats` says, in an order that
changes. Milliseconds a step, wall and CPU, and the ratio of wall time to that of the first number in the same
round. Needs as many idle processors as threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import save
from benchmarks.timed_base import training_run
from spaces.schema import load
from trainable.stages.prepare import prepare_corpus


def main() -> None:
    """Write results/base_threads.json."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="quickstart")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    config = load(args.space).example
    with tempfile.TemporaryDirectory() as scratch:
        *_, last = prepare_corpus(config, args.cache or Path(scratch))
        run = training_run(config, Path(last["path"]))
        taken: dict[int, list[tuple[float, float]]] = {count: [] for count in args.threads}
        for repeat in range(-1, args.repeats):
            for count in args.threads if repeat % 2 else reversed(args.threads):
                torch.set_num_threads(count)
                wall, cpu = time.perf_counter(), time.process_time()
                run.advance(run.step + args.steps)
                if repeat >= 0:
                    taken[count].append(((time.perf_counter() - wall) / args.steps,
                                         (time.process_time() - cpu) / args.steps))
    one = taken[args.threads[0]]
    figures = {}
    for count, rounds in taken.items():
        ratios = sorted(own[0] / first[0] for own, first in zip(rounds, one, strict=True))
        figures[str(count)] = {"wall_ms": 1000 * statistics.median(wall for wall, _ in rounds),
                               "cpu_ms": 1000 * statistics.median(cpu for _, cpu in rounds),
                               "ratio": statistics.median(ratios), "ratio_range": [ratios[0], ratios[-1]]}
        print(count, figures[str(count)], flush=True)
    save("base_threads", {"space": args.space, "batch": config.base.optim.batch_size, "steps": args.steps,
                          "repeats": args.repeats, "threads": figures})


if __name__ == "__main__":
    main()
