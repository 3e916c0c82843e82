"""What a base takes: taken once, kept, and not believed when it is damaged."""

import json
from dataclasses import replace

import pytest
import torch

from spaces.config import TrialConfig
from trainable.metrics.reference import Reference
from trainable.stages import reference as stage
from trainable.storage.window import Window

FOUND = Reference(latency_ms=20.0, yardstick_ms=4.0, steps=50, yardstick=10, batch=8, size_bytes=1000.0,
                  form="traced")
CPU = torch.device("cpu")


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """A base of two small files, and how often it was timed."""
    (tmp_path / "base").mkdir()
    for name in (stage.CONFIG, stage.WEIGHTS):
        (tmp_path / "base" / name).write_text(name)
    times = []
    monkeypatch.setattr(stage, "load", lambda base, device: base)
    monkeypatch.setattr(stage.Reference, "measured",
                        lambda base, batch, device: times.append(batch) or replace(FOUND, batch=batch))
    return times


def ask(tmp_path, **evaluation):
    config = TrialConfig.model_validate({"evaluation": evaluation})
    return stage.reference(config, tmp_path, tmp_path / "base", CPU, Window(None))


def test_a_base_is_timed_once(tmp_path, taken):
    assert ask(tmp_path) == ask(tmp_path) == FOUND
    assert taken == [8]
    assert ask(tmp_path, latency_batch=2).batch == 2 and taken == [8, 2], "another batch, another time"
    (tmp_path / "base" / stage.WEIGHTS).write_text("others")
    ask(tmp_path)
    assert taken == [8, 2, 8], "another base"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"latency_ms": 1}', "[" * 10_000,
                                  FOUND.text().replace("20.0", "NaN"), FOUND.text().replace("4.0", "-4.0"),
                                  FOUND.text().replace("20.0", '"20"'), FOUND.text().replace("traced", "")])
def test_a_damaged_file_is_taken_anew(text, tmp_path, taken):
    ask(tmp_path)
    kept, = tmp_path.glob("latency-*.json")
    kept.write_text(text)
    assert ask(tmp_path) == FOUND and len(taken) == 2
    assert json.loads(kept.read_text())["latency_ms"] == 20.0
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_it_is_read_as_it_was_written():
    assert Reference.read(FOUND.text()) == FOUND


def test_only_who_measures_latency_waits_for_it():
    asked = {None: True, ("latency_ms",): True, ("latency_ms_ratio",): True, ("perplexity",): False}
    assert {metrics: stage.times_wanted(TrialConfig.model_validate({"evaluation": {"metrics": metrics}}))
            for metrics in asked} == asked
