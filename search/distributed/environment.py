"""Ray's settings that are environment variables. They count when Ray is imported or its processes start,
so a run sets them first. What the user has set stays."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

DEFAULTS = {
    # Ray runs workers at nice 15 otherwise; counts where this process starts the cluster
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # the raylet's remarks about killed workers: the pool says it in one line
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a killed worker is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a busy machine takes its time to import torch
    # a process per group that tells loops what ours, which checkpoint, ignore
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the driver
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a metric that was not measured is the engine's business
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    # the run folder is the record; Tune's own snapshots are never read
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    # all first trials at once; how many there may be is the searcher's business
    "TUNE_MAX_PENDING_TRIALS_PG": "1024",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def apply(attach: bool = False) -> None:
    """Set the defaults in this process's environment, where the user has not. Call it before
    anything imports Ray.

    `attach`: the cluster exists; it is shown this machine's token. One that is started here makes do without.
    A Ray that is imported already has made up its mind (and finds the token by itself): then the mode is not
    touched, because the processes that Ray starts would read it differently.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    token = Path.home() / ".ray" / "auth_token"
    keep_secret(token)
    if attach and "ray" not in sys.modules and token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def keep_secret(path: Path) -> None:
    """Take a file of ours from the eyes of others, where it is there. Ray writes its token, with which
    anybody can run code on the cluster, as the umask has it."""
    with suppress(OSError):  # of another user, or on a file system without modes
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
