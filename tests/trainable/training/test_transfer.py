"""A base that begins as a base of another corpus: what is taken over, what is not, and what decides its cache key."""

import pytest
import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export
from trainable.control.lexicon import Lexicon
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.stages.prepare import base_key, corpus_key
from trainable.storage.folders import content_key
from trainable.training.transfer import begin_from, start_key

SHAPE = {"model": {"embedding_dim": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "time_dim": 4, "positions": 64},
         "diffusion": {"timesteps": 20}}
THEIRS = ["START", "END", "UNK", "PAD", "pub", "the", "cheap"]
OURS = ["START", "END", "UNK", "PAD", "the", "river", "cheap", "inn"]


def config(start=None, **model):
    return TrialConfig.model_validate({**SHAPE, "model": {**SHAPE["model"], **model}, "base": {"start": start}})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An exported model over other words."""
    settings = config()
    model = DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion), THEIRS, seed=1)
    torch.nn.init.normal_(model.rounding.bias)
    return model, str(export(model, settings, Lexicon(THEIRS, 12, {}, "words"), tmp_path_factory.mktemp("a") / "base", {}))


def test_shared_words_and_the_body_are_taken_over_and_new_words_stay_fresh(source):
    theirs, path = source
    settings = config(path)
    model = DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion), OURS, seed=2)
    fresh = model.word_embedding.weight.detach().clone()
    facts = begin_from(model, settings, OURS)
    assert facts == {"words_shared": 6 / 8}
    for i, word in enumerate(OURS):
        known = word in THEIRS
        expected = theirs.word_embedding.weight[THEIRS.index(word)] if known else fresh[i]
        assert torch.equal(model.word_embedding.weight[i], expected)
        assert model.rounding.bias[i] == (theirs.rounding.bias[THEIRS.index(word)] if known else 0)
    held = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert value.shape != held[name].shape or name.startswith(("word_emb", "rounding")) or torch.equal(value, held[name])


def test_another_shape_is_refused(source):
    settings = config(source[1], hidden=16)
    with pytest.raises(UserError, match=r"base.start: .* has model.hidden=8, the space asks for 16"):
        begin_from(DiffusionLM(BACKBONES.params(settings.model), PROCESSES.params(settings.diffusion), OURS), settings, OURS)


def test_what_is_no_artifact_is_told(tmp_path):
    with pytest.raises(UserError, match="base.start: .* is not an artifact"):
        start_key(str(tmp_path))


def test_the_cache_key_depends_on_the_starts_bytes_and_not_on_its_place(source, tmp_path):
    import shutil
    copy = str(shutil.copytree(source[1], tmp_path / "copy"))
    assert base_key(config(source[1])) == base_key(config(copy)) != base_key(config())


def test_a_base_without_a_start_keeps_the_key_that_it_had_before_there_were_starts():
    settings = config()
    groups = completed(settings).model_dump(mode="json", include={"model", "diffusion", "base", "runtime"})
    del groups["base"]["start"], groups["model"]["name"], groups["diffusion"]["name"]
    del groups["model"]["conditions"], groups["diffusion"]["condition_drop"]  # came later too
    assert base_key(settings) == content_key(2, corpus_key(settings), groups)
