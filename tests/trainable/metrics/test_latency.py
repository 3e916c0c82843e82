"""Latency under a virtual clock: what a text takes, beside the base and by the run's yardstick."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spaces.config import EvaluationConfig, PluginRef, TrialConfig
from trainable.metrics.base import Yardstick
from trainable.registry import METRICS


class VirtualClock:
    """A clock that only moves when a model runs; `slower` multiplies every further run, as a machine that
    throttles would; for `waits` seconds of each run the processor serves somebody else."""

    def __init__(self, monkeypatch, slower=1.0, waits=lambda: 0.0):
        self.now, self.waited, self.factor, self.slower, self.order = 0.0, 0.0, 1.0, slower, []
        self.pauses = []
        self.waits = waits
        monkeypatch.setattr("trainable.metrics.timing.time.perf_counter", lambda: self.now + self.waited)
        monkeypatch.setattr("trainable.metrics.timing.time.thread_time", lambda: self.now)

    def model(self, name, seconds):
        def generate(n, generator):
            self.order.append((name, n, generator.initial_seed()))
            self.now += seconds * self.factor
            self.waited += self.waits()
            self.factor *= self.slower
        return SimpleNamespace(generate=generate, model=SimpleNamespace(traceable=False))


def latency_of(clock, own, base=None, repeats=4, yardstick=None, alone=True):
    evaluation = EvaluationConfig(latency_batch=8, latency_repeats=repeats)
    m = SimpleNamespace(config=TrialConfig(evaluation=evaluation), artifact="own",
                        base_artifact=base and "base", device=torch.device("cpu"),
                        generator=lambda purpose: torch.Generator().manual_seed(len(purpose)),
                        yardstick=lambda: None, notes={})
    models = {"own": clock.model("own", own), "base": clock.model("base", base)}

    @contextmanager
    def window():
        clock.order.append(("window", 8, clock.order[0][2]))
        yield alone

    m.load, m.alone, m.pause = models.__getitem__, window, lambda: clock.pauses.append(len(clock.order))
    if yardstick:
        short = clock.model("yardstick", yardstick)
        m.yardstick = lambda: Yardstick(lambda: short.generate(4, torch.Generator()), 4, 10.0)
    return METRICS.build(PluginRef(name="latency_ms")).measure(m)


def test_latency_by_hand(monkeypatch):
    row = latency_of(VirtualClock(monkeypatch), own=0.2, base=0.4)
    expected = {"latency_ms": 25, "latency_ms_p95": 25, "latency_ms_se": 0, "latency_ms_base": 50,
                "latency_ms_ratio": 0.5, "latency_ms_ratio_se": 0, "latency_ms_wall": 25,
                "latency_ms_alone": 1}
    assert row == pytest.approx(expected, abs=1e-9)


def test_latency_by_the_yardstick_of_the_run(monkeypatch):
    """12.5 ms a text beside the trial, 10 when the run was prepared: all times count 0.8 of themselves."""
    row = latency_of(VirtualClock(monkeypatch), own=0.2, base=0.4, yardstick=0.05, alone=False)
    expected = {"latency_ms": 20, "latency_ms_p95": 20, "latency_ms_se": 0, "latency_ms_base": 40,
                "latency_ms_ratio": 0.5, "latency_ms_ratio_se": 0, "latency_ms_wall": 25,
                "latency_ms_alone": 0}
    assert row == pytest.approx(expected, abs=1e-9)


def test_latency_by_a_yardstick_holds_on_a_machine_that_slows_down(monkeypatch):
    row = latency_of(VirtualClock(monkeypatch, slower=1.1), own=0.3, base=0.4, repeats=8, yardstick=0.05)
    assert row["latency_ms"] == pytest.approx(10.0 * 0.3 / 8 / (0.05 / 4), rel=0.25)
    assert row["latency_ms_wall"] > 3 * 0.3 * 1000 / 8


def test_latency_passes_over_what_the_processor_does_for_others(monkeypatch):
    monkeypatch.setattr("trainable.metrics.timing.torch.get_num_threads", lambda: 1)
    others = np.random.default_rng(0)
    clock = VirtualClock(monkeypatch, waits=lambda: float(others.exponential(0.5)))
    row = latency_of(clock, own=0.2, base=0.4)
    assert row["latency_ms"] == pytest.approx(25) and row["latency_ms_ratio"] == pytest.approx(0.5)
    assert row["latency_ms_wall"] > 35, "the clock's own is told as well"
    monkeypatch.setattr("trainable.metrics.timing.torch.get_num_threads", lambda: 2)
    assert latency_of(clock, own=0.2, base=0.4)["latency_ms"] > 35, "of more threads only the clock tells"


def test_latency_takes_turns_after_a_warm_up_with_equal_noise(monkeypatch):
    """Others wait from the window on, not for the warm-up."""
    clock = VirtualClock(monkeypatch)
    latency_of(clock, 0.2, 0.4, repeats=3)
    assert ([name for name, _, _ in clock.order]
            == ["own", "base", "window", "own", "base", "base", "own", "own", "base"])
    assert clock.pauses == [0, 1], "a neighbor's times come first"
    assert {(n, seed) for _, n, seed in clock.order} == {(8, clock.order[0][2])}


def test_latency_ratio_cancels_a_machine_that_slows_down(monkeypatch):
    row = latency_of(VirtualClock(monkeypatch, slower=1.1), own=0.3, base=0.4, repeats=8)
    assert row["latency_ms_ratio"] == pytest.approx(0.75, rel=0.02)
    assert row["latency_ms"] > 1.5 * 0.3 * 1000 / 8, "nothing tells how fast the machine was when it began"


def test_latency_without_a_base(monkeypatch):
    row = latency_of(VirtualClock(monkeypatch), own=0.2)
    assert row == pytest.approx({"latency_ms": 25, "latency_ms_p95": 25, "latency_ms_se": 0,
                                 "latency_ms_wall": 25, "latency_ms_alone": 1}, abs=1e-9)
