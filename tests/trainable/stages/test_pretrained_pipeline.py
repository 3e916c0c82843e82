"""Checkpoints and tokenizers through the whole product: corpus in tokens, base, trial, export,
controlled text."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
import torch

from search.cli.main import main
from search.run import validation
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.stages.prepare import Prepared
from trainable.stages.trial import run_trial
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

LENGTH = 44


def settings(name: str, folder: Path, key: str, **groups) -> dict:
    return {
        "corpus": {"source": {"name": "restaurant", "sentences": 120, "max_words": 12}, "max_length": LENGTH,
                   "min_count": 0, "tokenizer": str(folder), "refuse_left_out": 1},
        "model": checkpoints.shape(name, positions=LENGTH), "diffusion": {"name": "masked"},
        "teacher": {"name": "kneser_ney", "order": 3},
        "base": {key: str(folder), "optim": {"steps": 4, "batch_size": 8}},
        "sampling": {"sampler": "quota", "steps": 4},
        "evaluation": {"samples": 4, "heldout": 4, "times": 2, "control_tasks": ["length"],
                       "control_samples": 4,
                       "guidance": {"by": "reweight"}, "latency_batch": 2, "latency_repeats": 2},
        **groups}


TRAINED = {"quantization": {"quantizer": "uniform:4", "sites": ["embedding", "ffn"]}, "lora": {"rank": 2},
           "adapt": {"optim": {"batch_size": 8}}}
ROUNDED = {"adapt": {"train": False}, "calibration": {"method": {"name": "gptq", "bits": 4}, "texts": 8}}


@pytest.mark.parametrize(("name", "key", "dtype", "groups"), [
    ("llama", "start", torch.float32, TRAINED), ("llada", "path", torch.bfloat16, ROUNDED),
    ("dream", "path", torch.bfloat16, TRAINED)])
def test_from_a_checkpoint_to_controlled_text(tmp_path, capsys, name, key, dtype, groups):
    checkpoints.write(name, tmp_path / "checkpoint", dtype)
    config = TrialConfig.model_validate(settings(name, tmp_path / "checkpoint", key, **groups))
    context, payload = WorkerContext(), {"config": config.model_dump(mode="json"), "cache": str(tmp_path)}
    for kind in ("corpus", "teacher", "base"):
        payload[kind] = list(JOBS[kind](payload, context))[-1]["path"]
    prepared = Prepared(payload["corpus"], payload["teacher"], payload["base"])
    final = list(run_trial(config, prepared, [2, 4], tmp_path / "trial", context.device, context.cache))[-1]
    assert final["perplexity"] > 1 and final["nll_bound"] > 0 and 0 <= final["diversity"] <= 1
    assert final["controllability"] == 1, final
    assert final["perplexity_teacher"] == "kneser-ney-3-words"
    artifact = Path(final["artifact"])
    assert 0 < final["file_bytes"] < (Path(prepared.base) / "model.safetensors").stat().st_size
    assert main(["generate", str(artifact), "-n", "2", "--json", "--control", "length=6"]) == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert [len(text.split()) for text in texts] == [6, 6]


SPACE = """
objectives: {perplexity: minimize}
budget: {trials: 2}
trial:
  corpus: CORPUS
  model: MODEL
  diffusion: {name: masked}
  base: BASE
  evaluation: {control_tasks: []}
search: {lora.rank: {choice: [0, 2]}}
"""


@pytest.mark.parametrize(("corpus", "model", "base", "message"), [
    ("{tokenizer: FOLDER/none}", "{name: masked_lm}", "{}",
     r"^a.yaml:5: trial.corpus.tokenizer: /.*none: no such folder"),
    ("{tokenizer: FOLDER/bare}", "{name: masked_lm}", "{}",
     r"^a.yaml:5: .*a tokenizer without MASK; name one"),
    ("{mask: '[MASK]'}", "{name: masked_lm}", "{}", "corpus.mask and corpus.tokens are of a tokenizer"),
    ("{}", "{name: masked_lm}", "{path: FOLDER/none}", "base.path: .*none: no such folder"),
    ("{}", "{name: masked_lm}",
     "{start: FOLDER/bert}", r"^a.yaml:8: trial.base.start: /.* has hidden=16, the space asks for "
     r"model.hidden=768; its own shape: model: \{name: masked_lm"),
    ("{}", "{}", "{start: FOLDER/bert}", "is the start of model masked_lm"),
])
def test_what_is_wrong_is_one_line_before_a_run_begins(tmp_path, corpus, model, base, message):
    checkpoints.write("bert", tmp_path / "bert")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.json").write_text(
        '{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    text = SPACE.replace("CORPUS", corpus).replace("MODEL", model).replace("BASE", base)
    if model == "{}":
        text = text.replace("diffusion: {name: masked}", "diffusion: {name: gaussian}")
    with pytest.raises(UserError, match=message) as caught:
        space = Space.from_yaml(text.replace("FOLDER", str(tmp_path)), "a.yaml")
        validation.check(space)
        validation.check_sources(space)
    assert "\n" not in str(caught.value)
