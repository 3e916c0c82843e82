"""What Ray has under private names alone, each behind a function of ours, so that a change upstream
is met in one place.

Read in the Ray version below; tests/search/distributed/test_compat.py says what each has to do.
`cluster.compat` has the rest: `cluster` and this room share a floor, so neither knows the other.
"""

from __future__ import annotations

RAY = "2.60.0"
"""Seen in."""
ANSWERS = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""A program that fails unless the head of a Ray cluster of this version answers at its argument, HOST:PORT.
Run it in a process of its own: Ray's client may abort it."""


def running_clusters() -> set[str]:
    """HOST:PORT of the clusters that run on this machine."""
    import ray._private.services as services

    return set(services.find_gcs_addresses())


def recorded_cluster() -> str | None:
    """HOST:PORT of the cluster that the last `ray start` on this machine made, which may have ended."""
    import ray._private.services as services

    return services.find_bootstrap_address(None)
