#!/usr/bin/env bash
# transformers 5.23.0: config.is_causal = False makes a decoder bidirectional, or not: it depends on the
# attention implementation, and then on whether another row of the batch is padded.
#
# Turning an autoregressive body into the bidirectional body of a masked diffusion LM takes one flag since
# transformers builds the bidirectional mask from it. An expert expects `sdpa` and `eager` to agree. For
# Llama they do: the flag reaches the attention call as a keyword. The decoder layers of StableLM and
# Nemotron do not hand it on: eager becomes bidirectional, sdpa, the default, stays causal when no row is
# padded, because the mask is then left out and the module's own is_causal = True decides; with one padded
# row in the batch the *other* rows become bidirectional as well. GPT-Neo ignores the flag. A masked LM
# trained on such a body sees the left half of its context, except in batches that hold a padded row.
# Source: transformers/masking_utils.py create_causal_mask; utils/generic.py merge_with_config_defaults;
# models/stablelm/modeling_stablelm.py and models/nemotron/modeling_nemotron.py, decoder layers;
# models/gpt_neo/modeling_gpt_neo.py.
#
# Output seen:
#   transformers 5.23.0, torch 2.13.0+cpu
#   seen: llama: eager sees, eager + a padded neighbor sees, sdpa sees, sdpa + a padded neighbor sees
#   seen: qwen3: eager sees, eager + a padded neighbor sees, sdpa sees, sdpa + a padded neighbor sees
#   seen: stablelm: eager sees, eager + a padded neighbor sees, sdpa blind, sdpa + a padded neighbor
#     sees
#   seen: nemotron: eager sees, eager + a padded neighbor sees, sdpa blind, sdpa + a padded neighbor
#     sees
#   seen: gpt_neo: eager blind, eager + a padded neighbor blind
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-transformers==5.23.0 torch==2.13.0 numpy==2.4.6}
cd "$work" && HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4}
NEO = {"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64,
       "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64}


def sees_right(kind: str, attention: str, pad: bool) -> bool:
    """Whether a change of row 0's last token changes row 0's earlier logits; row 0 itself is never padded."""
    sizes = NEO if kind == "gpt_neo" else SIZES
    config = AutoConfig.for_model(kind, **sizes, attn_implementation=attention)
    config.is_causal = False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 50, (2, 8))
    other = ids.clone()
    other[0, -1] = ids[0, -1] % 49 + 1
    mask = torch.ones_like(ids)
    if pad:
        mask[1, :3] = 0
    with torch.no_grad():
        moved = (model(ids, attention_mask=mask).logits - model(other, attention_mask=mask).logits)[0, :-1]
    return bool(moved.abs().max() > 1e-5)


EXPECTED = {"llama": (True, True, True, True), "qwen3": (True, True, True, True),
            "stablelm": (True, True, False, True), "nemotron": (True, True, False, True),
            "gpt_neo": (False, False)}
print("expected: with is_causal = False early positions see the last one, whatever attention and padding")
for kind, known in EXPECTED.items():
    cases = [(attention, pad) for attention in ("eager", "sdpa") for pad in (False, True)][:len(known)]
    seen = tuple(sees_right(kind, *case) for case in cases)
    words = ", ".join(f"{attention}{' + a padded neighbor' if pad else ''} {'sees' if saw else 'blind'}"
                      for (attention, pad), saw in zip(cases, seen, strict=True))
    print(f"seen: {kind}: {words}")
    assert seen == known, f"changed: {kind} {seen}"
PY
