"""The training loop: learns, resumes exactly, averages, refuses to go on with a loss that is not a number."""

import math

import numpy as np
import pytest
import torch

from spaces.config import OptimConfig, RuntimeConfig
from spaces.errors import UserError
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.losses import draw_times
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.seeds import stream, stream_seed
from trainable.training import loop
from trainable.training.batches import Batches
from trainable.training.loop import TrainingRun
from trainable.training.optimizer import learning_rate

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)


def run(steps=20, precision="fp32", ema=0.0, ids=IDS, **model):
    shape = dict(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=16, time_dim=8, dropout=0.0,
                 self_conditioning=True)
    denoiser = DiffusionLM(DiffusionLMConfig(**{**shape, **model}),
                           GaussianConfig(loss="ce", timesteps=50), WORDS, 1)
    optim = OptimConfig(steps=steps, batch_size=8, lr=5e-3, warmup=3, ema=ema)
    return TrainingRun(denoiser, Gaussian(GaussianConfig(loss="ce", timesteps=50)), ids, optim,
                       RuntimeConfig(precision=precision), 7, torch.device("cpu"))


def test_training_learns_constant_text():
    ids = np.tile(np.array([[0, 5, 6, 7, 1, 3]], dtype=np.int32), (40, 1))
    learner = run(steps=150, ids=ids)
    first = learner.advance(10)["train_loss"]
    assert learner.advance(150)["train_loss"] < 0.3 * first


def test_a_resumed_run_ends_where_an_unbroken_one_does():
    whole, broken = run(ema=0.9), run(ema=0.9)
    whole.advance(20)
    broken.advance(8)
    state = broken.state()
    torch.manual_seed(99)
    resumed = run(ema=0.9)
    resumed.load_state({**state, "trained": {k: v.clone() for k, v in state["trained"].items()}})
    resumed.advance(20)
    for a, b in zip(whole.trained.values(), resumed.trained.values(), strict=True):
        assert torch.equal(a, b)
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name])


def test_only_trainable_parameters_move():
    learner = run()
    learner.model.body.requires_grad_(False)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    fresh = TrainingRun(learner.model, Gaussian(GaussianConfig(loss="ce", timesteps=50)), IDS,
                        OptimConfig(steps=5, batch_size=8, lr=1e-2), RuntimeConfig(), 0, torch.device("cpu"))
    fresh.advance(5)
    moved = {name
             for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("body.") for name in moved)


def test_averaged_weights_are_swapped_in_and_out():
    learner = run(ema=0.9)
    learner.advance(15)
    name, now = next((n, v.detach().clone()) for n, v in learner.trained.items() if n.startswith("down"))
    with learner.averaged():
        assert torch.equal(learner.trained[name], learner.average[name])
        assert not torch.equal(learner.trained[name], now)
    assert torch.equal(learner.trained[name], now)


def test_a_loss_that_is_not_finite_ends_the_run():
    learner = run()
    learner.model.down[-1].bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="training loss is nan at step"):
        learner.advance(20)


def test_bf16_trains_close_to_fp32():
    full, half = run(steps=30), run(steps=30, precision="bf16")
    assert half.advance(30)["train_loss"] == pytest.approx(full.advance(30)["train_loss"], rel=0.05)


def test_learning_rate_warms_up_and_ends_at_its_share():
    config = OptimConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9], rel=0.02)
    assert (rates[99] == pytest.approx(0.1 + 0.9 * 0.01)
            and all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)))


def test_workers_share_each_batch_and_epochs_cover_everything():
    ids = np.arange(24, dtype=np.int32)[:, None]
    shares = [Batches(ids, 8, 0, rank, 2) for rank in (0, 1)]
    for epoch in (0, 1):
        rows = [[tuple(share.at(3 * epoch + i).flatten().tolist()) for share in shares] for i in range(3)]
        assert all(len(a) == len(b) == 4 for a, b in rows)
        assert sorted(x for pair in rows for part in pair for x in part) == list(range(24))
    assert not torch.equal(shares[0].at(0), shares[0].at(3))
    assert torch.equal(shares[0].at(1), Batches(ids, 8, 0, 0, 2).at(1))


