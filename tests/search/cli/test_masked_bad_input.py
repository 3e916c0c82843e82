"""What is wrong with a masked model's checkpoint, tokenizer or sampler: one line with file and key, exit 2,
before a run begins."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
import tokenizers_made
from exported_models import exported

from search.cli.main import main

SPACE = """
objectives: {perplexity: minimize}
budget: {trials: 2}
trial:
  corpus: {max_length: 16, CORPUS}
  model: {name: masked_lm, positions: 16, MODEL}
  diffusion: {name: masked}
  base: {BASE}
  sampling: {sampler: SAMPLER}
  evaluation: {control_tasks: []}
search: {lora.rank: {choice: [0, 2]}}
"""
SHAPE = "body: bert, hidden: 16, layers: 3, heads: 4, ffn: 24, tied: true, transform: true, norm_eps: 1.0e-12"
FITS = {"CORPUS": "tokenizer: bert", "MODEL": SHAPE, "BASE": "path: bert", "SAMPLER": "quota"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A good checkpoint, and one of each kind that is not."""
    root = tmp_path_factory.mktemp("folders")
    checkpoints.write("bert", root / "bert")
    checkpoints.write("bert", root / "shards", shards=True)
    sorted((root / "shards").glob("model-*.safetensors"))[1].unlink()
    for name, change in (("unknown", {"architectures": ["GPT2LMHeadModel"]}),
                         ("remote", {"architectures": ["OwnLM"], "auto_map": {"AutoModel": "own.OwnLM"}})):
        (root / name).mkdir()
        for path in (root / "bert").iterdir():
            (root / name / path.name).symlink_to(path)
        said = json.loads((root / "bert" / "config.json").read_text()) | change
        (root / name / "config.json").unlink()
        (root / name / "config.json").write_text(json.dumps(said))
    tokenizers_made.write(root / "bare", "bytes", mask=False)
    tokenizers_made.write(root / "other", "bytes")
    (root / "own_code").mkdir()
    own = {"auto_map": {"AutoTokenizer": ["own.T", None]}}
    (root / "own_code" / "tokenizer_config.json").write_text(json.dumps(own))
    return root


BAD = {
    "unknown class": ({"BASE": "path: unknown"}, "trial.base.path: unknown: config.json: architectures: "
                      "GPT2LMHeadModel is no known class; legal: BertForMaskedLM"),
    "missing shards": ({"BASE": "start: shards"}, "trial.base.start: shards: 1 of "),
    "no MASK": ({"CORPUS": "tokenizer: bare"}, "trial.corpus.tokenizer: bare/tokenizer.json: a tokenizer "
                                               "without MASK"),
    "vocabulary": ({"CORPUS": "tokenizer: other"}, "trial.base.path: bert: a vocabulary that does not fit: "
                                                   "corpus.tokenizer writes "),
    "remote code": ({"BASE": "path: remote"}, "its auto_map asks for code of its own, which is never run"),
    "remote tokenizer": ({"CORPUS": "tokenizer: own_code"},
                         "trial.corpus.tokenizer: own_code/tokenizer_config.json: auto_map asks for code"),
    "block": ({"SAMPLER": "{name: quota, block: 5}"}, "trial.sampling.sampler: corpus.max_length=16 is no "
              "multiple of sampling.sampler.block=5; legal: a block that divides it"),
    "sampler": ({"SAMPLER": "ddim"}, "unknown sampler 'ddim'"),
    "positions": ({"MODEL": SHAPE.replace("body", "positions: 12, body")},
                  "corpus.max_length=16 should be at most model.positions=12"),
}


@pytest.mark.parametrize(("changes", "named"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_2(folders, monkeypatch, capsys, changes, named):
    monkeypatch.chdir(folders)
    text = SPACE.replace("positions: 16, ", "") if "positions" in changes.get("MODEL", "") else SPACE
    for part, value in (FITS | changes).items():
        text = text.replace(part, value)
    (folders / "space.yaml").write_text(text)
    assert main(["run", "space.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    assert err.startswith("qdlm: error: space.yaml:") and named in err
    assert not (folders / "runs").exists()


def test_a_block_that_is_searched_is_blamed_where_it_is_searched(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    text = SPACE.replace("lora.rank: {choice: [0, 2]}", "sampling.sampler.block: {choice: [4, 6]}")
    for part, value in FITS.items():
        text = text.replace(part, value)
    (folders / "space.yaml").write_text(text)
    assert main(["run", "space.yaml"]) == 2
    assert ("search.sampling.sampler.block: the space reaches sampling.sampler.block=6: corpus.max_length=16 "
            in capsys.readouterr().err)


def test_a_prompt_that_is_longer_than_the_model(tmp_path, capsys):
    artifact = exported(tmp_path, "bert", {})
    assert main(["generate", str(artifact), "--control", "length=99", "--by", "reweight"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "length=99" in err and "from 1 to 10" in err
