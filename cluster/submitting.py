"""Sending a search to a Ray cluster as a job: what travels, how its log is followed, and how
one comes back to it.

The job runs on the cluster and does not need the terminal that sent it. Its log is the program's own
(`qdlm run`); the cluster keeps it, so that following can break off and start again.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.compat import use_machine_token
from spaces.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = Path(__file__).with_name("runtime_env.yaml")
SENT = "submitted.space.yaml"
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""To end a job is Ctrl-C: its run is brought in order, instead of being killed after 3 s."""
DONE = ("SUCCEEDED", "FAILED", "STOPPED")
MOST_BYTES = 5_000_000
"""What a job's folder may weigh; the code is a tenth of that."""


def client(address: str) -> Any:
    """The job API at `address` (http://HOST:8265). Raises `UserError` when nothing answers or
    the token is refused."""
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: legal: http://HOST:PORT of a cluster's dashboard (Ray's own "
                        "port is 8265)")
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    use_machine_token()
    try:
        found = JobSubmissionClient(address)
        found.list_jobs()
    except (ConnectionError, RuntimeError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"--address {address}: {lines[0] if lines else type(error).__name__}") from error
    return found


def runtime_env(space_text: str | None, pip: bool, pack: Path) -> dict[str, Any]:
    """The environment of a job: the code and the space copied to `pack`, nothing else of this folder.

    `pip`: the cluster's nodes install the pinned packages (otherwise their image has them). Raises
    `UserError` when what is to be sent is too large.
    """
    import shutil

    for name in ("spaces", "trainable", "search", "cluster", "dashboards"):
        shutil.copytree(ROOT / name, pack / name,
                        ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", pack)
    if space_text is not None:
        (pack / SENT).write_text(space_text, encoding="utf-8")
    weight = sum(path.stat().st_size for path in pack.rglob("*") if path.is_file())
    if weight > MOST_BYTES:
        raise UserError(f"what would be sent weighs {weight / 1e6:.0f} MB (most: {MOST_BYTES / 1e6:.0f}): "
                        "is there something beside the code in the packages' folders?")
    settings = yaml.safe_load(ENVIRONMENT.read_text(encoding="utf-8"))
    made = {"working_dir": str(pack), "excludes": settings["excludes"],
            "env_vars": {"RAY_TRAIN_V2_ENABLED": "1", **STOPPING}}
    return {**made, "pip": requirements()} if pip else made


def requirements() -> list[str]:
    """The packages of `qdlm[search]` at the releases that the tests run with, without Ray (a cluster has its
    own) and torch (its build differs)."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "ray=="))]


def submit(jobs: Any, space_text: str | None, arguments: Sequence[str], pack: Path, *, pip: bool = False,
           gpus: float = 0) -> str:
    """Send `qdlm run` on a space, or on none with `--resume` in `arguments`; returns the job's id.
    The entry point itself holds no GPU: trials do."""
    name = f"qdlm-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    entry = shlex.join(["python", "-m", "search", "run", *([SENT] if space_text is not None else []),
                        *arguments])
    return jobs.submit_job(entrypoint=entry, submission_id=name,
                           runtime_env=runtime_env(space_text, pip, pack),
                           entrypoint_num_gpus=gpus or None, metadata={"qdlm": "run"})


def follow(jobs: Any, job: str, tell: Callable[[str], None], tries: int = 5, pause: float = 2.0) -> str:
    """Pass the job's log on until the job ends; returns its status. A lost connection is taken up again
    `tries` times in a row, without telling a line twice. Raises `UserError` for a job that the cluster
    does not know."""
    import aiohttp

    _status(jobs, job)
    shown = 0

    async def stream() -> None:
        nonlocal shown
        seen = 0
        async for chunk in jobs.tail_job_logs(job):
            fresh = chunk[max(0, shown - seen):]
            seen += len(chunk)
            if fresh:
                shown = max(shown, seen)
                tell(fresh)

    left = tries
    while True:
        before = shown
        try:
            asyncio.run(stream())
            status = _status(jobs, job)
            if status in DONE:
                return status
        except (ConnectionError, OSError, RuntimeError, aiohttp.ClientError) as error:
            left = tries if shown > before else left - 1
            if left <= 0:
                raise UserError("the connection was lost; the job goes on. Come back with: "
                                f"--attach {job}") from error
        time.sleep(pause)


def _status(jobs: Any, job: str) -> str:
    try:
        status = jobs.get_job_status(job)
    except RuntimeError as error:
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
        raise UserError(f"the cluster knows no job {job}") from error
    return getattr(status, "value", str(status))
