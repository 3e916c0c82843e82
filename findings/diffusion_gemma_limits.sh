#!/usr/bin/env bash
# transformers 5.23.0, DiffusionGemma: max_new_tokens is no maximum, and a constant temperature is refused.
#
# Everywhere else in transformers max_new_tokens=N returns at most N new tokens. Here it is rounded up to
# whole canvases (canvas_length, 256 by default) and nothing is cut, so 3 asked tokens come back as a
# canvas, and tokens_per_forward counts them all. And t_min == t_max, the plain case of one temperature, is
# refused by a message that says >=; a stability threshold of the wrong type gives an AttributeError about a
# field that does not exist, since two messages print self.entropy_bound. Lengths, tokens per forward pass
# and times are read off these; a search space over (t_min, t_max) must leave the diagonal out.
# Source: transformers/models/diffusion_gemma/generation_diffusion_gemma.py, generate() 0.b, validate().
#
# Output seen:
#   transformers 5.23.0, torch 2.13.0+cpu
#   expected: max_new_tokens=3 gives at most 3; seen: 32 (canvas of 32), tokens_per_forward 16
#   expected: max_new_tokens=33 gives at most 33; seen: 64 (canvas of 32), tokens_per_forward 16
#   expected: t_min = t_max = 0.5 is a constant temperature; a wrong type is named in a ValueError
#   seen: {'t_min': 0.5, 't_max': 0.5}: ValueError: `t_max` must be >= t_min` (got 0.5 < 0.5)
#   seen: {'stability_threshold': 1.0}: AttributeError: 'DiffusionGemmaGenerationConfig' object has no
#     attribute 'entropy_bound'
#   seen: {'confidence_threshold': 1}: AttributeError: 'DiffusionGemmaGenerationConfig' object has no
#     attribute 'entropy_bound'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-transformers==5.23.0 torch==2.13.0 numpy==2.4.6}
cd "$work" && HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import torch
import transformers
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.generation_diffusion_gemma import DiffusionGemmaGenerationConfig

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
text = DiffusionGemmaTextConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, num_experts=4, top_k_experts=2, moe_intermediate_size=16,
    layer_types=["sliding_attention", "full_attention"], sliding_window=64, eos_token_id=None)
vision = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}
config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=32, image_token_id=63,
                              boi_token_id=62, eoi_token_id=61)
torch.manual_seed(0)
model = DiffusionGemmaForBlockDiffusion(config).eval()
for asked, whole in ((3, 32), (33, 64)):
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=asked, max_denoising_steps=2)
    got = out.sequences.shape[1] - 3
    print(f"expected: max_new_tokens={asked} gives at most {asked}; seen: {got} (canvas of 32), "
          f"tokens_per_forward {out.tokens_per_forward.item():g}")
    assert got == whole, "changed: the answer is cut"

print("expected: t_min = t_max = 0.5 is a constant temperature; a wrong type is named in a ValueError")
for values, kind in (({"t_min": 0.5, "t_max": 0.5}, ValueError),
                     ({"stability_threshold": 1.0}, AttributeError),
                     ({"confidence_threshold": 1}, AttributeError)):
    try:
        DiffusionGemmaGenerationConfig(**values)
    except Exception as error:
        print(f"seen: {values}: {type(error).__name__}: {error}")
        assert type(error) is kind, "changed: another error"
    else:
        raise SystemExit(f"changed: {values} is accepted")
PY
