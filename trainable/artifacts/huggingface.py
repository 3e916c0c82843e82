"""An artifact as a folder that plain transformers and peft load, for those who know neither this program
nor its codes.

    config.json, model.safetensors  the body with its token table: an architecture of transformers, decoded
    tokenizer.json, ...             the words
    diffusion.safetensors           what else the model has (projections, times, head), by its own names
    qdlm.json, README.md            the trial's settings; how to use all this
    base/, adapter/                 where the adapter stands apart from the codes: the rest, and it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load, read_files
from trainable.artifacts.assembling import blank_model, filled
from trainable.artifacts.packed import WEIGHTS
from trainable.artifacts.packing import SPLIT
from trainable.artifacts.reading import read_tensors
from trainable.artifacts.tokenizer import tokenizer
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import NOWHERE, UNK
from trainable.quantization.post_training.stored import KEY
from trainable.storage.folders import whole_folder

REST, SETTINGS, BASE, ADAPTER, MASK = "diffusion.safetensors", "qdlm.json", "base", "adapter", "[MASK]"
LORA_A, LORA_B = f"{SPLIT}lora_a", f"{SPLIT}lora_b"


def export_transformers(artifact: Path, out: Path) -> Path:
    """Write `out` (whole or not at all), which must not be there. Its weights are the decoded codes, so that
    its outputs are those of `load(artifact, run_codes=False)`.

    Raises `UserError` for what is no artifact, for a body that transformers has no architecture of, and for
    one that rounds its inputs, which no Linear of transformers does.
    """
    loaded = plain(artifact)
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    made, prefix = loaded.model.as_transformers()
    numbered(made, loaded.lexicon)
    head, config, lexicon, _ = read_files(artifact)
    tensors = read_tensors(artifact / WEIGHTS)
    adapters = _adapters(tensors)
    with whole_folder(out) as folder, quiet():
        made.save_pretrained(folder)
        words_of(loaded).save_pretrained(folder)
        kept = {name: value.contiguous().clone() for name, value in loaded.model.state_dict().items()
                if not name.startswith("body.")}
        save_file(kept, folder / REST, metadata={"format": "pt"})
        facts = {"config": head["config"], "facts": head["facts"]}
        (folder / SETTINGS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_readme(loaded, made, bool(adapters)), encoding="utf-8")
        if adapters:
            bare = {name: value for name, value in tensors.items() if not name.endswith((LORA_A, LORA_B))}
            base = filled(blank_model(config, lexicon), bare, head["packing"], torch.device("cpu"), False)
            numbered(bare_body := base.as_transformers()[0], lexicon)
            bare_body.save_pretrained(folder / BASE)
            _write_adapter(adapters, prefix, folder / ADAPTER)
    return out


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which are for files of many gigabytes."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def plain(artifact: Path) -> Loaded:
    """An artifact as a model of plain float layers. Raises `UserError` where they round what they read."""
    loaded = load(artifact, run_codes=False, table="decoded")
    packing = read_files(artifact)[0]["packing"]
    bits = {entry["activation_bits"] for entry in packing.values() if KEY in entry}
    if min(bits, default=16) < 16:
        raise UserError(f"{artifact}: its layers round their inputs to {min(bits)} bits "
                        "(calibration.activation_bits), which other programs' layers do not")
    if any("running" in entry for entry in packing.values()):
        raise UserError(f"{artifact}: its layers do more than multiply (calibration.corrections), "
                        "which other programs' layers do not")
    return loaded


def words_of(loaded: Loaded) -> PreTrainedTokenizerFast:
    """The artifact's words as `AutoTokenizer` gives them; a mask, where the model has one, is `[MASK]`."""
    vocab, tokens = loaded.lexicon.vocab, loaded.lexicon.tokens
    if tokens is not None:
        library = Tokenizer.from_str(tokens.source)
        named = {name: library.id_to_token(number) for name, number in zip(
            ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token"), tokens.marks, strict=True)
            if number != NOWHERE}
        fresh = {"mask_token": MASK} if tokens.marks.mask == NOWHERE and _masked(loaded) else {}
        return PreTrainedTokenizerFast(tokenizer_object=library, **named, **fresh,
                                       model_max_length=loaded.config.corpus.max_length)
    start, end, unknown, pad = vocab[:4]
    mask = {"mask_token": MASK} if _masked(loaded) else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(vocab), bos_token=start, eos_token=end, unk_token=unknown,
        pad_token=pad, model_max_length=loaded.config.corpus.max_length, **mask)


