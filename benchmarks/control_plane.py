"""How many trials a second the driver can keep up with.

    python -m benchmarks.control_plane --case one-node-1000    1,000 trials of 1 s on 16 slots of a Ray node
    python -m benchmarks.control_plane --case four-nodes-1000  on 4 nodes of Ray's test cluster, 4 slots each
    python -m benchmarks.control_plane --case one-node-10000 --case four-nodes-10000

The real driver (searcher, scheduler, records, Ray Tune's event loop, one actor process per slot)
runs trials that only sleep, so that what is measured is the control plane. Ideal: slots / seconds per trial.
results/control_plane.json keeps the cases; one that it holds is measured again only with --again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import RESULTS, host, save

NODES = {"one-node": 1, "four-nodes": 4}
SLOT_MEMORY = 1_000_000
"""Bytes that a slot asks Ray for; it is what spreads the slots over the simulated nodes."""
EDGES = (0, 100, 200, 1000, 2000, 5000, 9000, 10_000)
"""Finished trials between which rates are told."""

SPACE = {
    "name": "simulated", "objectives": {"loss": "minimize", "size": "minimize"},
    "search": {"adapt.optim.lr": {"log": [1e-5, 1e-2]}, "lora.rank": {"int": [0, 16]},
               "sampling.steps": {"choice": [20, 50, 100]}, "sampling.temperature": {"float": [0.2, 1.0]},
               "lora.alpha": {"log": [1.0, 32.0]}},
    "sampler": {"name": "ehvi", "most": 300},  # trials of a second do not wait for later proposals of ehvi
}


class SleepGroup:
    """A worker group whose trials take their time and nothing else."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def run(self, job: str, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One event per rung; the seconds are spread evenly over the rungs."""
        import ray

        values, rungs, node = payload["values"], payload["rungs"], ray.get_runtime_context().get_node_id()[:8]
        far = (math.log10(values["adapt.optim.lr"]) + 3.5) ** 2 + (values["sampling.temperature"] - 0.5) ** 2
        for rung, steps in enumerate(rungs):
            time.sleep(self.seconds / len(rungs))
            yield {"rung": rung, "steps": steps, "final": rung == len(rungs) - 1, "device": node,
                   "loss": far + 1.0 / (1 + values["lora.rank"] + rung), "size": 100.0 + values["lora.rank"]}


