"""Which metrics are measured: those that are asked for, those that cost little, all where nobody asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainable.artifacts.packed import WEIGHTS
from trainable.registry import METRICS
from trainable.stages import evaluation
from trainable.stages.evaluation import Measurement, wanted

ALONG = {"commit_flips", "stability_lag", "error_by_step"}  # of whole generations: they must be named
CHEAP = {"size_bytes", "bits_per_weight", "trainable_params", "train_seconds"}
WRITTEN = {"nfe", "generation_flops"}  # what texts cost: they must be written, or counted one by one


@pytest.mark.parametrize(("columns", "expected"), [
    (None, set(METRICS) - {"kl_to_base", "unk_share", *ALONG}),
    (("kl_to_base_flips",), CHEAP | {"kl_to_base"}),
    ((), CHEAP),
    (("latency_ms_p95",), CHEAP | {"latency_ms", "generation_flops"}),
    (("perplexity", "size_bytes"), CHEAP | {"perplexity", "diversity"} | WRITTEN),
    (("nfe_p95",), CHEAP | {"nfe"}),
    (("controllability_length_count",), CHEAP | {"controllability"}),
])
def test_what_is_wanted(columns, expected):
    assert ({name for name in METRICS if wanted(METRICS.build_default(name), columns)} - {"unk_share"}
            == expected)


def test_a_small_base_is_read_once_for_all_trials(tmp_path, monkeypatch):
    read, cache = [], {}

    def load(path, device):
        read.append(path)
        return SimpleNamespace(path=path)

    monkeypatch.setattr(evaluation, "load", load)

    def base_of(name):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / WEIGHTS).write_bytes(b"12345")
        measurement = Measurement.__new__(Measurement)
        measurement.base_artifact, measurement.device = tmp_path / name, torch.device("cpu")
        measurement.cache = cache
        return measurement._base.path.name

    assert [base_of(name) for name in ("a", "a", "b", "a")] == ["a", "a", "b", "a"] and len(read) == 3
    monkeypatch.setattr(evaluation, "KEPT", 4)
    assert base_of("c") == base_of("c") == "c" and len(read) == 5 and not cache
