"""The product's own jobs, whose worker is killed while it measures: in trial 0 at the first rung, in trial 1
at the last."""

import os
import signal
from pathlib import Path

from trainable.stages import trial as stage
from trainable.workers.jobs import JOBS as REAL


def trial(payload, context):
    """Each of the two is killed once: then a file in the cache folder says so."""
    measure, number = stage.measure, payload["number"]

    def deadly(measurement, final):
        run = Path(payload["folder"]).parts[-3]
        marker = Path(payload["prepared"]["base"]).parent / f"killed-{run}-{number}"
        if final == bool(number) and number < 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(measurement, final)

    stage.measure = deadly
    try:
        yield from REAL["trial"](payload, context)
    finally:
        stage.measure = measure


JOBS = {**REAL, "trial": trial}
