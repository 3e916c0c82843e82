"""The corpus of a first run is made while its cluster starts, in a process of its own: until there are
workers, which takes longer, most of a machine idles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spaces.schema import Space
from spaces.shared import deciding
from trainable.messages import PreparePayload
from trainable.storage.folders import partial_name

LOOK = 0.1
"""Seconds between looks at whether it has ended."""


class Ahead:
    """What is made meanwhile, if anything is."""

    seconds: float | None = None
    """That it took; None until it is known to be made."""

    def __init__(self, process: subprocess.Popen[str] | None = None, cache: Path | None = None):
        self._process, self._cache = process, cache

    @property
    def busy(self) -> bool:
        """Whether something is being made now."""
        return self._process is not None and self._process.poll() is None

    def wait(self, watch: Callable[[], None]) -> None:
        """Return when nothing is being made any more. What `watch`, which is called now and then, raises
        ends the waiting."""
        while self._process is not None and self.busy:
            watch()
            try:
                self._process.wait(LOOK)
            except subprocess.TimeoutExpired:
                continue
        if self._process is not None and self._process.returncode == 0 and self.seconds is None:
            assert self._process.stdout is not None
            told = self._process.stdout.fileno()
            os.set_blocking(told, False)  # who else may hold it is not waited for
            with suppress(ValueError, BlockingIOError):  # it says nothing of what it left to the job
                self.seconds = float(os.read(told, 100))

    def end(self) -> None:
        """Whatever it has come to: half a corpus is not kept."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        for left in self._cache.glob(partial_name("*", self._process.pid)) if self._cache else ():
            shutil.rmtree(left, ignore_errors=True)


NOTHING = Ahead()


@contextmanager
def corpus_ahead(space: Space, cache: Path, worth: bool) -> Iterator[Ahead]:
    """Within the block the corpus that all trials share is made in `cache`, if that is `worth` it and no run
    has made any there."""
    if not worth or deciding(space.dimensions, "corpus") or any(cache.glob("corpus-*")):
        yield NOTHING
        return
    payload: PreparePayload = {"config": space.example.model_dump(mode="json"), "cache": str(cache)}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainable.workers.ahead", str(os.getpid())], stdin=subprocess.PIPE,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True)  # a Ctrl-C is this process's to answer
    except OSError:  # no room for it: the job makes the corpus
        yield NOTHING
        return
    ahead = Ahead(process, cache)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as told:  # it has died: the job makes the corpus
            json.dump(payload, told)
        yield ahead
    finally:
        ahead.end()
