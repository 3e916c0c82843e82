"""A tiny random DiffusionGemma as transformers writes it, with a tokenizer that has no MASK."""

from __future__ import annotations

from pathlib import Path

import tokenizers_made
import torch
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig

from trainable.models.diffusion_gemma.body import VISION

ROWS = 400
"""Of the table; the tokenizer has fewer tokens."""
SHAPE = {"name": "diffusion_gemma", "hidden": 16, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 4,
         "global_kv_heads": 1, "global_head_dim": 8, "ffn": 24, "experts": 4, "top_experts": 2,
         "expert_ffn": 12, "positions": 44, "global_every": 2, "local_window": 8}
"""`model:` of a space for it."""


def make() -> DiffusionGemmaForBlockDiffusion:
    """The transformers model, with decided opinions."""
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    text = DiffusionGemmaTextConfig(
        vocab_size=ROWS, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, global_head_dim=8, num_global_key_value_heads=1, num_experts=4,
        top_k_experts=2, moe_intermediate_size=12, layer_types=kinds, sliding_window=8, eos_token_id=None)
    config = DiffusionGemmaConfig(text_config=text, vision_config=VISION, canvas_length=43,
                                  image_token_id=ROWS - 1, boi_token_id=ROWS - 2, eoi_token_id=ROWS - 3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = DiffusionGemmaForBlockDiffusion(config)
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3) if value.ndim > 1 else value.data.add_(
                0.2 * torch.randn(value.shape))
        for number, layer in enumerate(model.model.encoder.language_model.layers):
            layer.layer_scalar.fill_(0.9 - 0.1 * number)  # the one thing that the two do not share
    return model.eval()


def write(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionGemmaForBlockDiffusion:
    """Its folder, tokenizer included; returns the model."""
    model = make().to(dtype)
    model.save_pretrained(folder)
    tokenizers_made.write(folder, "bytes", mask=False)
    return model
