"""A Ray Client connection, `ray://HOST:PORT`, and one task on the cluster behind it, run with this
machine's code."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.distributed import environment
from spaces.errors import RunError, UserError

SCHEME = "ray://"
CONNECT_S = 5.0
"""Seconds within which the port has to answer."""
CLOSING_S = 120.0
"""Seconds that an interrupted task gets to bring things in order."""
_PACKAGES = ("dashboards", "search", "spaces", "trainable")


def call(address: str, work: Callable[[Any, Callable[[Any], None]], Any], request: Any,
         observer: Callable[[Any], None]) -> Any:
    """What `work(request, tell)` returns over there; `observer` gets what it tells, while it runs.

    `work` starts in the home folder of the cluster's user. Raises `UserError` when nothing answers,
    `RunError` when process or connection are lost, KeyboardInterrupt after the task has had its
    own and has ended.
    """
    with _client(address) as ray:
        from ray.util.queue import Queue

        events = Queue(actor_options={"num_cpus": 0})
        task = ray.remote(num_cpus=0, max_retries=0)(_task).remote(work, request, events)
        try:
            while not ray.wait([task], timeout=0.2)[0]:
                _forward_events(events, observer)
            found = ray.get(task)
            _forward_events(events, observer)
        except KeyboardInterrupt:
            ray.cancel(task)
            ray.wait([task], timeout=CLOSING_S)
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ConnectionError) as error:
            raise RunError(f"{address}: the search's process or the connection to it was lost") from error
        return found


def _task(work: Callable[[Any, Callable[[Any], None]], Any], request: Any, events: Any) -> Any:
    os.chdir(Path.home())
    return work(request, events.put)


def _forward_events(events: Any, observer: Callable[[dict[str, Any]], None]) -> None:
    for event in events.get_nowait_batch(events.qsize()):
        observer(event)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A Ray Client connection. Raises `UserError` when nothing, or another version, answers."""
    host, _, port = address.removeprefix(SCHEME).partition("/")[0].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: legal: {SCHEME}HOST:PORT (Ray's own port for clients "
                        "is 10001)")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers at {host}:{port} "
                        f"({error.strerror or error})") from error
    environment.apply(attach=True)
    import ray

    root = Path(__file__).resolve().parents[2]
    settings = {"py_modules": [str(root / name) for name in _PACKAGES], "excludes": ["__pycache__"],
                "env_vars": {name: os.environ[name] for name in environment.DEFAULTS}}
    try:
        ray.init(address, runtime_env=settings, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"--address {address}: {' '.join(lines[:2]) or type(error).__name__}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