def test_a_batch_that_the_text_cannot_fill_is_still_shared_equally():
    ids = np.arange(7, dtype=np.int32)[:, None]
    shares = [Batches(ids, 63, 0, rank, 3).at(0).flatten().tolist() for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert len({row for share in shares for row in share}) == 6


@pytest.mark.parametrize("rows, batch, workers", [(40, 2, 3), (40, 8, 3), (2, 3, 3), (0, 1, 1)])
def test_batches_that_cannot_be_shared_equally_are_refused(rows, batch, workers):
    with pytest.raises(UserError, match=r"^hardware.workers: \d workers cannot share [^\n]*; legal: [^\n]*$"):
        Batches(np.zeros((rows, 4), dtype=np.int32), batch, 0, 0, workers)


STEPS, BATCH, ROWS, BINS = 3000, 32, 640, 4
CHI_SQUARE = {9: 27.877, 27: 55.476}
"""Quantiles 0.999 by degrees of freedom."""


def chi_square(table: np.ndarray) -> float:
    """Pearson's statistic of independence of the two sides of a table of counts."""
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("mixed", [0.0, 0.9])
def test_neither_the_kind_of_times_nor_the_time_hangs_on_a_texts_place_in_the_corpus(mixed):
    """Counts over 3,000 steps as `TrainingRun` draws them, by the tenth of the corpus that a text stands
    in."""
    batches, generator = Batches(np.zeros((ROWS, 6), dtype=np.int32), BATCH, 7, 0, 1), torch.Generator()
    alone, bins = np.zeros(ROWS), np.zeros((10, BINS))
    for step in range(STEPS):
        rows, ids = batches.rows(step), batches.at(step)
        times = draw_times(ids, 1000, mixed, generator.manual_seed(stream_seed(7, step, 0))).view(BATCH, -1)
        one = (times.max(1).values == times.min(1).values).numpy()
        np.add.at(alone, rows[one], 1)
        np.add.at(bins, (rows[one] * 10 // ROWS, times[one, 0].numpy() * BINS // 1000), 1)
    seen = STEPS * BATCH / ROWS
    assert alone.min() > 0 and alone.sum() == pytest.approx((1 - mixed) * STEPS * BATCH, rel=0.02)
    if mixed:
        shared = alone.reshape(10, -1).sum(1)
        assert chi_square(np.stack([shared, seen * ROWS / 10 - shared], 1)) < CHI_SQUARE[9]
    assert chi_square(bins) < CHI_SQUARE[27]


def test_compiled_on_cuda_alone_and_outside_of_ddp(monkeypatch):
    order = []

    def wrapper(name):
        return lambda module, **options: (order.append(name), module)[1]
    monkeypatch.setattr(loop.torch, "compile", wrapper("compile"))
    monkeypatch.setattr(loop, "DistributedDataParallel", wrapper("ddp"))
    runtime = RuntimeConfig(compile=True)
    cuda = torch.device("cuda", 0)
    assert loop.compiles(runtime, cuda) and not loop.compiles(RuntimeConfig(), cuda)

    def start(world_size):
        shape, process = DiffusionLMConfig(hidden=16, layers=1, heads=2, ffn=16), Gaussian(GaussianConfig())
        model, optim = DiffusionLM(shape, process.params, WORDS, 1), OptimConfig(steps=2, batch_size=8)
        return TrainingRun(model, process, IDS, optim, runtime, 7, torch.device("cpu"), 0, world_size)
    start(1).advance(1)
    assert order == []  # as its description says: nothing on a CPU
    monkeypatch.setattr(loop, "compiles", lambda runtime, device: runtime.compile)
    start(2)
    assert order == ["ddp", "compile"]


def test_streams_differ_by_every_part_and_are_the_same_everywhere():
    assert stream_seed("a", 1) == 7037789057018509895
    seeds = {stream_seed(*parts) for parts in (("a", 1), ("a", 2), ("b", 1), (1, "a"), ("a", 1, 0))}
    assert len(seeds) == 5
    assert torch.equal(torch.rand(3, generator=stream("x", 4)), torch.rand(3, generator=stream("x", 4)))


@pytest.mark.parametrize("size", [0.01, 100.0, math.nan])
def test_gradients_are_clipped_as_torch_does(size):
    """Those that are short enough stay as they are; what is no number is none afterwards too."""
    values = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2,))]
    draw = torch.Generator().manual_seed(0)
    gradients = [size * torch.randn(value.shape, generator=draw) for value in values[:2]]

    def clipped(clip):
        for value, gradient in zip(values, gradients, strict=False):
            value.grad = gradient.clone()
        clip(values, 1.0)
        return [value.grad for value in values[:2]]

    for right, found in zip(clipped(torch.nn.utils.clip_grad_norm_), clipped(loop.clip), strict=True):
        assert torch.equal(right.nan_to_num(7), found.nan_to_num(7))
    assert values[2].grad is None
