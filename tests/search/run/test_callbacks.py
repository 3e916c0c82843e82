"""Callbacks: all are told, in order; what one raises is recorded and stops nobody else."""

from __future__ import annotations

import pytest

from search.run.callbacks import SAID, Callbacks
from spaces.errors import UserError


def test_an_error_is_recorded_and_the_next_is_told():
    heard, said = [], []

    def broken(event):
        raise ValueError("no such\nkey")

    told = Callbacks([broken, heard.append], said.append)
    told({"event": "rung"})
    assert heard == [{"event": "rung"}]
    assert said == ["callback test_an_error_is_recorded_and_the_next_is_told.<locals>.broken raised "
                    "ValueError: no such at rung"]


def test_a_callback_that_always_raises_says_so_a_few_times():
    said = []

    class Broken:
        calls = 0

        def __call__(self, event):
            self.calls += 1
            raise UserError(f"call {self.calls}")

    broken = Broken()

    def record(text):  # as a run does: what is recorded is told to all again
        said.append(text)
        told({"event": "warning"})

    told = Callbacks([broken], record)
    for _ in range(10):
        told({"event": "rung"})
    assert len(said) == SAID and said[-1].endswith("further errors of it are not recorded")
    assert broken.calls == 10 + SAID, "it goes on being called"


def test_an_interrupt_passes():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Callbacks([stop], lambda text: None)({"event": "front"})
