"""How many trials a second the driver can keep up with: `python -m benchmarks.control_plane --trials 1000 --slots 16`.

The real driver (searcher, scheduler, records, Ray Tune's event loop, one actor process per slot) runs trials that only
sleep, so that what is measured is the control plane. Ideal: slots / seconds per trial.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import save, spread

SPACE = {
    "name": "simulated", "objectives": {"loss": "minimize", "size": "minimize"},
    "search": {"adapt.optim.lr": {"log": [1e-5, 1e-2]}, "lora.rank": {"int": [0, 16]},
               "sampling.steps": {"choice": [20, 50, 100]}, "sampling.temperature": {"float": [0.2, 1.0]},
               "lora.alpha": {"log": [1.0, 32.0]}},
}


class SleepGroup:
    """A worker group whose trials take their time and nothing else."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def run(self, job: str, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One event per rung; the seconds are spread evenly over the rungs."""
        values, rungs = payload["values"], payload["rungs"]
        far = (math.log10(values["adapt.optim.lr"]) + 3.5) ** 2 + (values["sampling.temperature"] - 0.5) ** 2
        for rung, steps in enumerate(rungs):
            time.sleep(self.seconds / len(rungs))
            yield {"rung": rung, "steps": steps, "final": rung == len(rungs) - 1,
                   "loss": far + 1.0 / (1 + values["lora.rank"] + rung), "size": 100.0 + values["lora.rank"]}


class SleepClient:
    """What `run_trials` needs of a pool's client."""

    def __init__(self, board: Any, seconds: float):
        self.board, self.seconds = board, seconds

    def lease(self, owner: str) -> SleepGroup:
        """There is always a group."""
        return SleepGroup(self.seconds)

    def release(self, owner: str) -> None:
        """Nothing is held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="per trial")
    parser.add_argument("--rungs", type=int, default=1)
    parser.add_argument("--sampler", help="the default of a space if not given")
    parser.add_argument("--name", default="control_plane", help="of the results file")
    asked = parser.parse_args()
    figures = {"trials": asked.trials, "slots": asked.slots, "seconds_per_trial": asked.seconds, "rungs": asked.rungs,
               "sampler": asked.sampler or "default", "ideal_trials_per_second": asked.slots / asked.seconds,
               "load_average_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as scratch:
        figures |= measure(asked, Path(scratch))
    print(json.dumps(figures, indent=1))
    save(asked.name, figures)


def measure(asked: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run the trials; rate, driver CPU, proposal latency, size of the records, at several counts of finished trials."""
    from search.ray_cluster import connected

    with connected(None, asked.slots):
        import ray

        from search.ray_board import Board
        from search.ray_tune import run_trials
        from search.records import RunFolder
        from search.sweep import Course
        from spaces.schema import Space

        changes = {"sampler": asked.sampler} if asked.sampler else {}
        space = Space.from_dict({**SPACE, **changes, "budget": {"trials": asked.trials},
                                 "rungs": list(range(1, asked.rungs + 1))})
        folder = RunFolder.create(scratch, space.name, space.to_yaml(), {"columns": {}})
        marks = Marks(folder.path)
        course = Course(space, folder, scratch / "cache", asked.slots, marks)
        marks.time_proposals(course.study)
        client = SleepClient(ray.remote(Board).options(num_cpus=0, max_concurrency=1000).remote(), asked.seconds)

        def payload(trial: Any) -> dict[str, Any]:
            return {"values": trial.values, "rungs": list(space.rungs), "proposed": time.time()}

        run_trials(course.engine, client, payload, asked.slots, scratch / "tune")
        began = time.monotonic()
        course.close("finished")
        return {**marks.figures(), "close_seconds": time.monotonic() - began, "front_size": len(course.engine.front)}


class Marks:
    """An observer that notes when trials end and what they have cost the driver until then."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ends: list[tuple[float, float]] = []
        self.latency: list[float] = []
        self.sizes: dict[int, int] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """Called by the engine for every event."""
        if event["event"] == "trial_finished":
            self.ends.append((time.monotonic(), time.process_time()))
            if len(self.ends) in (100, 1000, 10_000):
                self.sizes[len(self.ends)] = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def time_proposals(self, study: Any) -> None:
        """Note how long each proposal takes."""
        ask = study.ask

        def timed() -> Any:
            began = time.perf_counter()
            found = ask()
            self.latency.append(time.perf_counter() - began)
            return found

        study.ask = timed

    def figures(self) -> dict[str, Any]:
        """Rates between the first and the last end (starting processes is not the control plane's pace)."""
        whole = self._rate(0, len(self.ends) - 1)
        return {"trials_per_second": whole, "wall_seconds": self.ends[-1][0] - self.ends[0][0],
                "windows": {f"{low}-{high}": self._window(low, high) for low, high in self._windows()},
                "proposal_seconds": spread(self.latency), "record_bytes_at": self.sizes}

    def _windows(self) -> list[tuple[int, int]]:
        last = len(self.ends) - 1
        edges = [edge for edge in (0, 200, 1000, 2000, 5000, 9000, 10_000) if edge < last] + [last]
        return list(zip(edges, edges[1:], strict=False))

    def _rate(self, low: int, high: int) -> float:
        return (high - low) / (self.ends[high][0] - self.ends[low][0])

    def _window(self, low: int, high: int) -> dict[str, float]:
        return {"trials_per_second": self._rate(low, high),
                "driver_cpu_ms_per_trial": 1000 * (self.ends[high][1] - self.ends[low][1]) / (high - low),
                "proposal_ms_p50": 1000 * statistics.median(self.latency[low:high])}


if __name__ == "__main__":
    main()
