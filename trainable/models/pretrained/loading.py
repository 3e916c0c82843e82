"""A model's weights out of a Hugging Face checkpoint: same body, the table's rows in our order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.models.backbone import Backbone
from trainable.models.diffusion_gemma.config import DiffusionGemmaConfig
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import USUAL, MaskedLMConfig
from trainable.models.pretrained.checkpoint import HuggingFaceFolder, is_artifact
from trainable.models.pretrained.formats import Format, Shape, format_of, written
from trainable.models.pretrained.tables import Source, gathered


def is_checkpoint(path: str | None) -> bool:
    """Whether a path is a folder to be read here: there, and no artifact."""
    return path is not None and Path(path).expanduser().is_dir() and not is_artifact(path)


def opened(path: str, key: str) -> tuple[HuggingFaceFolder, Format]:
    """The checkpoint in a folder that the setting `key` names, and its format. Raises `UserError`:
    no checkpoint, one of an unknown class, one without some of its shards."""
    folder = HuggingFaceFolder(path, key)
    return folder, format_of(folder)


def check_shape(params: object, shift: bool, folder: HuggingFaceFolder, form: Format, whole: bool) -> Shape:
    """The shape that the checkpoint has. Raises `UserError` where a model of these settings has another;
    rows may be shorter, and unless the checkpoint is used `whole`, layers fewer."""
    if not isinstance(params, form.config):
        raise folder.problem(f"a checkpoint of {folder.architecture} is the start of model "
                             f"{form.config.name}; set model.name: {form.config.name}")
    shape = form.shape(folder)
    for name, value in shape.items():
        ours = getattr(params, name)
        if ours is None:
            ours = _null(params, name)
        fits = ours == value
        if name == "positions" or name == "layers" and not whole:
            fits = ours <= value
        if not fits:
            raise folder.problem(f"has {name}={value}, the space asks for model.{name}={ours}; "
                                 f"its own shape: {written(shape, form.config)}")
    if shift != form.shifted:
        raise folder.problem(f"{folder.architecture} needs model.shift: {str(form.shifted).lower()}")
    return shape


def _null(params: MaskedLMConfig | DiffusionGemmaConfig, name: str) -> Any:
    """What null means for a setting of the shape."""
    if isinstance(params, DiffusionGemmaConfig):
        return params.meant(name)
    if name == "norm_eps" and params.transform:
        return None
    return {**USUAL[params.body], "kv_heads": params.heads}.get(name)


def check_rows(folder: HuggingFaceFolder, form: Format, sources: Sequence[Source]) -> None:
    """Raises `UserError` where the table has fewer rows than the tokenizer has tokens."""
    rows = folder.shape(form.table_in(folder))[0]
    most = max((row for source in sources for row in source), default=0)
    if most >= rows:
        raise folder.problem(f"a vocabulary that does not fit: the tokenizer has a token {most}, the table "
                             f"{rows} rows")


@torch.no_grad()
def state_of(model: Backbone, folder: HuggingFaceFolder, form: Format,
             sources: Sequence[Source]) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every tensor of `model` that the checkpoint has, in its dtype. Those of the body
    are views of the mapped file, those with rows of tokens copies.

    `sources`: one for each row of the table, MASK's last. Raises `UserError` for a vocabulary that does not
    fit, and for a tensor that is missing or of another shape.
    """
    check_rows(folder, form, sources)
    if form.state is not None:
        yield from form.state(model, folder, sources)
        return
    assert isinstance(model, MaskedLM)
    bare, table = form.prefix_in(folder), form.table_in(folder)
    for name, value in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        theirs = bare + form.rename(name.removeprefix("body.")) if name.startswith("body.") else (
            form.head.get(name) or f"{form.head[module]}.{leaf}" if name in form.head or module in form.head
            else None)
        if name == "word_embedding.weight":
            yield name, gathered(folder.tensor(table), sources)
        elif theirs is None or theirs not in folder.names and not name.startswith("body."):
            if name in ("bias",) or module.startswith("transform"):  # a head without this part adds nothing
                yield name, torch.zeros(value.shape, dtype=folder.dtype)
        elif name in ("head.weight", "bias"):
            yield name, gathered(folder.tensor(theirs), sources[:model.vocabulary])
        else:
            found = folder.tensor(theirs)
            if leaf == "weight" and module.endswith(("position_embeddings", "token_type_embeddings")):
                found = found[:value.shape[0]].clone()
            if found.shape != value.shape:
                raise folder.problem(f"{theirs} has shape {tuple(found.shape)}, its config says "
                                     f"{tuple(value.shape)}")
            yield name, found


def fill(model: Backbone, folder: HuggingFaceFolder, form: Format, sources: Sequence[Source]) -> None:
    """Overwrite the weights of a model by the checkpoint's; it keeps its dtype. What the checkpoint does
    not have stays as it is."""
    own = model.state_dict()
    for name, value in state_of(model, folder, form, sources):
        own[name].copy_(value)


def assign(model: Backbone, folder: HuggingFaceFolder, form: Format, sources: Sequence[Source]) -> Backbone:
    """Give a model on the meta device the checkpoint's weights, in their dtype; nothing is copied but
    the rows of tokens. Raises `UserError` where the model has a part that the checkpoint lacks."""
    state = dict(state_of(model, folder, form, sources))
    lacking = [name for name in model.state_dict() if name not in state]
    if lacking:
        raise UserError(f"{folder.key}: {folder.folder}: lacks {lacking[0]}, which the space asks for; "
                        "leave it out, or train it: base.start")
    model.load_state_dict(state, assign=True)
    return model.eval()
