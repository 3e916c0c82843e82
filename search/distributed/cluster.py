"""The cluster of a run: one that is started here and ends with the run, or one that exists and
is attached to."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from search.distributed import environment
from search.distributed.compat import ANSWERS, patient, recorded_cluster, running_clusters
from spaces.config import HardwareConfig
from spaces.errors import UserError
from spaces.shell import called

CONNECT_S = 15.0
"""Seconds within which a cluster has to answer."""
LONGER_S = 120.0
"""Seconds by which the last try to start a cluster is more patient."""
OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory of a local cluster; what goes through it is small (data is mapped from files)."""


@dataclass(frozen=True)
class Cluster:
    """A connection. `local`: started by us."""

    address: str
    local: bool

    def room(self, hardware: HardwareConfig) -> int:
        """Worker groups that fit, node by node (a worker does not spread over nodes). Raises
        `UserError` when none does."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = sum(_fit(node, hardware) for node in nodes)
        if workers < hardware.workers:
            wanted = f"{hardware.workers} worker(s) with {hardware.cpus:g} CPU(s)"
            wanted += f" and {hardware.gpus:g} GPU(s)" if hardware.gpus else ""
            cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
            raise UserError(
                f"hardware: a trial needs {wanted} each, the cluster has {cpus:g} CPU(s) and {gpus:g} GPU(s) "
                f"on {len(nodes)} node(s); lower hardware.workers, hardware.cpus or hardware.gpus")
        return workers // hardware.workers


def _fit(node: dict[str, float], hardware: HardwareConfig) -> int:
    fits = node.get("CPU", 0) / hardware.cpus
    if hardware.gpus:
        fits = min(fits, node.get("GPU", 0) / hardware.gpus)
    return math.floor(fits + 1e-9)


def starts_here(address: str | None) -> bool:
    """Whether `connected(address)` starts a cluster of its own."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return False
    return _named(address) in (None, "local")


def _named(address: str | None) -> str | None:
    """The cluster that is meant: what is given, or what RAY_ADDRESS says."""
    from_environment = os.environ.get("RAY_ADDRESS", "")
    if not from_environment.startswith("http"):  # http: the job API's, not the cluster's
        address = address or from_environment or None
    return address


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[Cluster]:
    """A connection to Ray for the `with` block.

    `address`: `auto` (the cluster that runs on this machine), `HOST:PORT`, or None. None attaches where
    RAY_ADDRESS says (it is set inside a Ray job), and starts a cluster for this block alone otherwise,
    with `cpus` CPUs (default: all). A process that is connected already stays so, and its connection is used.
    Raises `UserError` in less than 20 s when nothing answers.
    """
    environment.apply(attach=address not in (None, "local"))
    import ray

    address = _named(address)
    if ray.is_initialized():
        yield Cluster(ray.get_runtime_context().gcs_address, local=False)
        return
    local = address in (None, "local")
    if address is None or local:
        _start(cpus)
    else:
        _attach(address)
    try:
        yield Cluster(ray.get_runtime_context().gcs_address, local)
    finally:
        ray.shutdown()


def _start(cpus: int | None) -> None:
    """Start a cluster here. Three times at most: on a machine that is busy, Ray's own patience (30 s)
    may not be enough, so the third try has more."""
    import ray

    for last, patience in ((False, nullcontext()), (False, nullcontext()), (True, patient(LONGER_S))):
        try:
            with patience:
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False,
                         logging_level=logging.ERROR, object_store_memory=OBJECT_STORE)
            return
        except Exception as error:  # Ray raises its bare Exception when the node takes too long
            with suppress(Exception):
                ray.shutdown()
            if last:
                raise UserError(f"a local Ray cluster could not be started: {_brief(error)}") from error


def _attach(address: str) -> None:
    """Connect to a cluster, after it has shown that it answers: Ray retries a dead address for
    a minute and more."""
    import ray

    if address.startswith("ray://"):
        raise UserError(f"--address {address}: a Ray Client connection carries no search; "
                        "`search.distributed.client_task` runs it there")
    target = _find() if address == "auto" else address
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: legal: auto, HOST:PORT of a cluster's head, "
                        "or ray://HOST:PORT")
    _probe(address, host, int(port))
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        with suppress(Exception):
            ray.shutdown()
        raise UserError(f"--address {address}: {_brief(error)}") from error


def _find() -> str:
    """HOST:PORT of the cluster that runs on this machine."""
    running = sorted(running_clusters())
    if not running:
        raise UserError("--address auto: no Ray cluster runs on this machine; start one with: "
                        f"{called('ray')} start --head")
    recorded = recorded_cluster()  # other runs' own clusters are not meant
    if recorded not in running and len(running) > 1:
        raise UserError("--address auto: several clusters run on this machine; "
                        f"name one of {', '.join(running)}")
    return recorded if recorded in running else running[0]


def _probe(address: str, host: str, port: int) -> None:
    """Raise `UserError` unless a Ray of our version answers. In a process of its own: Ray's client may
    abort a process."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S / 3).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers at {host}:{port} "
                        f"({error.strerror or error})") from error
    # `ray.init` finds the machine's token by itself; the bare client has to be told that there is one.
    token = {"RAY_AUTH_MODE": "token"} if (Path.home() / ".ray" / "auth_token").is_file() else {}
    try:
        answer = subprocess.run([sys.executable, "-c", ANSWERS, f"{host}:{port}"], timeout=CONNECT_S,
                                text=True,
                                stdin=subprocess.DEVNULL, capture_output=True, env={**token, **os.environ})
    except subprocess.TimeoutExpired as error:
        message = f"{host}:{port} is no Ray cluster's head (no answer in {CONNECT_S:g} s)"
        raise UserError(f"--address {address}: {message}") from error
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["Ray refused the connection"]
        raise UserError(f"--address {address}: {lines[-1].strip()}")


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
