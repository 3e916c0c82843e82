"""Schedules, samplers, losses and the likelihood bound against published constants and float64 arithmetic."""

import math

import numpy as np
import pytest
import torch
from guides import Latents

from spaces.config import PluginRef, SamplingConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.likelihood import bound_parts, levels, stratified_times, time_weights
from trainable.diffusion.gaussian.losses import draw_times, token_nll, training_loss
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule, randn
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.diffusion_lm.embedding import nearest_rows
from trainable.registry import GAUSSIAN_SAMPLERS

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(16))]


def model(loss="ce", **changes):
    config = DiffusionLMConfig(**{**dict(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=16, time_dim=8,
                                         dropout=0.0), **changes})
    return DiffusionLM(config, GaussianConfig(loss=loss, timesteps=100), WORDS).eval()


def test_sqrt_schedule_has_the_published_constants():
    schedule = Schedule.make("sqrt", 2000)
    assert 1 - float(schedule.alpha_bar[0]) == pytest.approx(0.014641, abs=1e-6)
    assert math.sqrt(1 - float(schedule.alpha_bar[0])) == pytest.approx(0.1210, abs=1e-4)
    assert float(schedule.alpha_bar[-1]) == pytest.approx(2.0e-7, rel=0.05)
    assert math.sqrt(1 - float(Schedule.make("sqrt", 200).alpha_bar[0])) == pytest.approx(0.2491, abs=1e-4)


@pytest.mark.parametrize("name", ["sqrt", "cosine"])
def test_schedules_fall_and_times_run_from_last_to_first(name):
    schedule = Schedule.make(name, 300)
    assert (schedule.alpha_bar.diff() < 0).all() and 0 < schedule.alpha_bar[-1] < schedule.alpha_bar[0] < 1
    for steps in (2, 7, 300, 999):
        times = schedule.times(steps)
        assert (len(times) == min(steps, 300) and times[0] == 299 and times[-1] == 0
                and times == sorted(times)[::-1])
    assert schedule.times(1) == [299]


@pytest.mark.parametrize("timesteps", [10, 11, 137, 200])
def test_a_schedule_has_as_many_times_as_asked_for(timesteps):
    schedule = Schedule.make("sqrt", timesteps)
    for steps in range(1, timesteps + 1):
        assert len(set(schedule.times(steps))) == steps


@pytest.mark.parametrize("name", ["sqrt", "cosine"])
def test_the_posterior_is_exact_between_neighboring_times(name):
    """Variance and mean of q(x_s | x_t, x_0) from Python's own float64, by the product of (1 - beta)."""
    steps = 2000
    curve = {"sqrt": lambda u: 1 - math.sqrt(u + 1e-4),
             "cosine": lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2}[name]
    betas = [min(1 - curve((i + 1) / steps) / curve(i / steps), 0.999) for i in range(steps)]
    alpha = np.cumprod([1 - beta for beta in betas])
    schedule, sampler = Schedule.make(name, steps), GAUSSIAN_SAMPLERS.build(PluginRef(name="ancestral"))
    for t in (1, 2, 50, 1000, 1998, 1999):
        x_t = torch.ones(1, dtype=torch.float64)
        mean, std = sampler.step(x_t, 0 * x_t, schedule.alpha_bar[t], schedule.alpha_bar[t - 1])
        share = (1 - alpha[t - 1]) / (1 - alpha[t])
        assert float(std) ** 2 == pytest.approx(betas[t] * share, rel=1e-9)
        assert float(mean) == pytest.approx(math.sqrt(1 - betas[t]) * share, rel=1e-9)


@pytest.mark.parametrize("steps, told", [(1, [99]), (2, [99, 0])])
def test_the_model_is_told_that_the_first_latent_is_noise(steps, told, monkeypatch):
    process, seen = GaussianSampling(model(), Schedule.make("sqrt", 100), SamplingConfig(steps=steps)), []
    predict = process.model.predict

    def spy(x, t, *rest):
        seen.append(t.tolist())
        return predict(x, t, *rest)
    monkeypatch.setattr(process.model, "predict", spy)
    ids = process.sample(3, 9, torch.Generator().manual_seed(1))
    assert ids.shape == (3, 9) and seen == [[t] * 3 for t in told]


@pytest.mark.parametrize("name", list(GAUSSIAN_SAMPLERS))
def test_every_sampler_keeps_the_marginal_of_the_forward_process(name):
    """With the true x0 known, stepping from x_t must land on q(x_s | x0): same mean, same variance."""
    schedule = Schedule.make("sqrt", 100)
    alpha = schedule.alpha_bar
    t, s, n = 80, 30, 200_000
    g = torch.Generator().manual_seed(0)
    x0 = torch.full((n,), 0.7)
    x_t = float(alpha[t].sqrt()) * x0 + float((1 - alpha[t]).sqrt()) * torch.randn(n, generator=g)
    mean, sigma = GAUSSIAN_SAMPLERS.build(PluginRef(name=name)).step(x_t, x0, alpha[t], alpha[s])
    x_s = mean + float(sigma) * torch.randn(n, generator=g)
    assert float(x_s.mean()) == pytest.approx(0.7 * float(alpha[s].sqrt()), abs=0.01)
    assert float(x_s.var()) == pytest.approx(1 - float(alpha[s]), rel=0.02)


