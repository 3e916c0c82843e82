"""Which metrics are measured: those that are asked for, those that cost little, all where nobody asks."""

from __future__ import annotations

import pytest

from trainable.registry import METRICS
from trainable.stages.evaluation import wanted

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
