"""How long a stranger takes: clone, `make quickstart`, the front; then the same space to a cluster,
in one more command.

    python -m benchmarks.stranger FOLDER  an empty folder, which keeps the clone; 10 to 15 minutes on 2 cores
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import save

ROOT = Path(__file__).resolve().parents[1]


def main(folder: Path) -> None:
    """Walk the path, print and keep the seconds of each step."""
    clone = folder / "qdlm"
    ports = {"QDLM_RAY_PORT": port(), "QDLM_RAY_DASHBOARD_PORT": port(),
             "QDLM_CLUSTER_STATE": str(folder / "state"), "RAY_TMPDIR": tempfile.mkdtemp(prefix="q")}
    address = f"http://127.0.0.1:{ports['QDLM_RAY_DASHBOARD_PORT']}"
    figures = {"load_before": round(os.getloadavg()[0], 1)}

    def step(name: str, *command: str, at: Path = clone) -> None:
        print(f"== {name}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        subprocess.run(command, cwd=at, check=True, env={**os.environ, **ports}, stdin=subprocess.DEVNULL)
        figures[name] = round(time.monotonic() - began, 1)

    step("clone_seconds", "git", "clone", "-q", str(ROOT), str(clone), at=folder)
    step("quickstart_seconds", "make", "quickstart")
    step("cluster_start_seconds", "cluster/local.sh", "start")
    try:
        step("submit_seconds", ".venv/bin/qdlm", "submit", "quickstart", "--address", address,
             "--storage", str(clone / "runs"), "--follow")
    finally:
        step("cluster_stop_seconds", "cluster/local.sh", "stop")
    save("stranger", figures)


def port() -> str:
    """A free one."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
