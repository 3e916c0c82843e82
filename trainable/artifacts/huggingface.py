"""An artifact as a folder that plain transformers and peft load, for those who know neither this program
nor its codes.

    config.json, model.safetensors  the body with its token table, and with its head where a class of
                                    transformers has the same: an architecture of transformers, decoded
    tokenizer.json, ...             the words
    diffusion.safetensors           what else the model has (projections, times, head), by its own names
    qdlm.json, README.md            the trial's settings; how to use all this
    base/, adapter/                 where the adapter stands apart from the codes: the rest, and it
"""

from __future__ import annotations

import json
from collections import defaultdict
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
from trainable.artifacts.export_page import ADAPTED, ADAPTER, BASE, REST, SETTINGS, page
from trainable.artifacts.packed import WEIGHTS
from trainable.artifacts.packing import SPLIT
from trainable.artifacts.reading import read_tensors
from trainable.artifacts.tokenizer import tokenizer
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import NOWHERE, UNK
from trainable.models.masked_lm.heads import NEVER
from trainable.quantization.post_training.stored import KEY
from trainable.storage.folders import whole_folder

MASK = "[MASK]"
FACTORS = {f"{SPLIT}lora_a": "lora_A.weight", f"{SPLIT}lora_b": "lora_B.weight",
           f"{SPLIT}lora_m": "lora_magnitude_vector"}
"""How parts of an adapter end in an artifact, and as peft has them."""
_HEAD = ("word_embedding.", "transform.", "head.", "bias")
"""How the names begin that a model of transformers with a head holds."""


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
    absent = numbered(made, loaded.lexicon)
    head, config, lexicon, _ = read_files(artifact)
    tensors = read_tensors(artifact / WEIGHTS)
    adapters = _adapters(tensors)
    with whole_folder(out) as folder, quiet():
        made.save_pretrained(folder)
        beside(loaded, made, absent, folder, ADAPTED if adapters else "")
        if adapters:
            bare = {name: value for name, value in tensors.items() if not name.endswith(tuple(FACTORS))}
            base = filled(blank_model(config, lexicon), bare, head["packing"], torch.device("cpu"), False)
            numbered(bare_model := base.as_transformers()[0], lexicon)
            bare_model.save_pretrained(folder / BASE)
            _write_adapter(adapters, prefix, folder / ADAPTER)
    return out


def beside(loaded: Loaded, made: Any, absent: list[int], folder: Path, more: str) -> None:
    """Write what stands beside the weights of `made`: the words, what the class of transformers has no place
    for, the trial's settings with the tokens that are no answers, and a page that says how to use all this,
    `more` of it at the end."""
    words_of(loaded).save_pretrained(folder)
    whole = made.get_output_embeddings() is not None
    kept = {name: value.contiguous().clone() for name, value in loaded.model.state_dict().items()
            if not name.startswith(("body.", *(_HEAD if whole else ())))}
    if kept:
        save_file(kept, folder / REST, metadata={"format": "pt"})
    head = read_files(loaded.path)[0]
    facts = {"config": head["config"], "facts": head["facts"]}
    if whole:
        facts["no_answers"] = absent
    (folder / SETTINGS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(loaded, made, more), encoding="utf-8")


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


def plain(artifact: Path, rounding: bool = False) -> Loaded:
    """An artifact as a model of plain float layers. Raises `UserError` where they do more, such as to round
    what they read, unless others can do that by its own range (`rounding`)."""
    loaded = load(artifact, run_codes=False, table="decoded")
    packing = read_files(artifact)[0]["packing"]
    bits = {entry["activation_bits"] for entry in packing.values() if KEY in entry}
    if min(bits, default=16) < 16 and not rounding:
        raise UserError(f"{artifact}: its layers round their inputs to {min(bits)} bits "
                        "(calibration.activation_bits), which other programs' layers do not")
    if any("running" in entry for entry in packing.values()):
        raise UserError(f"{artifact}: its layers do more than multiply (calibration.corrections), "
                        "which other programs' layers do not")
    if any("intervals" in entry for entry in packing.values()):
        raise UserError(f"{artifact}: its adapters differ between intervals of the noise level "
                        "(lora.intervals), which neither peft's nor other programs' layers can")
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
def numbered(made: Any, lexicon: Lexicon) -> list[int]:
    """Put the rows of the token table, and of the head, where the tokenizer has its tokens; those that the
    vocabulary left out are UNK, and never an answer where the head has a bias. Words have their rows' numbers
    already. Gives the numbers that are no answers: MASK's and of what was left out."""
    tokens, count = lexicon.tokens, len(lexicon.vocab)
    table: Tensor = made.get_input_embeddings().weight
    if tokens is None:
        return list(range(count, len(table)))
    order = [NOWHERE] * Tokenizer.from_str(tokens.source).get_vocab_size(with_added_tokens=True)
    for row, number in enumerate(tokens.table_rows()[:len(table)]):
        if number != NOWHERE:
            order[number] = row
        elif row == count:  # a mask that the tokenizer has not: words_of puts it last
            order.append(row)
    rows = torch.tensor(order)
    absent, head = rows == NOWHERE, made.get_output_embeddings()
    no_answers = (absent | (rows == count)).nonzero().flatten().tolist()
    rows = rows.where(~absent, UNK)
    made.set_input_embeddings(nn.Embedding.from_pretrained(table[rows].clone()))
    made.config.vocab_size = len(order)
    if head is not None:
        fresh = nn.Linear(head.in_features, len(order), head.bias is not None, dtype=head.weight.dtype)
        fresh.weight = (made.get_input_embeddings().weight if made.config.tie_word_embeddings
                        else nn.Parameter(head.weight[rows].masked_fill(absent[:, None], 0.0)))
        if head.bias is not None:
            fresh.bias.copy_(head.bias[rows].masked_fill(absent, NEVER))
        made.set_output_embeddings(fresh)
    return no_answers


def _adapters(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Low-rank factors that stand apart, as peft names them, by their module in the artifact's body."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        weight, _, part = name.partition(SPLIT)
        if SPLIT + part in FACTORS and weight.startswith("body."):
            found[weight.removeprefix("body.").removesuffix(".weight")][FACTORS[SPLIT + part]] = value
    return found


def _write_adapter(adapters: dict[str, dict[str, Tensor]], prefix: str, folder: Path) -> None:
    """In peft's format: the factors of single layers (their scale is in the second), and no table."""
    folder.mkdir()
    ranks = {prefix + name: len(parts["lora_A.weight"]) for name, parts in adapters.items()}
    found = {f"base_model.model.{prefix}{name}.{part}": value.float().contiguous()
             for name, parts in adapters.items() for part, value in parts.items()}
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = max(ranks.values())
    others = {name: value for name, value in ranks.items() if value != rank}
    magnitudes = any(FACTORS[f"{SPLIT}lora_m"] in parts for parts in adapters.values())
    LoraConfig(r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=dict(others), use_dora=magnitudes,
               target_modules=list(ranks), inference_mode=True).save_pretrained(folder)