def _masked(loaded: Loaded) -> bool:
    """Whether the model has a row for what is hidden."""
    return getattr(loaded.model, "mask_id", None) is not None


@torch.no_grad()
def numbered(made: Any, lexicon: Lexicon) -> None:
    """Put the rows of the token table where the tokenizer has its tokens; those that the vocabulary left out
    are UNK. Words have their rows' numbers already."""
    tokens = lexicon.tokens
    if tokens is None:
        return
    table: Tensor = made.get_input_embeddings().weight
    order = [UNK] * Tokenizer.from_str(tokens.source).get_vocab_size(with_added_tokens=True)
    for row, number in enumerate(tokens.table_rows()[:len(table)]):
        if number != NOWHERE:
            order[number] = row
        elif row == len(lexicon.vocab):  # a mask that the tokenizer has not: words_of puts it last
            order.append(row)
    made.set_input_embeddings(nn.Embedding.from_pretrained(table[order].clone()))
    made.config.vocab_size = len(order)


def _adapters(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Low-rank factors that stand apart, by the name of their module in the artifact's body."""
    names = [name.removesuffix(LORA_A) for name in tensors if name.endswith(LORA_A)]
    return {name.removeprefix("body.").removesuffix(".weight"):
            (tensors[name + LORA_A], tensors[name + LORA_B]) for name in names if name.startswith("body.")}


def _write_adapter(adapters: dict[str, tuple[Tensor, Tensor]], prefix: str, folder: Path) -> None:
    """In peft's format: the factors of single layers (their scale is in the second), and no table."""
    folder.mkdir()
    ranks = {prefix + name: len(a) for name, (a, _) in adapters.items()}
    found: dict[str, Tensor] = {}
    for name, (a, b) in adapters.items():
        for part, value in (("lora_A", a), ("lora_B", b)):
            found[f"base_model.model.{prefix}{name}.{part}.weight"] = value.float().contiguous()
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = max(ranks.values())
    others = {name: value for name, value in ranks.items() if value != rank}
    LoraConfig(r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=dict(others),
               target_modules=list(ranks), inference_mode=True).save_pretrained(folder)


def _readme(loaded: Loaded, made: Any, apart: bool) -> str:
    masked = loaded.config.diffusion.name == "masked"
    shifted = masked and getattr(loaded.model, "shift", False)
    body = f"""# {loaded.path.name}

The body of a diffusion language model (`qdlm export --to hf`): `{type(made).__name__}`, its weights decoded
to floats. It attends to both sides; no remote code is needed.

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("EXPORT")
model = AutoModel.from_pretrained("EXPORT").eval()
states = model(**tokenizer("a place to eat", return_tensors="pt")).last_hidden_state
```

"""
    if masked:
        left = "; those of a position come from the state one to its left" if shifted else ""
        body += ("`[MASK]` stands for a hidden word. The logits are `states @ table[:words].T + bias`, table "
                 f"being the input embeddings and `bias` of `{REST}`, behind `transform` where that has "
                 f"one{left}.\n")
    else:
        body += ("The states are those of clean words at time 0. For noisy latents x_t give `inputs_embeds = "
                 "up(x_t) + time(sinusoids(t))`; `down` of the states is what the model predicts; all three "
                 f"are in `{REST}`.\n")
    if apart:
        body += ("\nThe adapter stands apart from the quantized weights: `PeftModel.from_pretrained("
                 f"AutoModel.from_pretrained(\"EXPORT/{BASE}\"), \"EXPORT/{ADAPTER}\")` is the same model as "
                 "EXPORT itself, in which it is merged. It fits this base and no other.\n")
    return body + f"\nThe whole model runs with `qdlm generate ARTIFACT`; settings: `{SETTINGS}`.\n"
