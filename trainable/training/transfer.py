"""A base that begins as another model: its body, and the rows of the words, or tokens, that both have. The
other is an artifact of another corpus, or a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.assembling import blank_model
from trainable.artifacts.packed import WEIGHTS
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.corpora.tokens import FILE, NEW, NOWHERE, Tokens
from trainable.models.backbone import Backbone
from trainable.models.pretrained.checkpoint import HuggingFaceFolder
from trainable.models.pretrained.formats import Format
from trainable.models.pretrained.loading import (
    assign,
    check_rows,
    check_shape,
    fill,
    is_checkpoint,
    opened,
)
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.storage.folders import digest


def start_key(path: str) -> str:
    """What a start decides: the bytes of its weights. Raises `UserError` when it is neither an artifact nor
    a checkpoint."""
    if is_checkpoint(path):
        return opened(path, "base.start")[0].key_of_content()
    weights = Path(path).expanduser() / WEIGHTS
    if not weights.is_file():
        raise UserError(f"base.start: {path} is not an artifact: no {WEIGHTS} in it")
    return digest(weights)


def check_base(config: TrialConfig, name: str) -> None:
    """Raises `UserError` where `base.path` or `base.start`, by its last word, is not there, or a checkpoint
    that the model cannot begin from."""
    path = getattr(config.base, name)
    if path is not None and not Path(path).expanduser().is_dir():
        raise UserError(f"base.{name}: {path}: no such folder")
    if is_checkpoint(path):
        folder, form = _fitting(path, f"base.{name}", config)
        if config.corpus.tokenizer is not None and config.corpus.tokens == "all":
            tokens = Tokens.open(config.corpus.tokenizer, config.corpus.mask)
            check_rows(folder, form, _sources(folder, form, tokens, config))


def _fitting(path: str, key: str, config: TrialConfig) -> tuple[HuggingFaceFolder, Format]:
    """The checkpoint in a folder, of the shape that the space asks for."""
    folder, form = opened(path, key)
    params, process = BACKBONES.params(config.model), PROCESSES.params(config.diffusion)
    own = getattr(params, "shift", None)
    shift = bool(getattr(getattr(process, "as_recipe", None), "shift", False)) if own is None else own
    check_shape(params, shift, folder, form, whole=key == "base.path")
    return folder, form


def _sources(folder: HuggingFaceFolder, form: Format, told: Tokens | Sequence[str],
             config: TrialConfig) -> list[list[int]]:
    """Rows of the checkpoint's table for each of ours, which are `told` as tokens or as words. Words begin
    as the mean of their tokens by the tokenizer in the checkpoint's folder. Raises `UserError` where
    tokenizers differ, or MASK does."""
    says = folder.config.get("mask_token_id")
    if not isinstance(told, Tokens):
        tokens = Tokens.open(folder.folder, NEW if config.corpus.mask is None and says is not None
                             else config.corpus.mask, key=folder.key)
        sources = tokens.sources(told)
    else:
        tokens = told
        sources = tokens.sources()
        if (folder.folder / FILE).is_file():
            theirs = Tokens.open(folder.folder, NEW, key=folder.key).names()
            unlike = next((name for i, name in tokens.names().items() if theirs.get(i) != name), None)
            if unlike is not None:
                raise folder.problem(f"a vocabulary that does not fit: corpus.tokenizer writes {unlike!r} "
                                     f"where the checkpoint's own {FILE} has another token")
    mask = tokens.marks.mask
    if says is not None and mask not in (NOWHERE, says):
        raise folder.problem(f"its MASK is token {says}, that of the tokenizer is {mask}; set corpus.mask")
    if says is None and mask == NOWHERE and form.masks and not form.shifted:
        raise folder.problem(f"{folder.architecture} was trained with MASK, and corpus.mask: "
                             f"{NEW} would begin without it; name its token")
    if says is not None:
        sources[-1] = [int(says)]
    return sources


@torch.no_grad()
def adopted(config: TrialConfig, corpus: AnyCorpus,
            lexicon: Lexicon) -> tuple[Backbone, dict[str, float | str]]:
    """The checkpoint `config.base.path` as a model, in its own dtype, and facts about it.
    Raises `UserError`."""
    assert config.base.path is not None
    folder, form = _fitting(config.base.path, "base.path", config)
    told = corpus.tokens or corpus.vocab
    model = assign(blank_model(config, lexicon), folder, form, _sources(folder, form, told, config))
    return model, {"checkpoint": folder.architecture, "dtype": str(folder.dtype).removeprefix("torch.")}


@torch.no_grad()
def begin_from(model: Backbone, config: TrialConfig, corpus: AnyCorpus) -> dict[str, float]:
    """Overwrite a fresh model's weights by those of `config.base.start`: an artifact, decoded from its
    codes, or a checkpoint.

    Words that the artifact does not know keep their fresh rows. Returns `words_shared`, the share of the
    vocabulary whose rows were taken over. Raises `UserError` when the shapes differ, or tokenizers.
    """
    assert config.base.start is not None, "there is nothing to begin from"
    vocabulary = corpus.vocab
    if is_checkpoint(config.base.start):
        folder, form = _fitting(config.base.start, "base.start", config)
        sources = _sources(folder, form, corpus.tokens or corpus.vocab, config)
        fill(model, folder, form, sources)
        return {"words_shared": sum(map(bool, sources[:len(vocabulary)])) / len(vocabulary)}
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
