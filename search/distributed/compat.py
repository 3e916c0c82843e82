"""What Ray has under private names alone, each behind a function of ours, so that a change upstream
is met in one place.

Read in the Ray version below; tests/search/distributed/test_compat.py says what each has to do.
`cluster.compat` has the rest: `cluster` and this room share a floor, so neither knows the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RAY = "2.60.0"
"""Seen in."""
ANSWERS = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""A program that fails unless the head of a Ray cluster of this version answers at its argument, HOST:PORT.
Run it in a process of its own: Ray's client may abort it."""


def running_clusters() -> set[str]:
    """HOST:PORT of the clusters that run on this machine."""
    import ray._private.services as services

    return set(services.find_gcs_addresses())


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Within the block, a node that is started here may take so many seconds longer to register: Ray's own
    30 s are a number in its source."""
    import ray._private.services as services

    original, wait = services.get_node, os.environ.get("RAY_gcs_server_port_wait_time_s")

    def get_node(*given: Any, **named: Any) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                return original(*given, **named)
            except RuntimeError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)

    services.get_node = get_node
    os.environ["RAY_gcs_server_port_wait_time_s"] = str(max(1, round(seconds)))
    try:
        yield
    finally:
        services.get_node = original
        os.environ.pop("RAY_gcs_server_port_wait_time_s")
        if wait is not None:
            os.environ["RAY_gcs_server_port_wait_time_s"] = wait


def recorded_cluster() -> str | None:
    """HOST:PORT of the cluster that the last `ray start` on this machine made, which may have ended."""
    import ray._private.services as services

    return services.find_bootstrap_address(None)


def lean(trainer: Any) -> None:
    """Have the groups of a Ray Train trainer start without processes that do nothing for them: the one that
    divides data sets, of which there are none, and, where no dashboard runs, the one that frees a group's
    place when its controller died, of which it learns through the dashboard alone."""
    import ray._private.worker as connection
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    idle = ((DatasetsCallback,) if connection.get_dashboard_url()
            else (DatasetsCallback, PlacementGroupCleanerCallback))
    all_of_them = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [one for one in all_of_them() if not isinstance(one, idle)]
