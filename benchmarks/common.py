"""What every benchmark writes beside its figures: where and how they were taken."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KERNEL_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16",
                "asimddp", "i8mm", "sve")
PACKAGES = ("torch", "ray", "optuna", "transformers", "peft")


def host() -> dict:
    """The machine and the versions, without its name."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent, check=False).stdout.strip()
    return {"cpus": os.cpu_count(), "machine": platform.machine(), "cpu_flags": cpu_flags(),
            "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 1), "commit": commit, "date": time.strftime("%Y-%m-%d"),
            **{name: metadata.version(name) for name in PACKAGES}}


def cpu_flags() -> list[str]:
    """The instruction sets that decide which kernels run; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return sorted(set(KERNEL_FLAGS) & set(found[1].split())) if found else []


def save(name: str, figures: dict) -> Path:
    """Write results/NAME.json: the command, the host, the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    # folders of this machine stay here
    arguments = [re.sub(r"(^|=)/\S+", r"\1DIR", argument) for argument in sys.argv[1:]]
    command = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])
    path.write_text(json.dumps({"command": command, "host": host(), **figures}, indent=1) + "\n")
    print(f"wrote benchmarks/results/{path.name}")
    return path


def spread(values: list[float]) -> dict:
    """Count, median, 90th percentile, smallest, largest."""
    ordered = sorted(values)
    return {"n": len(ordered), "p50": statistics.median(ordered),
            "p90": ordered[int(0.9 * (len(ordered) - 1))], "min": ordered[0], "max": ordered[-1]}