class SleepClient:
    """What `run_trials` needs of a pool's client."""

    def __init__(self, broker: Any, seconds: float):
        self.broker, self.seconds = broker, seconds

    def lease(self, owner: str) -> SleepGroup:
        """There is always a group."""
        return SleepGroup(self.seconds)

    def release(self, owner: str) -> None:
        """Nothing is held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", required=True, metavar="NODES-TRIALS",
                        help=f"{' or '.join(NODES)}, and the number of trials; may be given again")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="per trial")
    parser.add_argument("--rungs", type=int, default=1)
    parser.add_argument("--sampler", help="ehvi, most: 300 if not given")
    parser.add_argument("--name", default="control_plane", help="of the results file")
    parser.add_argument("--again", action="store_true", help="measure cases that the results hold already")
    args = parser.parse_args()
    path = RESULTS / f"{args.name}.json"
    cases = json.loads(path.read_text()).get("cases", {}) if path.exists() else {}
    for case in args.case:
        found = re.fullmatch(rf"({'|'.join(NODES)})-([1-9]\d*)", case)
        if not found:
            parser.error(f"--case {case}; legal: {' or '.join(NODES)}, a dash and the number of trials, "
                         "as one-node-1000")
        if case in cases and not args.again:
            print(f"{case}: measured already")
            continue
        cases[case] = measured(args, NODES[found[1]], int(found[2]))
        print(case, json.dumps(cases[case], indent=1))
        save(args.name, {"cases": cases})


def measured(args: argparse.Namespace, nodes: int, trials: int) -> dict[str, Any]:
    """One case: what was asked for, and its figures."""
    ideal = args.slots / args.seconds
    figures = {"nodes": nodes, "trials": trials, "slots": args.slots,
               "seconds_per_trial": args.seconds, "rungs": args.rungs,
               "sampler": args.sampler or SPACE["sampler"],
               "load_average_before": os.getloadavg()[0], "commit": host()["commit"],
               "ideal_trials_per_second": ideal, "ideal_seconds": trials / ideal}
    with tempfile.TemporaryDirectory() as scratch, cluster(nodes, args.slots) as address:
        figures |= run(args, trials, address, Path(scratch))
    return figures


@contextmanager
def cluster(nodes: int, slots: int) -> Iterator[str | None]:
    """The address of Ray's own test cluster: a head, which carries driver and switchboard, and `nodes`
    for the slots. None for one node: `connected` starts it."""
    if nodes == 1:
        yield None
        return
    from search.distributed import environment

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1]),
                                                os.environ.get("PYTHONPATH", "")])
    environment.apply()
    from ray.cluster_utils import Cluster

    store = 100 << 20
    found = Cluster(initialize_head=True,
                    head_node_args={"num_cpus": 1, "memory": 0, "object_store_memory": store})
    try:
        for _ in range(nodes):
            found.add_node(num_cpus=slots // nodes, memory=SLOT_MEMORY * slots // nodes,
                           object_store_memory=store)
        found.wait_for_nodes()
        yield found.address
    finally:
        found.shutdown()


def run(args: argparse.Namespace, trials: int, address: str | None, scratch: Path) -> dict[str, Any]:
    """Run the trials; rate, driver CPU and memory, proposal latency, size of the records, between several
    counts of finished trials."""
    from search.distributed.cluster import connected

    with connected(address, args.slots):
        import ray

        from search.distributed.broker import Broker
        from search.distributed.prometheus import RunMetrics
        from search.distributed.tune import run_trials
        from search.records.run_folder import RunFolder
        from search.run.sweep import RunStages
        from spaces.schema import Space

        changes = {"sampler": args.sampler} if args.sampler else {}
        space = Space.from_dict({**SPACE, **changes, "budget": {"trials": trials},
                                 "rungs": list(range(1, args.rungs + 1))})
        folder = RunFolder.create(scratch, space.name, space.to_yaml(), {"columns": {}})
        marks = Marks(folder.path)
        began = time.monotonic()
        stages = RunStages(space, folder, scratch / "cache", args.slots, RunMetrics("simulated", marks))
        marks.time_proposals(stages.study)
        client = SleepClient(ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(),
                             args.seconds)

        def payload(trial: Any) -> dict[str, Any]:
            return {"values": trial.values, "rungs": list(space.rungs), "proposed": time.time(),
                    "prepared": {}, "shared": {"settings": {}}}

        run_trials(stages.engine, client, payload, lambda trial, event: None, args.slots, scratch / "tune")
        ended = time.monotonic()
        stages.close("finished")
        by_node = Counter(row["device"] for row in folder.rows() if row["state"] != "rung")
        return {"wall_seconds_with_start": ended - began, **marks.figures(), "close_seconds": time.monotonic()
                - ended, "front_size": len(stages.engine.front), "trials_by_node": sorted(by_node.values())}


class Marks:
    """An observer that notes when trials end and what they have cost the driver until then."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ends: list[tuple[float, float, int]] = []  # time, CPU seconds so far, bytes of memory
        self.process = psutil.Process()
        self.latency: list[float] = []
        self.sizes: dict[int, int] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """Called by the engine for every event."""
        if event["event"] == "trial_finished":
            self.ends.append((time.monotonic(), time.process_time(), self.process.memory_info().rss))
            if len(self.ends) in (100, 1000, 10_000):
                self.sizes[len(self.ends)] = sum(path.stat().st_size
                                                 for path in self.folder.rglob("*") if path.is_file())

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
        last = len(self.ends) - 1
        edges = [edge for edge in EDGES if edge < last] + [last]
        windows = {f"{low}-{high}": self._window(low, high)
                   for low, high in zip(edges, edges[1:], strict=False)}
        first = windows.get("200-1000", {}).get("trials_per_second")
        late = windows.get("9000-9999", {}).get("trials_per_second")
        return {**self._window(0, last), "wall_seconds": self.ends[-1][0] - self.ends[0][0],
                "windows": windows, "rate_at_10000_to_rate_at_200": late / first if first and late else None,
                "record_bytes_at": self.sizes}

    def _window(self, low: int, high: int) -> dict[str, float]:
        trials, (begun, cpu, _), (ended, used, memory) = high - low, self.ends[low], self.ends[high]
        latency = [1000 * seconds for seconds in self.latency[low:high]]
        return {"trials_per_second": trials / (ended - begun),
                "driver_cpu_ms_per_trial": 1000 * (used - cpu) / trials,
                "driver_memory_mib": memory / 2**20, "proposal_ms_p50": statistics.median(latency),
                "proposal_ms_p95": sorted(latency)[math.ceil(0.95 * len(latency)) - 1]}


if __name__ == "__main__":
    main()
