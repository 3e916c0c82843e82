"""How long a trial takes to start, warm and cold: `python -m benchmarks.trial_start --storage DIR`.

Warm: from handing a trial of spaces/quickstart.yaml to a worker group that has run one before, until its first training
step can begin (corpus mapped, base loaded, quantizers and adapter placed). Cold: from asking for a new group, its
processes included, until the same point. DIR is where a run of that space has left its cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.common import save, spread
from search import ray_env
from search.checking import load_checked

ARMS = [{"quantization.quantizer": "none"}, {"quantization.quantizer": "fixed:Q0i8f", "lora.rank": 8},
        {"quantization.quantizer": "binary"}, {"quantization.quantizer": "ternary_twn", "lora.rank": 4}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--cold", type=int, default=3)
    asked = parser.parse_args()
    ray_env.apply()
    from search.ray_cluster import connected
    from search.ray_pool import Pool

    space = load_checked("quickstart", {})
    with connected(None) as _, tempfile.TemporaryDirectory() as scratch:
        cold = []
        for _ in range(asked.cold):
            began = time.monotonic()
            pool = Pool(1, space.hardware, Path(scratch)).start()
            shared = _prepared(pool, space, Path(asked.storage).resolve() / "cache")
            began += shared.pop("seconds")  # finding the prepared folders again is not part of a trial's start
            with pool.lease() as group:
                cold.append(_start(group, space, shared, scratch, 0) and time.monotonic() - began)
                warm = [_start(group, space, shared, scratch, i) for i in range(1, asked.trials + 1)]
            pool.close()
    figures = {"warm_seconds": spread(warm), "cold_seconds": spread(cold)}
    for name, values in figures.items():
        print(f"{name:13s} p50 {values['p50']:.3f}  p90 {values['p90']:.3f}  n {values['n']}")
    save("trial_start", figures)


def _prepared(pool, space, cache: Path) -> dict:
    from spaces import points

    config = space.config(points.complete(space.dimensions, ARMS[0])).model_dump(mode="json")
    pool.wait_ready()
    began = time.monotonic()
    corpus, = (event["path"] for event in pool.map([("corpus", {"config": config, "cache": str(cache)})]))
    both = pool.map([(kind, {"config": config, "cache": str(cache), "corpus": corpus}) for kind in ("teacher", "base")])
    return {"corpus": corpus, "teacher": both[0]["path"], "base": both[1]["path"], "seconds": time.monotonic() - began}


def _start(group, space, shared: dict, scratch: str, i: int) -> float:
    """Seconds from the command to `ready`; the trial is then abandoned."""
    from spaces import points

    config = space.config(points.complete(space.dimensions, ARMS[i % len(ARMS)]))
    payload = {"config": config.model_dump(mode="json"), "prepared": shared, "rungs": list(space.rungs),
               "folder": f"{scratch}/trial-{i}"}
    began = time.monotonic()
    events = group.run("trial", payload)
    assert next(events) == {"ready": True}
    seconds = time.monotonic() - began
    events.close()
    return seconds


if __name__ == "__main__":
    main()
