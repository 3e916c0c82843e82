"""The line that is said for a process that was killed, by real ones."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DRIVER = """
import os, signal, sys, time
from search.cli.session import SessionObserver
with SessionObserver(lambda event: None, lambda run: f"qdlm run --resume {run}") as watch:
    watch({"event": "run_started", "run": "runs/toy"})
    watch({"event": "rung"})
    print("begun", flush=True)
    exec(sys.argv[1])
"""


def drive(end):
    return subprocess.Popen([sys.executable, "-c", DRIVER, end], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)",
                                 "os.kill(os.getpid(), signal.SIGTERM)", "os._exit(1)"])
def test_a_process_that_cannot_speak_is_spoken_for(end):
    driver = drive(end)
    _, said = driver.communicate(timeout=30)
    assert driver.returncode != 0 and said.splitlines() == [
        "qdlm: the search was ended from outside (killed, out of memory, or its Ray node died); "
        "every finished trial is kept. Go on with: qdlm run --resume runs/toy"]


@pytest.mark.parametrize("end, code",
                         [("pass", 0), ("sys.exit(2)", 2), ("raise KeyboardInterrupt", -signal.SIGINT)])
def test_one_that_ends_by_itself_is_not(end, code):
    driver = drive(end)
    _, said = driver.communicate(timeout=30)
    assert driver.returncode == code and "ended from outside" not in said


def test_signals_to_the_whole_group_do_not_silence_it():
    driver = drive("time.sleep(60)")
    assert driver.stdout.readline() == "begun\n"
    time.sleep(0.3)  # its small process is up
    os.killpg(driver.pid, signal.SIGKILL)
    _, said = driver.communicate(timeout=30)
    assert said.count("Go on with: qdlm run --resume runs/toy") == 1
