"""Threads that are borrowed while others idle: they change the order of sums, and no more."""

import numpy as np
import pytest
import torch

from spaces.config import OptimConfig, RuntimeConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.training.loop import TrainingRun
from trainable.training.threads import RETRY, BorrowedThreads

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]


@pytest.fixture(autouse=True)
def own_threads():
    """Leave the process as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def losses(spare):
    """Of eight steps of a model that is large enough for threads to share its work; and who took part."""
    gaussian = GaussianConfig(loss="ce", timesteps=50, mixed_times=0.9)
    shape = DiffusionLMConfig(embedding_dim=16, hidden=64, layers=1, heads=4, ffn=128, time_dim=16,
                              dropout=0.1, self_conditioning=True)
    ids = np.random.default_rng(0).integers(4, 16, size=(256, 18)).astype(np.int32)
    torch.manual_seed(0)  # of dropout
    run = TrainingRun(DiffusionLM(shape, gaussian, WORDS, 1), Gaussian(gaussian), ids,
                      OptimConfig(steps=8, batch_size=64, lr=1e-3, ema=0.9), RuntimeConfig(), 7,
                      torch.device("cpu"))
    found, threads, now = [], [], [0.0]

    def clock():  # more threads are quicker
        now[0] += 1 / torch.get_num_threads()
        return now[0]

    with BorrowedThreads(1, lambda: spare, every=0.0, clock=clock) as run.between:
        for step in range(8):
            threads.append(torch.get_num_threads())
            found.append(run.advance(step + 1)["train_loss"])
    assert torch.get_num_threads() == 1
    return found, threads


def test_the_losses_do_not_depend_on_how_many_take_part():
    alone, threads = losses(0)
    assert threads == [1] * 8
    for spare in (1, 3):
        more, threads = losses(spare)
        assert threads == {1: [1, *[2] * 7], 3: [1, 2, *[4] * 6]}[spare]
        assert more == pytest.approx(alone, rel=1e-4)
        assert len(set(more)) == 8


def chosen(seconds, spare, every=2.0, steps=12):
    """The number of threads after each of some steps, of which one takes `seconds` by that number."""
    now = [0.0]
    told = iter(spare)
    found = []
    with BorrowedThreads(1, lambda: next(told, 0), every, clock=lambda: now[0]) as threads:
        for _ in range(steps):
            now[0] += seconds[torch.get_num_threads()]
            threads()
            found.append(torch.get_num_threads())
    return found


def test_idle_processors_are_asked_for_now_and_then_and_given_back():
    assert chosen({1: 1.0, 2: 0.5}, [1, 1, 0]) == [1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1]


def test_more_threads_that_are_no_faster_are_left():
    assert chosen({1: 1.0, 2: 2.0}, [2] * 12) == [1, 2, *[1] * 10]
    assert chosen({1: 1.0, 2: 0.5, 3: 0.75}, [2] * 12) == [1, *[2] * 4, *[3] * 3, *[2] * 4]


def test_they_are_tried_again_now_and_then():
    assert chosen({1: 1.0, 2: 2.0}, [1] * 99, steps=4 * RETRY).count(2) == 2
