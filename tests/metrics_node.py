"""A process with a Ray node of its own that plays a small run's events to Prometheus, until its standard
input closes."""

import sys

from search.distributed import environment

environment.apply()
import ray  # noqa: E402

COST = {"useful": 30.0, "stopped": 4.0, "failed": 2.0, "running": 1.0, "shared": 9.0, "overhead": 5.0}
SUMMARY = {"running": 1, "complete": 2, "stopped": 1, "failed": 1, "front_size": 2, "hypervolume": 0.5,
           "best": {"perplexity": 8.5, "latency_ms": 4.0}, "cost": COST}
EVENTS = [
    {"event": "run_started"}, {"event": "trial_started", "trial": 0, "proposal_seconds": 0.02},
    {"event": "rung", "trial": 0, "rung": 0, "metrics": {"start_seconds": 0.2, "tokens_per_second": 900.0}},
    {"event": "trial_finished", "trial": 0, "rung": 1,
     "metrics": {"start_seconds": 0.2, "tokens_per_second": 950.0}},
    {"event": "trial_finished", "trial": 1, "rung": 0, "metrics": {}},
    {"event": "warning", "message": "a worker died"},
]


def main(port: int) -> None:
    """Export at `port`; every second once more, so that rates exist."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             _metrics_export_port=port, object_store_memory=100 * 2**20,
             _system_config={"metrics_report_interval_ms": 500})
    from search.distributed.prometheus import RunMetrics

    seen = []
    metrics = RunMetrics("toy-1", seen.append, clock=lambda: 1000.0)
    for event in EVENTS:
        metrics({**SUMMARY, **event})
    assert len(seen) == len(EVENTS)
    print("ready", flush=True)
    for _ in sys.stdin:  # a line = one more trial
        for event in EVENTS:
            metrics({**SUMMARY, **event, "trial": event.get("trial", 0) + 10})
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
