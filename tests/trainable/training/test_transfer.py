"""A base that begins as a base of another corpus: what is taken over, what is not, and what decides
its cache key."""

from types import SimpleNamespace

import pytest
import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.compat import int8_matmul_serves
from trainable.control.lexicon import Lexicon
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.diffusion_lm.packed_embedding import PackedTable
from trainable.quantization.body_formats import CodedLinear
from trainable.quantization.int8_body import DecodedLinear
from trainable.quantization.sites import apply
from trainable.registry import BACKBONES, BODIES, PROCESSES, completed
from trainable.stages.prepare import base_key, corpus_key, teacher_key
from trainable.storage.folders import content_key
from trainable.training.transfer import begin_from, start_key

SHAPE = {"model": {"embedding_dim": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "time_dim": 4,
                   "positions": 64}, "diffusion": {"timesteps": 20}}
THEIRS = ["START", "END", "UNK", "PAD", "pub", "the", "cheap"]
OURS = ["START", "END", "UNK", "PAD", "the", "river", "cheap", "inn"]


def config(start=None, **model):
    return TrialConfig.model_validate({**SHAPE, "model": {**SHAPE["model"], **model},
                                       "base": {"start": start}})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An exported model over other words."""
    settings = config()
    model = DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion),
                        THEIRS, seed=1)
    torch.nn.init.normal_(model.rounding.bias)
    return model, str(export(model, settings, Lexicon(THEIRS, 12, {}, "words"),
                             tmp_path_factory.mktemp("a") / "base", {}))


def test_shared_words_and_the_body_are_taken_over_and_new_words_stay_fresh(source):
    theirs, path = source
    settings = config(path)
    model = DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion), OURS, seed=2)
    fresh = model.word_embedding.weight.detach().clone()
    facts = begin_from(model, settings, SimpleNamespace(vocab=OURS))
    assert facts == {"words_shared": 6 / 8}
    for i, word in enumerate(OURS):
        known = word in THEIRS
        expected = theirs.word_embedding.weight[THEIRS.index(word)] if known else fresh[i]
        assert torch.equal(model.word_embedding.weight[i], expected)
        assert model.rounding.bias[i] == (theirs.rounding.bias[THEIRS.index(word)] if known else 0)
    held = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert (value.shape != held[name].shape or name.startswith(("word_emb", "rounding"))
                or torch.equal(value, held[name]))


WIDE = {"embedding_dim": 512, "hidden": 64, "ffn": 128}
"""Wide enough for the products of every body format and of a packed word table to run on a CPU."""


@pytest.mark.parametrize("body", list(BODIES))
def test_an_artifact_that_runs_on_its_codes_is_decoded(body, tmp_path):
    """Body and word table."""
    settings = TrialConfig.model_validate({
        **SHAPE, "model": {**SHAPE["model"], **WIDE},
        "quantization": {"quantizer": "uniform:8", "sites": ["embedding"], "body": body}})
    shape, process = BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion)
    theirs = DiffusionLM(shape, process, THEIRS, seed=1)
    apply(theirs, settings.quantization)
    path = export(theirs, settings, Lexicon(THEIRS, 12, {}, "words"), tmp_path / "base", {})
    running = load(path).model
    coded = [module for module in running.body.modules() if isinstance(module, CodedLinear | DecodedLinear)]
    assert len(coded) == (0 if body == "float32" else 6)
    assert isinstance(running.word_embedding, PackedTable) == int8_matmul_serves()
    wanted = settings.model_copy(update={"base": settings.base.model_copy(update={"start": str(path)})})
    model = DiffusionLM(shape, process, OURS, seed=2)
    assert begin_from(model, wanted, SimpleNamespace(vocab=OURS)) == {"words_shared": 6 / 8}
    form, held = BODIES.build_default(body), theirs.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("body.") and value.ndim == 2:
            assert torch.equal(value, form.decode(form.encode(held[name]), tuple(value.shape))), name
        elif not name.startswith(("word_embedding", "rounding")):
            assert torch.equal(value, held[name]), name
    assert torch.equal(model.word_embedding.weight[4], theirs.word_embedding.weight[THEIRS.index("the")])


def test_another_shape_is_refused(source):
    settings = config(source[1], hidden=16)
    with pytest.raises(UserError, match=r"base.start: .* has model.hidden=8, the space asks for 16"):
        begin_from(DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion), OURS),
                   settings, SimpleNamespace(vocab=OURS))


def test_what_is_no_artifact_is_told(tmp_path):
    with pytest.raises(UserError, match="base.start: .*not an artifact and not a Hugging Face checkpoint"):
        start_key(str(tmp_path))


def test_the_cache_key_depends_on_the_starts_bytes_and_not_on_its_place(source, tmp_path):
    import shutil
    copy = str(shutil.copytree(source[1], tmp_path / "copy"))
    assert base_key(config(source[1])) == base_key(config(copy)) != base_key(config())


def test_a_base_without_a_start_keeps_the_key_that_it_had_before_there_were_starts():
    settings = config()
    groups = completed(settings).model_dump(mode="json", include={"model", "diffusion", "base", "runtime"})
    del groups["base"]["start"]
    for later in ("name", "betas", "ema_warmup", "states", "padding"):
        del groups["base"]["optim"][later]
    del groups["model"]["name"], groups["diffusion"]["name"]
    del groups["model"]["conditions"], groups["diffusion"]["condition_drop"]  # came later too
    assert base_key(settings) == content_key(2, corpus_key(settings), groups)
    teacher = settings.teacher.model_dump(mode="json")
    del teacher["name"], teacher["order"]
    for later in ("name", "betas", "ema_warmup", "states", "padding"):
        del teacher["optim"][later]
    assert teacher_key(settings) == content_key(2, corpus_key(settings), teacher, settings.base.seed)


def test_betas_and_the_draw_of_mixed_times_are_in_the_key():
    def changed(**groups):
        return TrialConfig.model_validate({**SHAPE, **groups})

    betas = {"optim": {"betas": [0.9, 0.999]}}
    assert base_key(changed(base=betas)) != base_key(config())
    assert base_key(changed(base={"optim": {"ema_warmup": False}})) != base_key(config())
    assert teacher_key(changed(teacher=betas)) != teacher_key(config())
    mixed = changed(diffusion={**SHAPE["diffusion"], "mixed_times": 0.9})
    groups = completed(mixed).model_dump(mode="json", include={"model", "diffusion", "base", "runtime"})
    del groups["base"]["start"]
    for later in ("name", "betas", "ema_warmup", "states", "padding"):
        del groups["base"]["optim"][later]
    del groups["model"]["name"], groups["diffusion"]["name"]
    del groups["model"]["conditions"], groups["diffusion"]["condition_drop"]
    assert base_key(mixed) != content_key(2, corpus_key(mixed), groups)  # whose times hung on places
