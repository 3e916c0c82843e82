#!/usr/bin/env bash
# transformers 5.23.0, DiffusionGemma: generate() samples tokens, and returns other ones.
#
# A text-diffusion sampler with a temperature is expected to return what it sampled: at temperature 1,
# tokens follow the model's distribution. DiffusionGemma draws a token per position, lets the entropy bound
# accept some of them and renoises the rest, but what it appends to `sequences` is the argmax of the last
# step's logits. The drawn tokens only feed the next step. With logits that do not depend on the canvas,
# temperature, entropy bound and number of steps change nothing: every row is the same sentence. Who
# searches t_min, t_max or entropy_bound and measures diversity measures an argmax decoder.
# Source: transformers/models/diffusion_gemma/generation_diffusion_gemma.py, generate(), step 1.d; the class
# documentation of EntropyBoundSampler speaks of accepted tokens.
#
# Output seen:
#   transformers 5.23.0, torch 2.13.0+cpu
#   expected: tokens [10, 11, 12] in shares [0.4, 0.35, 0.25], 16 different rows
#   seen: 1 steps, bound 0.1: shares [1.0, 0.0, 0.0], 1 different row(s)
#   seen: 1 steps, bound 1e+09: shares [1.0, 0.0, 0.0], 1 different row(s)
#   seen: 4 steps, bound 0.1: shares [1.0, 0.0, 0.0], 1 different row(s)
#   seen: 4 steps, bound 1e+09: shares [1.0, 0.0, 0.0], 1 different row(s)
#   seen: 16 steps, bound 0.1: shares [1.0, 0.0, 0.0], 1 different row(s)
#   seen: 16 steps, bound 1e+09: shares [1.0, 0.0, 0.0], 1 different row(s)
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-transformers==5.23.0 torch==2.13.0 numpy==2.4.6}
cd "$work" && HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import torch
import transformers
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
SHARES = {10: 0.40, 11: 0.35, 12: 0.25}  # the model's distribution at every position


class Fixed(LogitsProcessor):
    def __call__(self, input_ids, scores, cur_step=None):
        scores = torch.full_like(scores, -1e9)
        for token, share in SHARES.items():
            scores[..., token] = torch.tensor(share).log()
        return scores


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
prompt = torch.tensor([[5, 6, 7]] * 16)
print(f"expected: tokens {list(SHARES)} in shares {list(SHARES.values())}, 16 different rows")
for steps in (1, 4, 16):
    for bound in (0.1, 1e9):  # a few tokens accepted in a step; all of them
        out = model.generate(
            prompt, max_new_tokens=32, max_denoising_steps=steps, t_min=0.999, t_max=1.0,
            sampler_config=EntropyBoundSamplerConfig(entropy_bound=bound),
            logits_processor=LogitsProcessorList([Fixed()]))
        new = out.sequences[:, 3:]
        shares = [round((new == token).float().mean().item(), 2) for token in SHARES]
        rows = len({tuple(row) for row in new.tolist()})
        print(f"seen: {steps} steps, bound {bound:g}: shares {shares}, {rows} different row(s)")
        assert shares == [1.0, 0.0, 0.0] and rows == 1, "changed: sequences are no longer the argmax canvas"
PY
