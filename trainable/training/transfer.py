"""A base for one corpus that begins as a base of another: its body, and the rows of the words that
both corpora have."""

from __future__ import annotations

from pathlib import Path

import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import WEIGHTS
from trainable.models.backbone import Backbone
from trainable.registry import completed
from trainable.storage.folders import digest


def start_key(path: str) -> str:
    """What a start decides: the bytes of its weights. Raises `UserError` when it is no artifact."""
    weights = Path(path).expanduser() / WEIGHTS
    if not weights.is_file():
        raise UserError(f"base.start: {path} is not an artifact: no {WEIGHTS} in it")
    return digest(weights)


@torch.no_grad()
def begin_from(model: Backbone, config: TrialConfig, vocabulary: list[str]) -> dict[str, float]:
    """Overwrite a fresh model's weights by those of the artifact `config.base.start`, decoded from its codes.

    Words that the artifact does not know keep their fresh rows. Returns `words_shared`, the share of the
    vocabulary whose rows were taken over. Raises `UserError` when the shapes differ.
    """
    assert config.base.start is not None, "there is nothing to begin from"
    source = load(Path(config.base.start).expanduser(), run_codes=False)
    _same_shape(config, source)
    theirs = {word: i for i, word in enumerate(source.lexicon.vocab)}
    words = [(i, theirs[word]) for i, word in enumerate(vocabulary) if word in theirs]
    symbols = [(i, source.model.symbols[symbol])
               for symbol, i in model.symbols.items() if symbol in source.model.symbols]
    own, held = model.state_dict(), source.model.state_dict()
    by_word, by_symbol = model.token_parameters(), model.symbol_parameters()
    for name, value in own.items():
        pairs = words if name in by_word else symbols if name in by_symbol else None
        if pairs is not None:
            for mine, other in pairs:
                value[mine] = held[name][other].to(value)
        else:
            value.copy_(held[name])
    return {"words_shared": len(words) / len(vocabulary)}


def _same_shape(config: TrialConfig, source: Loaded) -> None:
    for group in ("model", "diffusion"):
        ours, theirs = (getattr(settings, group).model_dump(mode="json")
                        for settings in (completed(config), source.config))
        for key, value in ours.items():
            if value != theirs.get(key) and not key.startswith(("pretrained", "condition")):
                raise UserError(f"base.start: {config.base.start} has {group}.{key}={theirs.get(key)!r}, "
                                f"the space asks for {value!r}")
