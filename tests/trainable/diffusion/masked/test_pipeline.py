"""A masked model through the whole product: corpus, base, quantized trial, export, text from the artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.cli.main import main
from search.run import validation
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.stages.prepare import Prepared
from trainable.stages.trial import run_trial
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 300, "max_words": 12},
               "max_length": 14, "min_count": 0},
    "model": {"name": "masked_lm", "hidden": 16, "layers": 1, "heads": 2, "ffn": 24, "positions": 16,
              "self_conditioning": True, "tied": False},
    "diffusion": {"name": "masked"}, "teacher": {"hidden": 8, "layers": 1, "heads": 1, "optim": {"steps": 4}},
    "base": {"optim": {"steps": 30, "batch_size": 16, "lr": 0.01}},
    "quantization": {"quantizer": "uniform:4", "sites": ["embedding", "projection", "attention", "ffn"]},
    "lora": {"rank": 2},
    "adapt": {"optim": {"batch_size": 8}}, "sampling": {"sampler": "entropy_bound", "steps": 5},
    "evaluation": {"samples": 4, "heldout": 4, "times": 2, "control_tasks": ["length"], "control_samples": 4,
                   "guidance": {"by": "reweight", "candidates": 2}, "latency_batch": 2, "latency_repeats": 2},
}


def test_from_corpus_to_generated_text(tmp_path, capsys):
    config, context = TrialConfig.model_validate(SETTINGS), WorkerContext()
    payload = {"config": config.model_dump(mode="json"), "cache": str(tmp_path)}
    for name in ("corpus", "teacher", "base"):
        payload[name] = list(JOBS[name](payload, context))[-1]["path"]
    prepared = Prepared(payload["corpus"], payload["teacher"], payload["base"])
    _, first, final = run_trial(config, prepared, [4, 8], tmp_path / "trial", context.device, context.cache)
    assert (final["perplexity"] > 1 and final["nll_bound"] > 0
            and final["nll_bound_tokens"] == final["nll_bound"])
    assert final["generation_flops"] > 0 and final["latency_ms"] > 0
    for row in (first, final):
        assert 1 <= row["nfe"] <= row["nfe_p95"] <= 5 and row["generation_flops"] > 0
        assert 2 <= row["controllability_nfe"] == row["controllability_length_count_nfe"] <= 10
    artifact = Path(final["artifact"])
    assert "| nfe | " in (artifact / "MODEL_CARD.md").read_text()
    assert 0 < final["file_bytes"] < (Path(prepared.base) / "model.safetensors").stat().st_size
    assert main(["generate", str(artifact), "-n", "3", "--json"]) == 0
    assert len([json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]) == 3


SPACE = """
objectives: {perplexity: minimize}
budget: {trials: 2}
trial: {model: MODEL, diffusion: DIFFUSION, sampling: {sampler: SAMPLER}, evaluation: {control_tasks: []}}
search: {lora.rank: {choice: [0, 2]}}
"""


@pytest.mark.parametrize(("model", "diffusion", "sampler", "message"), [
    ("{name: masked_lm}", "{name: gaussian}", "ancestral",
     "diffusion.name=gaussian corrupts text in a way that model masked"),
    ("{}", "{name: masked}", "quota", "model diffusion_lm does not read; legal: gaussian"),
    ("{name: masked_lm}", "{name: masked}", "ddim",
     "unknown sampler 'ddim'.*; legal: ancestral, quota, threshold"),
    ("{name: masked_lm, positions: 16}", "{name: masked}", "quota", "should be at most model.positions=16"),
    ("{name: masked_lm}", "{name: masked}", "{name: quota, order: sure}",
     "sampler 'quota', parameter 'order'"),
    ("{name: masked_lm, hidden: 20}", "{name: masked}", "quota", "hidden=20 is not a multiple of heads=12"),
])
def test_what_does_not_go_together_is_one_line(model, diffusion, sampler, message):
    text = SPACE.replace("MODEL", model).replace("DIFFUSION", diffusion).replace("SAMPLER", sampler)
    with pytest.raises(UserError, match=message):
        validation.check(Space.from_yaml(text, "a.yaml"))


def test_a_space_may_search_samplers_and_their_settings():
    space = Space.from_yaml("""
objectives: {perplexity: minimize}
budget: {trials: 2}
trial: {model: {name: masked_lm}, diffusion: {name: masked}, evaluation: {control_tasks: []}}
search:
  sampling.sampler.name: {choice: [quota, entropy_bound]}
  sampling.sampler.order: {choice: [random, entropy], when: {sampling.sampler.name: [quota]}}
  sampling.sampler.bound: {choice: [0.1, 1.0], when: {sampling.sampler.name: [entropy_bound]}}
""", "a.yaml")
    validation.check(space)
    found = [config.sampling.sampler for config in map(space.config, space.enumerate())]
    assert [(ref.name, ref.params) for ref in found] == [
        ("quota", {"order": "random"}), ("quota", {"order": "entropy"}), ("entropy_bound", {"bound": 0.1}),
        ("entropy_bound", {"bound": 1.0})]
