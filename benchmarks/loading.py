"""Memory that it takes to make a base of a checkpoint, and to load the base:
`python -m benchmarks.loading [MB]`.

A random Llama-shaped checkpoint of so many megabytes is written in shards, in bfloat16 and in float32.
Each is then adopted as a base (read, given to the model, exported), and the exported base loaded, both in
a process of its own that also runs the model once, so that every page is read. Peak and resident memory are
above what the process held before, as shares of the bytes of the weights; Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.common import save
from spaces.config import TrialConfig
from trainable.artifacts.artifact import export, load
from trainable.benchmarking.memory_probe import resident
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import FILE, Tokens
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.training.transfer import adopted

HIDDEN, HEADS, FFN, LAYERS = 768, 12, 2048, 12
MARKS = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")
RESET = Path("/proc/self/clear_refs")


def write(folder: Path, megabytes: int, dtype: torch.dtype) -> None:
    """A checkpoint of about so many megabytes, tokenizer included; a fifth of it is the token table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    bytes_each = torch.finfo(dtype).bits // 8
    values = megabytes * 10**6 // bytes_each
    vocabulary = int(0.2 * values / HIDDEN)
    layers = max(1, round(0.8 * values / (4 * HIDDEN**2 + 3 * HIDDEN * FFN)))
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=HIDDEN, num_hidden_layers=layers,
                         num_attention_heads=HEADS, num_key_value_heads=HEADS, intermediate_size=FFN,
                         max_position_embeddings=64, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size="64MB")
    words = {**{mark: i for i, mark in enumerate(MARKS)},
             **{f"w{i}": i for i in range(len(MARKS), vocabulary)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(MARKS))
    made.save(str(folder / FILE))


def settings(folder: Path) -> TrialConfig:
    """A trial whose base is the checkpoint."""
    said = json.loads((folder / "config.json").read_text())
    return TrialConfig.model_validate({
        "corpus": {"tokenizer": str(folder), "max_length": 32},
        "model": {"name": "masked_lm", "body": "llama", "hidden": HIDDEN, "layers": said["num_hidden_layers"],
                  "heads": HEADS, "ffn": FFN, "positions": 64, "shift": True},
        "diffusion": {"name": "masked"}, "base": {"path": str(folder)}})


def warm_up() -> None:
    """Import and run what the real model will use, so that it is not counted."""
    params = MaskedLMConfig(body="llama", hidden=24, layers=1, heads=HEADS, ffn=8, positions=8)
    for dtype in (torch.float32, torch.bfloat16):
        model = MaskedLM(params, 8).to(dtype)
        with torch.inference_mode():
            model(torch.full((1, 8), 8))


def measured(folder: Path, artifact: Path, what: str) -> dict[str, float]:
    """In this process: adopt the checkpoint or load the artifact, run it, and say what it took."""
    config = settings(folder)
    tokens = Tokens.open(folder)
    lexicon = Lexicon(["START", "END", "UNK", "PAD", *tokens.spellings()], 32, {}, "words",
                      tokenizer=tokens.to_json())
    assert lexicon.tokens is not None
    row = torch.full((1, 8), len(lexicon.vocab))
    warm_up()
    before = resident()
    RESET.write_text("5")  # the peak starts anew
    with torch.inference_mode():
        if what == "adopt":
            model, _ = adopted(config, lexicon, lexicon)
            model(row)
            export(model, config, lexicon, artifact, {})
        else:
            model = load(artifact).model
            model(row)
    after = resident()
    files = [artifact / "model.safetensors"] if what == "load" else list(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    dtype = next(iter(model.state_dict().values())).dtype
    return {"bytes": size, "peak": round((after["VmHWM"] - before["VmRSS"]) / size, 3),
            "resident": round((after["VmRSS"] - before["VmRSS"]) / size, 3),
            "dtype": str(dtype).removeprefix("torch.")}


def main() -> None:
    """Write results/loading.json."""
    if len(sys.argv) > 2:
        print(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
        return
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    figures: dict[str, dict] = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        with tempfile.TemporaryDirectory() as root:
            folder, artifact = Path(root) / "checkpoint", Path(root) / "base"
            write(folder, megabytes, dtype)
            for what in ("adopt", "load"):
                command = [sys.executable, "-m", "benchmarks.loading", str(folder), str(artifact), what]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                figures[f"{what}_{name}"] = found = json.loads(done.stdout.splitlines()[-1])
                print(what, name, found)
    save("loading", {"figures": figures})


if __name__ == "__main__":
    main()
