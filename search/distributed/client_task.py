"""A Ray Client connection, `ray://HOST:PORT`, and one task on the cluster behind it, run with this
machine's code."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


def _connect(ray: Any, address: str, settings: dict[str, Any], attempts: int = 3) -> None:
    """`ray.init`. The head starts a server for every client; on a busy machine that can fail once and
    work the next time, so a failure of that start alone is tried again."""
    for attempt in range(1, attempts + 1):
        try:
            ray.init(address, runtime_env=settings, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            with suppress(Exception):
                ray.shutdown()
            if attempt == attempts or "Initialization failure" not in str(error):
                raise UserError(f"--address {address}: {_reason(error)}") from error
            time.sleep(2.0 * attempt)


def _reason(error: BaseException) -> str:
    """One line. Where the head answers with a traceback, what it ends with is the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback (") for line in lines):
        lines = [lines[0], lines[-1]]
    return " ".join(lines[:2]) or type(error).__name__


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
    _connect(ray, address, settings)
    try:
        yield ray
    finally:
        ray.shutdown()
