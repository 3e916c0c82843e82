#!/usr/bin/env bash
# peft 0.21.2: a LoRA on the embedding ships the whole table, and loading it overwrites the base's table.
#
# An adapter is expected to hold its low-rank factors, and loading one to leave the base alone. With
# embed_tokens among the target modules, save_pretrained writes the frozen base table too
# (save_embedding_layers="auto", with a warning), here 15 times the trained weights, and from_pretrained
# copies it over the base's own: a base whose table was quantized in between silently gets the float table
# back, so what is measured is not what was shipped. For a diffusion LM whose table is the quantized part,
# both the size of the adapter and its output are other than expected; save_embedding_layers=False gives the
# adapter alone.
# Source: peft/utils/save_and_load.py get_peft_model_state_dict.
#
# Output seen:
#   peft 0.21.2, transformers 5.23.0, torch 2.13.0+cpu
#   save_embedding_layers=auto: trained 37120 bytes, adapter file 550024, tables in it 1, base's table kept
#     on loading: False
#   save_embedding_layers=False: trained 37120 bytes, adapter file 37888, tables in it 0, base's table kept
#     on loading: True
#   expected: kept: True and about the trained bytes in both; seen: the default does neither
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    ${PIN:-peft==0.21.2 transformers==5.23.0 torch==2.13.0 numpy==2.4.6}
cd "$work" && HF_HUB_OFFLINE=1 venv/bin/python -I -W ignore - <<'PY'
import importlib.metadata
import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("peft", "transformers", "torch")), sep=", ")


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 2000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))


adapted = get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]))
trained = 4 * sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
kept = {}
for choice in ("auto", False):
    adapted.save_pretrained(f"adapter-{choice}", save_embedding_layers=choice)
    file = f"adapter-{choice}/adapter_model.safetensors"
    with safe_open(file, "pt") as weights:
        tables = [name for name in weights.keys() if name.endswith("embed_tokens.base_layer.weight")]
    target = base()
    table = target.get_input_embeddings().weight
    table.data.copy_((table * 64).round() / 64)  # a base whose table was quantized to steps of 1/64
    before = table.detach().clone()
    loaded = PeftModel.from_pretrained(target, f"adapter-{choice}")
    after = loaded.get_base_model().get_input_embeddings().base_layer.weight
    kept[choice] = torch.equal(before, after)
    print(f"save_embedding_layers={choice}: trained {trained} bytes, adapter file {os.path.getsize(file)}, "
          f"tables in it {len(tables)}, base's table kept on loading: {kept[choice]}")
print("expected: kept: True and about the trained bytes in both; seen: the default does neither")
assert kept == {"auto": False, False: True}, "changed: loading leaves the table alone"
assert os.path.getsize("adapter-auto/adapter_model.safetensors") > 10 * trained, "changed: it is small"
PY
