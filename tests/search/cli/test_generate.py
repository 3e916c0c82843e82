"""`qdlm generate` on a tiny exported model: same seed same text, controls, JSON, and no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli.main import main
from spaces.config import TrialConfig
from trainable.artifacts.artifact import export
from trainable.control.lexicon import Lexicon
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import BACKBONES, PROCESSES

ROOT = Path(__file__).resolve().parents[3]
WORDS = ["START", "END", "UNK", "PAD", "a", "the", "cafe", "serves", "cheap", "Italian", "food", "."]
TINY = {"corpus": {"max_length": 12}, "sampling": {"steps": 4}, "diffusion": {"timesteps": 20, "loss": "ce"},
        "evaluation": {"guidance": {"strength": 0.5, "inner_steps": 10}},
        "model": {"embedding_dim": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "time_dim": 4,
                  "positions": 12}}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    """An untrained model, exported."""
    config = TrialConfig.model_validate(TINY)
    lexicon = Lexicon(WORDS, 12, {"food": {"Italian": [["Italian"]], "French": [["French"]]}}, "words",
                      {"the": {"DET": 1.0}, "cafe": {"NOUN": 1.0}, "serves": {"VERB": 1.0},
                       "Italian": {"ADJ": 1.0}})
    return export(DiffusionLM(BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS),
                  config, lexicon, tmp_path_factory.mktemp("run") / "trial-0003", {})


def generated(capsys, *arguments: str) -> tuple[list[str], str]:
    """Lines on standard output, and all of standard error."""
    assert main(["generate", *arguments]) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_same_seed_same_text(artifact, capsys):
    first, err = generated(capsys, str(artifact), "-n", "5")
    assert len(first) == 5 and err == ""
    assert first == generated(capsys, str(artifact), "-n", "5")[0]
    assert first != generated(capsys, str(artifact), "-n", "5", "--seed", "1")[0]
    assert {word for line in first for word in line.split()} <= set(WORDS) - {"START", "END", "PAD"}


def test_eight_sentences_unless_told_otherwise(artifact, capsys):
    assert len(generated(capsys, str(artifact))[0]) == 8


def test_more_than_a_batch(artifact, capsys):
    assert len(generated(capsys, str(artifact), "-n", "70", "--steps", "2")[0]) == 70


def test_two_controls_at_once(artifact, capsys):
    rows = [json.loads(line) for line in generated(capsys, str(artifact), "--control", "length=6",
                                                   "--control", "food=Italian", "-n", "3", "--json")[0]]
    assert all(row["control"] == "length=6, food=Italian" and row["oracle"] == "count&words" for row in rows)
    assert all(row["success"] == row["length"] * row["semantic"] for row in rows)


def test_a_row_of_tags_can_be_asked_for(artifact, capsys):
    rows = [json.loads(line) for line in generated(capsys, str(artifact), "--control",
                                                   "pos=DET NOUN VERB ADJ", "-n", "8", "--json")[0]]
    assert {row["oracle"] for row in rows} == {"textblob"}
    assert (sum(row["text"] == "the cafe serves Italian" for row in rows) >= 1
            or sum(row["success"] for row in rows) > 2)
    assert main(["generate", str(artifact), "--control", "pos=DET NN"]) == 2
    assert "'NN' is no tag; legal: ADJ" in capsys.readouterr().err


def test_a_control_is_scored_by_a_named_oracle(artifact, capsys):
    rows = [json.loads(line)
            for line in generated(capsys, str(artifact), "--control", "length=6", "-n", "3", "--json")[0]]
    assert len(rows) == 3
    for row in rows:
        assert (row["control"], row["oracle"]) == ("length=6", "count")
        assert row["off"] == abs(len(row["text"].split()) - 6) and row["success"] == float(row["off"] <= 2)
    lines, err = generated(capsys, str(artifact), "--control", "length=6", "-n", "3")
    assert lines == [row["text"] for row in rows]
    assert err == f"length=6: met by {sum(row['success'] for row in rows):.0f} of 3 (oracle: count)\n"


def test_guidance_steers_even_an_untrained_model(artifact, capsys):
    def mean_words(control: str) -> float:
        lines, _ = generated(capsys, str(artifact), "-n", "32", "--control", control)
        return sum(len(line.split()) for line in lines) / len(lines)
    assert mean_words("length=3") + 2 < mean_words("length=10")


@pytest.mark.parametrize("control, named", [
    ("length=99", "from 1 to 10"), ("length=long", "whole number"), ("food=Klingon", "Italian"),
    ("food=French", "Italian"), ("weather=fine", "food"), ("length", "KEY=VALUE"),
])
def test_a_bad_control_is_one_line(artifact, capsys, control, named):
    assert main(["generate", str(artifact), "--control", control]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("qdlm: error: ") and len(err.splitlines()) == 1 and named in err


def test_a_damaged_artifact_is_one_line(artifact, tmp_path, capsys):
    for path in artifact.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1] if path.suffix == ".safetensors"
                                           else path.read_bytes())
    assert main(["generate", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("qdlm: error: ") and "model.safetensors" in err and len(err.splitlines()) == 1


def test_neither_the_search_nor_what_takes_long_to_load_is_imported(artifact):
    slow = ("ray", "optuna", "search.run.sweep", "transformers", "peft", "accelerate", "pandas", "scipy",
            "sympy", "torch._dynamo", "datasets", "spacy", "nltk", "sklearn")
    code = ("import sys\nfrom search.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
            f"print([name for name in {slow} if name in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, "generate",
                           str(artifact), "-n", "2", "--control", "length=5"], cwd=ROOT, capture_output=True,
                          text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]" and len(done.stdout.splitlines()) == 2
