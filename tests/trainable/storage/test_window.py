"""Times are taken while the others wait, and nobody waits for one that is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from trainable.storage.window import Window


class Computing(threading.Thread):
    """Computes in steps of a millisecond until told to end; `during`: steps that ended while `watched`."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.window, self.ended, self.watched = Window(folder), threading.Event(), threading.Event()
        self.steps = self.during = 0
        self.start()
        while not self.steps:
            time.sleep(0.001)

    def run(self):
        with self.window.computing():
            while not self.ended.is_set():
                time.sleep(0.001)
                self.steps += 1
                self.during += self.watched.is_set()
                self.window.pause()

    def end(self):
        self.ended.set()
        self.join(5)
        assert not self.is_alive()


def test_all_others_wait_while_one_takes_times(tmp_path):
    with ExitStack() as stack:
        others = [Computing(tmp_path) for _ in range(3)]
        for other in others:
            stack.callback(other.end)
        before = [other.steps for other in others]
        with Window(tmp_path, patience=5).alone() as alone:
            assert alone
            for other in others:
                other.watched.set()
            time.sleep(0.05)
            assert [other.during for other in others] == [0, 0, 0]
            held = [other.steps for other in others]
        deadline = time.monotonic() + 5
        while any(other.steps <= old for other, old in zip(others, held, strict=True)):
            assert time.monotonic() < deadline, "they go on afterwards"
            time.sleep(0.001)
        assert all(new >= old for new, old in zip(held, before, strict=True))


def test_two_take_times_one_after_the_other(tmp_path):
    inside, most = [], []

    def measuring():
        window = Window(tmp_path, patience=5)
        with window.computing(), window.alone() as alone:
            inside.append(alone)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=measuring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 4


def test_who_does_not_pause_is_not_waited_for_forever(tmp_path):
    with Window(tmp_path).computing():
        begun = time.monotonic()
        with Window(tmp_path, patience=0.05).alone() as alone:
            assert not alone
        assert time.monotonic() - begun < 2


def test_who_took_times_computes_again_afterwards(tmp_path):
    own, other = Window(tmp_path), Window(tmp_path, patience=0.03)
    with own.computing():
        with own.alone() as alone:
            assert alone
        with other.alone() as alone:
            assert not alone
    with other.alone() as alone:
        assert alone


def test_a_killed_process_holds_nobody_up(tmp_path):
    code = ("import sys; from pathlib import Path; from trainable.storage.window import Window\n"
            "with Window(Path(sys.argv[1])).alone(): print('in', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "in\n"
        with Window(tmp_path, patience=0.03).alone() as alone:
            assert not alone
        holder.send_signal(signal.SIGKILL)
        holder.wait(5)
    with Window(tmp_path, patience=1).alone() as alone:
        assert alone


def test_the_nodes_window_is_in_a_folder_of_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("trainable.storage.window.tempfile.gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"qdlm-{os.getuid()}"
    with Window.of_node().computing(), Window.of_node().computing():
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with Window.of_node().computing():
        other = Window.of_node()
        other.patience = 0.0
        with other.alone() as alone:
            assert alone, "a window of its own: others could write there"


@pytest.mark.parametrize("made", ["file", "link"])
def test_a_node_without_such_a_folder_takes_times_all_the_same(made, tmp_path, monkeypatch):
    monkeypatch.setattr("trainable.storage.window.tempfile.gettempdir", lambda: str(tmp_path))
    place = tmp_path / f"qdlm-{os.getuid()}"
    if made == "file":
        place.write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    with Window.of_node().alone() as alone:
        assert alone
    assert not (tmp_path / "elsewhere" / "gate").exists()
