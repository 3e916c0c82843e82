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
from collections.abc import Iterable
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


def without_folders(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command: folders of this machine stay here."""
    return [re.sub(r"(^|=)/\S+", r"\1DIR", argument) for argument in arguments]


def save(name: str, figures: dict) -> Path:
    """Write results/NAME.json: the command, the host, the figures; `settings` among them as the command's."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    module = f"benchmarks.{Path(sys.argv[0]).stem}"
    command = " ".join(["python", "-m", module, *without_folders(sys.argv[1:])])
    if "settings" in figures:
        figures = {**figures, "settings": without_folders(figures["settings"])}
    path.write_text(json.dumps({"command": command, "host": host(), **figures}, indent=1) + "\n")
    print(f"wrote benchmarks/results/{path.name}")
    return path


def spread(values: list[float]) -> dict:
    """Count, median, 90th percentile, smallest, largest."""
    ordered = sorted(values)
    return {"n": len(ordered), "p50": statistics.median(ordered),
            "p90": ordered[int(0.9 * (len(ordered) - 1))], "min": ordered[0], "max": ordered[-1]}
