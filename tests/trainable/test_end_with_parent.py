"""A helper process is gone when the process that started it is."""

import signal
import subprocess
import sys
import time

import pytest

CHILD = ("import os, sys, time; from trainable.parent import end_with_parent; "
         "end_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)")
PARENT = ("import os, subprocess, sys; "
          "subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid() + int(sys.argv[2]))])")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
def test_it_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, "0"], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(child)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
def test_it_does_not_begin_when_its_parent_is_gone():
    assert subprocess.run([sys.executable, "-c", PARENT, CHILD, "1"], capture_output=True).stdout == b""


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


