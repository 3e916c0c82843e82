"""The processors that this process may use, and how many of them others keep busy."""

from __future__ import annotations

import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cpu_limit() -> float:
    """CPUs that this process may use: the affinity mask, and the control group's quota where one is set."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if CPU_QUOTA.is_file():
        limit, period = CPU_QUOTA.read_text().split()
        if limit != "max":
            count = min(count, int(limit) / int(period))
    return count


def free_cpus() -> int:
    """Whole CPUs of this process's share that nothing uses now, at least 1. More threads than that wait
    for each other: on a busy machine two are several times slower than one."""
    return max(1, int(cpu_limit() - os.getloadavg()[0]))


def others_at_work() -> str | None:
    """What a search on a busy machine has to expect, in one line; None where there is room."""
    load, cpus = os.getloadavg()[0], cpu_limit()
    if load < cpus:
        return None
    return (f"others are at work on this machine (load {load:.1f}, {cpus:g} CPUs): all takes longer, and "
            "latencies, though told by ratio to the base, are noisier")
