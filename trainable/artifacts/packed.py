"""A model packed once: what is counted, written and measured is one and the same object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from spaces.config import TrialConfig
from trainable.artifacts.assembling import assembled
from trainable.artifacts.packing import SPLIT, file_bytes, packed_tensors, weight_facts
from trainable.artifacts.tokenizer import TOKENIZER, tokenizer
from trainable.control.lexicon import Lexicon
from trainable.models.backbone import Backbone
from trainable.quantization.post_training.stored import Stored
from trainable.registry import completed
from trainable.storage.folders import whole_folder

FORMAT, WEIGHTS, CONFIG, LEXICON = 2, "model.safetensors", "config.json", "lexicon.json"


@dataclass(frozen=True)
class Packed:
    """Tensors by name as they go to disk, how each was packed, and what else is needed to run them."""

    model: Backbone
    config: TrialConfig
    lexicon: Lexicon
    tensors: dict[str, Tensor]
    packing: dict[str, dict[str, Any]]

    @classmethod
    def pack(cls, model: Backbone, config: TrialConfig, lexicon: Lexicon) -> Self:
        """The model as it is now, its adapter merged where the weight is a float one (see
        `packing.packed_tensors`)."""
        config = completed(config)
        return cls(model, config, lexicon, *packed_tensors(model, config.quantization.body))

    def rounded(self, weights: Mapping[str, Stored], plain: Mapping[str, Tensor] | None = None) -> Packed:
        """The same with some float weights, by name, replaced by what a post-training method stores for
        them, and some `plain` tensors by others."""
        tensors = {name: value for name, value in self.tensors.items() if name not in weights}
        for name, stored in weights.items():
            tensors |= {name + SPLIT + part: array.cpu().contiguous()
                        for part, array in stored.arrays.items()}
        tensors |= {name: value.to("cpu", self.tensors[name].dtype).contiguous()
                    for name, value in (plain or {}).items()}
        packing = self.packing | {name: stored.entry for name, stored in weights.items()}
        return Packed(self.model, self.config, self.lexicon, tensors, packing)

    @cached_property
    def bytes(self) -> int:
        """Of the weights' file, its header included."""
        return file_bytes(self.tensors)

    def facts(self, known: Mapping[str, Any]) -> dict[str, float]:
        """`file_bytes` of the weights' file, `exported_bytes` of all that is needed to run, and
        `weight_facts`. `known`, the other facts, stand in config.json too: the digits of those that still
        change are what `exported_bytes` can be off by."""
        found = {"file_bytes": self.bytes, **weight_facts(self.model, self.tensors, self.packing)}
        texts = self._texts({**known, **found, "exported_bytes": self.bytes})
        return {**found, "exported_bytes": self.bytes + sum(len(text.encode()) for text in texts.values())}

    def write(self, out: Path, facts: Mapping[str, Any]) -> Path:
        """The artifact folder `out`, whole or not at all. `facts` is JSON-able and tells how
        the model was made."""
        with whole_folder(out) as folder:
            save_file(self.tensors, folder / WEIGHTS)
            for name, text in self._texts(facts).items():
                (folder / name).write_text(text, encoding="utf-8")
            tokens = self.lexicon.tokens
            (folder / TOKENIZER).write_text(tokenizer(self.lexicon.vocab).to_str() if tokens is None
                                            else tokens.source, encoding="utf-8")
        return out

    def run(self, device: torch.device) -> Backbone:
        """The model that the files give, in eval mode; the packed tensors stay as they are."""
        tensors = dict(self.tensors)
        return assembled(self.config, self.lexicon, tensors, self.packing, device).requires_grad_(False)

    def _texts(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """The files that a model needs beside its weights."""
        head = {"format": FORMAT, "config": self.config.model_dump(mode="json"), "packing": self.packing,
                "facts": facts}
        return {CONFIG: json.dumps(head, indent=1),
                LEXICON: json.dumps(self.lexicon.to_json(), ensure_ascii=False)}
