"""`optim.padding`: `batch` and `pairs` compute nothing behind the longest text of a batch, and all else
stays; a position of `pairs` weighs what it does under `full`."""

import numpy as np
import pytest
import torch

from spaces.config import OptimConfig, RuntimeConfig, TrialConfig
from trainable.control.conditions import Conditions
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.stages.keys import base_settings
from trainable.stages.prepare import base_key
from trainable.training.batches import STRIDE, occupied
from trainable.training.loop import TrainingRun

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
LENGTH = 24


def texts(*lengths: int, count: int = 8) -> np.ndarray:
    """`count` rows for each number of words, START and END around them."""
    rng, rows = np.random.default_rng(0), []
    for words in np.repeat(lengths, count):
        row = np.full(LENGTH, PAD, dtype=np.int32)
        row[:words + 2] = [START, *rng.integers(4, len(WORDS), words), END]
        rows.append(row)
    return np.array(rows)


class Recording:
    """The Gaussian process, with what it was given."""

    def __init__(self, config):
        self.process, self.shapes, self.told = Gaussian(config), [], []

    def loss(self, model, ids, generator, condition=None):
        self.shapes.append(tuple(ids.shape))
        self.told.append(condition)
        assert (ids != PAD).any(0)[:-STRIDE].all()
        return self.process.loss(model, ids, generator, condition)


def run(ids, padding, steps=6, conditions=None, process=None, **model):
    config = GaussianConfig(loss="ce", timesteps=50)
    shape = {"embedding_dim": 6, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8,
             "dropout": 0.0, **model}
    denoiser = DiffusionLM(DiffusionLMConfig(**shape), config, WORDS, 1)
    optim = OptimConfig(steps=steps, batch_size=8, lr=5e-3, warmup=2, padding=padding)
    return TrainingRun(denoiser, process or Gaussian(config), ids, optim, RuntimeConfig(), 7,
                       torch.device("cpu"), conditions=conditions)


@pytest.mark.parametrize(("words", "positions"), [(1, 4), (2, 4), (3, 8), (6, 8), (7, 12), (22, 24)])
def test_a_batch_ends_with_its_longest_text_in_whole_strides(words, positions):
    assert occupied(torch.from_numpy(texts(1, words))) == positions


def test_a_row_of_no_whole_strides_is_not_exceeded():
    assert occupied(torch.from_numpy(texts(20)[:, :22])) == 22


def test_each_batch_is_as_long_as_it_needs():
    process = Recording(GaussianConfig(loss="ce", timesteps=50))
    trained = run(texts(3, 9), "batch", process=process)
    trained.advance(6)
    longest = [int((trained.batches.at(step) != PAD).sum(1).max()) for step in range(6)]
    assert [shape[1] for shape in process.shapes] == [-(-one // STRIDE) * STRIDE for one in longest]
    process = Recording(GaussianConfig(loss="ce", timesteps=50))
    run(texts(22), "full", process=process).advance(2)
    assert process.shapes == [(8, LENGTH)] * 2


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_texts_without_padding_train_the_same_weights(self_conditioning):
    full, batch = (run(texts(22), padding, self_conditioning=self_conditioning)
                   for padding in ("full", "batch"))
    full.advance(6), batch.advance(6)
    for name, value in full.trained.items():
        assert torch.equal(value, batch.trained[name]), name


def test_short_texts_train_as_if_positions_were_no_more():
    long, short = run(texts(6), "batch"), run(texts(6)[:, :8], "full")
    long.advance(6), short.advance(6)
    for name, value in short.trained.items():
        assert torch.equal(value, long.trained[name]), name


def test_what_a_model_is_told_ends_with_the_text():
    ids = texts(6)
    told = torch.zeros(len(ids), 1, 1, LENGTH, dtype=torch.int16)
    told[..., :8] = 1
    process = Recording(GaussianConfig(loss="ce", timesteps=50))

    class Deaf(Recording):
        def loss(self, model, ids, generator, condition=None):
            assert condition is not None and condition.shape[-1] == ids.shape[1] == 8
            return super().loss(model, ids, generator)

    process = Deaf(GaussianConfig(loss="ce", timesteps=50))
    run(ids, "batch", conditions=Conditions([told], 0.0), process=process).advance(3)
    assert process.shapes == [(8, 8)] * 3


@pytest.mark.parametrize("words", [2, 6, 22])
def test_a_position_of_pairs_weighs_what_it_does_among_all(words):
    """One batch is an epoch, so that `batch` and `pairs` have the same texts, times and noise."""
    batch, pairs = (run(texts(words), padding) for padding in ("batch", "pairs"))
    batch.config, pairs.config = (one.config.model_copy(update={"clip": 0.0}) for one in (batch, pairs))
    batch.advance(1), pairs.advance(1)
    share = min(LENGTH, -(-(words + 2) // STRIDE) * STRIDE) / LENGTH
    for name, value in batch.trained.items():
        assert torch.allclose(pairs.trained[name].grad, value.grad * share, rtol=1e-5, atol=1e-8), name


def test_a_loss_that_adds_words_up_needs_no_weights_of_pairs():
    class Sum(Gaussian):
        averages = False

    batch, pairs = (run(texts(3), padding, process=Sum(GaussianConfig(loss="ce", timesteps=50)))
                    for padding in ("batch", "pairs"))
    batch.advance(1), pairs.advance(1)
    assert all(torch.equal(pairs.trained[name].grad, value.grad) for name, value in batch.trained.items())


def test_pairs_tell_the_loss_of_a_position_as_the_others_do():
    batch, pairs = (run(texts(6), padding) for padding in ("batch", "pairs"))
    assert batch.advance(1) == pairs.advance(1)


def test_pairs_are_as_wide_as_they_need():
    process = Recording(GaussianConfig(loss="ce", timesteps=50))
    trained = run(texts(3, 9, 15, 20), "pairs", process=process)
    trained.advance(6)
    assert [shape[1] for shape in process.shapes] == [occupied(trained.batches.at(step)) for step in range(6)]
    assert {shape[0] for shape in process.shapes} == {8} and len({shape[1] for shape in process.shapes}) > 1


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_pairs_go_on_in_their_middle_as_if_never_stopped(steps):
    ids = texts(2, 5, 9, 20)
    whole, broken, rest = (run(ids, "pairs") for _ in range(3))
    whole.advance(6), broken.advance(steps)
    state = broken.state()
    rest.load_state({**state, "trained": {name: value.clone() for name, value in state["trained"].items()}})
    rest.advance(6)
    assert all(torch.equal(value, rest.trained[name]) for name, value in whole.trained.items())


def test_bases_of_caches_from_before_stay_good_and_others_get_a_key_of_their_own():
    plain = TrialConfig()
    assert "padding" not in base_settings(plain)["base"]["optim"]
    keys = {base_key(plain)}
    for padding in ("batch", "pairs"):
        shorter = plain.model_copy(update={"base": plain.base.model_copy(update={
            "optim": plain.base.optim.model_copy(update={"padding": padding})})})
        assert base_settings(shorter)["base"]["optim"]["padding"] == padding
        keys.add(base_key(shorter))
    assert len(keys) == 3


@pytest.mark.parametrize("padding", ["batch", "pairs"])
def test_a_teacher_has_no_such_choice(padding):
    with pytest.raises(ValueError, match="a teacher never trains on what is behind a text"):
        TrialConfig.model_validate({"teacher": {"optim": {"padding": padding}}})
