"""A trial whose table learns a codebook and whose body is rounded at export: what is measured is
what is shipped."""

import pytest

from spaces.config import TrialConfig
from trainable.artifacts.artifact import load
from trainable.artifacts.model_card import CARD
from trainable.benchmarking.bench import open_pair
from trainable.quantization.int8_body import products
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 300, "valid_sentences": 60, "max_words": 24},
               "max_length": 26, "min_count": 1},
    "model": {"embedding_dim": 8, "hidden": 32, "layers": 1, "heads": 2, "ffn": 64, "time_dim": 8,
              "dropout": 0.0},
    "diffusion": {"timesteps": 100, "loss": "ce"},
    "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 10, "lr": 3e-3}},
    "base": {"optim": {"steps": 10, "lr": 5e-3}},
    "adapt": {"optim": {"batch_size": 8, "lr": 1e-3}},
    "lora": {"rank": 2},
    "sampling": {"steps": 4},
    "evaluation": {"samples": 8, "heldout": 8, "times": 2, "control_tasks": [{"name": "length"}],
                   "control_samples": 4, "latency_batch": 2, "latency_repeats": 2},
    "quantization": {"quantizer": {"name": "pq", "entries": 8}, "body": {"name": "int8_dynamic"}},
}


def job(name, **payload):
    return list(JOBS[name](payload, WorkerContext()))[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, cache = tmp_path_factory.mktemp("trial"), str(tmp_path_factory.mktemp("cache"))
    settings = TrialConfig.model_validate(SETTINGS).model_dump(mode="json")
    corpus = job("corpus", config=settings, cache=cache)["path"]
    prepared = {"corpus": corpus, **{kind: job(kind, config=settings, cache=cache, corpus=corpus)["path"]
                                     for kind in ("teacher", "base")}}
    payload = {"config": settings, "prepared": prepared, "rungs": [3, 6], "folder": str(folder)}
    return prepared, list(JOBS["trial"](payload, WorkerContext()))


def test_the_exported_codes_are_what_was_measured(finished):
    prepared, events = finished
    loaded = load(events[-1]["artifact"])
    assert sum(products(loaded.model).values()) == 6
    again = job("remeasure", artifact=events[-1]["artifact"], prepared=prepared, seed=0)
    for name in ("nll_bound", "perplexity", "size_bytes", "bits_per_weight", "controllability"):
        assert again[name] == pytest.approx(events[-1][name], rel=1e-4), name


def test_bits_stand_in_every_row_and_on_the_card(finished):
    _, events = finished
    for event in events[1:]:
        assert 0.9 < event["bits_per_weight_embedding"] < 8 and 8 < event["bits_per_weight_ffn"] < 9
        assert event["bits_per_weight_projection"] == 32
    card = (load(events[-1]["artifact"]).path / CARD).read_text()
    assert ("int8_dynamic, after training" in card and "pq8_w4" in card
            and "| adapter | rank 2 on query, value |" in card)


def test_an_artifact_knows_its_base(finished):
    prepared, events = finished
    own, base = open_pair(events[-1]["artifact"], "base", "cpu")
    assert str(base.path) == prepared["base"] and own.config.quantization.body.name == "int8_dynamic"


def test_a_rounded_artifact_may_be_a_base(finished, tmp_path):
    """A rounded artifact may serve as a base: it is decoded to floats, and its adapter's effect stays."""
    prepared, events = finished
    payload = {"config": {**TrialConfig.model_validate(SETTINGS).model_dump(mode="json"), "quantization": {}},
               "prepared": {**prepared, "base": events[-1]["artifact"]}, "rungs": [2],
               "folder": str(tmp_path)}
    row = list(JOBS["trial"](payload, WorkerContext()))[-1]
    assert row["bits_per_weight"] == 32
