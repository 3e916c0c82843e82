"""Parts of an artifact in other libraries' formats: the words as a Hugging Face tokenizer,
the adapter as peft's."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig as PeftLora
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from spaces.config import LoraConfig
from trainable.models.backbone import Backbone
from trainable.models.lora import target_pattern

TOKENIZER, ADAPTER = "tokenizer.json", "adapter"


def tokenizer(vocabulary: list[str]) -> Tokenizer:
    """A word-level tokenizer over text whose words are separated by spaces: START words END,
    UNK for unknown words.

    `transformers.PreTrainedTokenizerFast(tokenizer_file=...)` and `tokenizers.Tokenizer.from_file` read it.
    """
    ids = {word: number for number, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(ids, unk_token=vocabulary[2]))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    start, end = vocabulary[:2]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])])
    return made


def write_adapter(model: Backbone, config: LoraConfig, folder: Path) -> None:
    """The adapter of `model.body` as `peft.PeftModel.from_pretrained(body, folder)` reads it;
    nothing without one."""
    found = {}
    for name, module in model.body.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            found[f"base_model.model.{name}.lora_A.weight"] = module.lora_A["default"].weight
            found[f"base_model.model.{name}.lora_B.weight"] = module.lora_B["default"].weight
    if not found:
        return
    folder.mkdir()
    save_file({name: value.detach().float().cpu().contiguous() for name, value in found.items()},
              folder / "adapter_model.safetensors")
    PeftLora(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
             target_modules=target_pattern(model, config), inference_mode=True).save_pretrained(folder)
