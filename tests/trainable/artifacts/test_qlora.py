"""QLoRA's arrangement exported: NF4 with double quantization, and the adapter apart from it."""

import pytest
import torch
from exported_models import WORDS, exported
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from trainable.artifacts.artifact import load
from trainable.artifacts.huggingface import export_transformers

QLORA = {"quantizer": {"name": "nf4", "double": True}, "sites": ["attention", "ffn"]}


@pytest.mark.parametrize("kind", ["gaussian", "bert"])
@torch.no_grad()
def test_codes_and_adapter_stay_apart_and_peft_puts_them_together_again(kind, tmp_path):
    artifact = exported(tmp_path, kind, QLORA)
    loaded, tensors = load(artifact, run_codes=False), load_file(artifact / "model.safetensors")
    adapted = sorted(name.partition("::")[0] for name in tensors if name.endswith("::lora_a"))
    assert adapted and all("query" in name or "output" in name for name in adapted)
    for name in adapted:
        parts = {key.partition("::")[2] for key in tensors if key.startswith(f"{name}::")}
        assert parts == {"codes", "scale", "scale_top", "scale_mean", "lora_a", "lora_b"}
        assert name not in tensors and tensors[f"{name}::codes"].dtype == torch.uint8
    ids = torch.randint(4, len(WORDS), (3, 10), generator=torch.Generator().manual_seed(0))
    out = export_transformers(artifact, tmp_path / "hf")
    base = AutoModel.from_pretrained(out / "base").eval()
    alone = base(ids).last_hidden_state
    both = PeftModel.from_pretrained(base, out / "adapter").eval()(ids).last_hidden_state
    want = (loaded.model.hidden(ids) if kind == "bert" else
            loaded.model.hidden(loaded.model.embed(ids), torch.zeros(len(ids), dtype=torch.long)))
    assert (both - want).abs().max() < 1e-5 < 0.01 < (alone - want).abs().max()