def test_ddim_with_eta_one_is_ancestral():
    alpha = Schedule.make("cosine", 50).alpha_bar
    x, x0 = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    first = GAUSSIAN_SAMPLERS.build(PluginRef(name="ancestral")).step(x, x0, alpha[40], alpha[20])
    second = GAUSSIAN_SAMPLERS.build(PluginRef(name="ddim", eta=1.0)).step(x, x0, alpha[40], alpha[20])
    assert (torch.allclose(first[0], second[0], atol=1e-5)
            and float(first[1]) == pytest.approx(float(second[1])))


def test_sampling_is_a_function_of_its_generator_and_restores_the_mode():
    process = GaussianSampling(model(self_conditioning=True), Schedule.make("sqrt", 100),
                               SamplingConfig(steps=7))
    process.model.down[0].weight.data.mul_(30)  # an untrained denoiser says one word whatever it sees
    process.model.train()
    first = process.sample(3, 9, torch.Generator().manual_seed(1))
    assert first.shape == (3, 9) and process.model.training
    assert torch.equal(first, process.sample(3, 9, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, process.sample(3, 9, torch.Generator().manual_seed(2)))


def test_guide_sees_every_step_but_the_last_and_can_steer():
    process = GaussianSampling(model(), Schedule.make("sqrt", 100), SamplingConfig(steps=6))
    seen = []

    def guide(x, t, mean, sigma, predict, step):
        seen.append((step, int(t[0])))
        assert predict(x, t).log_probs.shape == (2, 9, 20)
        return x
    plain = process.sample(2, 9, torch.Generator().manual_seed(1))
    assert torch.equal(plain, process.sample(2, 9, torch.Generator().manual_seed(1), Latents(guide)))
    assert seen == list(enumerate(Schedule.make("sqrt", 100).times(6)[1:]))


def test_clamped_latents_are_rows_of_the_table():
    denoiser = model("mse")
    process = GaussianSampling(denoiser, Schedule.make("sqrt", 100), SamplingConfig(clamp=True))
    x0 = process.predict(torch.randn(2, 5, 6), torch.tensor([50, 50]), None).x0
    rows = denoiser.table()
    assert torch.allclose(torch.cdist(x0, rows[None].expand(2, -1, -1)).min(-1).values, torch.zeros(2, 5),
                          atol=1e-3)
    latents = torch.randn(4, 3, 6)
    brute = torch.cdist(latents.double(), rows.double()[None].expand(4, -1, -1)).argmin(-1)
    assert torch.equal(nearest_rows(latents, rows), rows[brute])


def test_published_loss_is_the_sum_of_its_three_terms():
    denoiser = model("mse")
    ids = torch.randint(0, 20, (8, 5), generator=torch.Generator().manual_seed(0))
    schedule = Schedule.make("sqrt", 100)
    parts = training_loss(denoiser, ids, schedule, torch.Generator().manual_seed(3))
    # the same draws, in the same order, and the formulas written out again
    g = torch.Generator().manual_seed(3)
    u = (torch.rand((), generator=g) + torch.arange(8) / 8) % 1
    t = (u * 100).long()
    table, alpha = denoiser.table().detach(), schedule.alpha_bar
    clean = table[ids]
    x0 = clean + (1 - alpha[0]).sqrt() * randn(clean.shape, g, "cpu")
    signal, std = alpha[t].sqrt()[:, None, None].float(), (1 - alpha[t]).sqrt()[:, None, None].float()
    x_t = signal * x0 + std * randn(clean.shape, g, "cpu")
    target = torch.stack([clean[i] if t[i] == 0 else x0[i] for i in range(8)])
    mse = ((denoiser(x_t, t) - target) ** 2).mean()
    logits = (x0 @ table.T + denoiser.rounding.bias).detach().double().numpy()
    logits -= logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rounding = -np.take_along_axis(log_probs, ids[..., None].numpy(), -1).mean()
    prior = float(alpha[-1]) * float((x0**2).mean())
    assert float(parts["mse"]) == pytest.approx(float(mse.detach()), rel=1e-5)
    assert float(parts["rounding"]) == pytest.approx(rounding, rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(float(mse.detach()) + rounding + prior, rel=1e-5)


@pytest.mark.parametrize("sharpness", [1.0, 20.0, 200.0])
def test_cross_entropy_by_probabilities_is_torchs_own(sharpness):
    """Words that are all but impossible among them."""
    g = torch.Generator().manual_seed(0)
    logits, ids = sharpness * torch.randn(6, 9, 30, generator=g), torch.randint(0, 30, (6, 9), generator=g)
    found, plain = logits.clone().requires_grad_(True), logits.clone().requires_grad_(True)
    nll = token_nll(found, ids)
    wanted = torch.nn.functional.cross_entropy(plain.flatten(0, 1), ids.flatten(), reduction="none")
    assert (sharpness == 1) == bool((wanted < 60).all())
    torch.testing.assert_close(nll.flatten(), wanted, rtol=2e-6, atol=2e-6)
    weight = torch.rand(6, 9, generator=g)
    ((nll * weight).sum() + (wanted.view(6, 9) * weight).sum()).backward()
    torch.testing.assert_close(found.grad, plain.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_bound_weights_telescope_to_the_total_snr_and_times_are_stratified(loss):
    signal, variance = levels(Schedule.make("sqrt", 200), loss)
    weights, proposal = time_weights(signal, variance)
    snr = signal**2 / variance
    assert float(weights.sum()) == pytest.approx(float(snr[0] - snr[-1]) / 2) and (weights > 0).all()
    assert float(proposal.sum()) == pytest.approx(1)
    times = stratified_times(proposal, 4000, torch.Generator().manual_seed(0))
    assert times.min() >= 1 and times.max() <= 199
    estimate = (weights / proposal)[times - 1].mean()
    assert float(estimate) == pytest.approx(float(weights.sum()), rel=0.01)


def test_bound_equals_the_exact_likelihood_of_a_model_that_knows_the_answer():
    """One-word sentences, posterior computed by Bayes' rule: the bound must lie above -log
    p(w) and near it."""
    table = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * 2**0.5

    class Bayes(torch.nn.Module):
        def __init__(self, schedule):
            super().__init__()
            self.diffusion = GaussianConfig(loss="ce", timesteps=schedule.timesteps)
            self.alpha = schedule.alpha_bar.float()

        def embed(self, ids):
            return table[ids]

        def predict(self, x, t, *_):
            from trainable.models.prediction import Prediction
            a, s2 = self.alpha[t].sqrt()[:, None, None, None], (1 - self.alpha[t])[:, None, None, None]
            log_probs = (-((x[:, :, None] - a * table) ** 2) / (2 * s2)).sum(-1).log_softmax(-1)
            return Prediction(log_probs.exp() @ table, log_probs)

    schedule = Schedule.make("sqrt", 400)
    ids = torch.arange(4).repeat(500)[:, None]
    parts = bound_parts(Bayes(schedule), schedule, ids, 200, torch.Generator().manual_seed(0))
    bound = float(sum(parts.values()).mean())
    assert math.log(4) - 0.02 < bound < math.log(4) + 0.05


def test_times_are_stratified_and_mixed_for_the_asked_share():
    ids = torch.zeros(200, 7, dtype=torch.long)
    alike = draw_times(ids, 1000, 0.0, torch.Generator().manual_seed(0))
    assert alike.shape == (200,) and sorted((alike // 5).tolist()) == pytest.approx(list(range(200)), abs=1)
    mixed = draw_times(ids, 150 * 64, 0.25, torch.Generator().manual_seed(0))
    varied = (mixed.max(1).values > mixed.min(1).values)
    assert mixed.shape == (200, 7) and int(varied.sum()) == 50 and mixed.min() >= 0 and mixed.max() < 150 * 64
    assert not varied[:50].all() and varied[50:].any()  # which rows these are is drawn
    places = mixed[~varied, 0].double() / 64  # one in each of 150 slices of the schedule, all as far into it
    assert sorted(places.long().tolist()) == list(range(150))
    assert float((places % 1).max() - (places % 1).min()) < 1 / 32


@pytest.mark.parametrize("batch, mixed, counts",
                         [(8, 0.95, {7, 8}), (4, 0.1, {0, 1}), (10, 0.9, {9}), (3, 1.0, {3})])
def test_the_share_of_mixed_times_holds_on_average_in_batches_of_any_size(batch, mixed, counts):
    generator, ids = torch.Generator().manual_seed(0), torch.zeros(batch, 12, dtype=torch.long)
    found = []
    for _ in range(3000):
        times = draw_times(ids, 10**6, mixed, generator).view(batch, -1)
        found.append(int((times.max(1).values > times.min(1).values).sum()))
    assert set(found) == counts and sum(found) / (3000 * batch) == pytest.approx(mixed, abs=0.008)


def test_one_time_per_word_equals_one_time_per_sentence_when_they_agree():
    denoiser, x = model(), torch.randn(3, 5, 6)
    t = torch.tensor([2, 50, 99])
    assert torch.allclose(denoiser(x, t), denoiser(x, t[:, None].expand(3, 5)), atol=1e-6)
    schedule = Schedule.make("sqrt", 100)
    both = [schedule.noise(x, times, torch.Generator().manual_seed(0))
            for times in (t, t[:, None].expand(3, 5))]
    assert torch.equal(*both)
