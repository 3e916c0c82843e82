"""Generations with every step kept, and what is read from those of a base and of a rounded model."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from spaces.config import SamplingConfig, TrialConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.masked.config import MaskedConfig
from trainable.diffusion.masked.process import Masked
from trainable.diffusion.rollouts import rollout
from trainable.metrics.rollouts import CommitFlips, ErrorByStep, StabilityLagMetric
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(8))]
LENGTH, STEPS, ROWS = 9, 4, 6


def built(kind: str):
    """A model and its process."""
    if kind == "gaussian":
        process = Gaussian(GaussianConfig(timesteps=20, loss="ce"))
        params = DiffusionLMConfig(embedding_dim=8, hidden=16, layers=1, heads=2, ffn=16, time_dim=4,
                                   positions=LENGTH, dropout=0.0, self_conditioning=True)
        made = DiffusionLM(params, process.params, WORDS, seed=1)
        return made.eval().requires_grad_(False), process
    own = MaskedLMConfig(hidden=16, layers=1, heads=2, ffn=16, positions=LENGTH, self_conditioning=True)
    return MaskedLM(own, len(WORDS), seed=1).eval().requires_grad_(False), Masked(MaskedConfig())


def sampling(kind: str) -> SamplingConfig:
    return SamplingConfig(steps=STEPS, temperature=0.7,
                          sampler="quota" if kind == "masked" else "ancestral")


def drawn(kind: str, seed: int = 0):
    return rollout(*built(kind), sampling(kind), ROWS, LENGTH, torch.Generator().manual_seed(seed))


def measurable(kind: str, model, base) -> SimpleNamespace:
    name = {"masked": "masked_lm", "gaussian": "diffusion_lm"}[kind]
    settings = TrialConfig.model_validate({
        "corpus": {"max_length": LENGTH}, "evaluation": {"samples": ROWS}, "diffusion": {"name": kind},
        "sampling": sampling(kind), "model": {"name": name}})
    return SimpleNamespace(config=settings, model=model, process=built(kind)[1], share=1.0,
                           base_artifact=None, device=torch.device("cpu"), facts={"base": "base"},
                           cache={("kl_to_base", "base"): ("base", base)},
                           generator=lambda purpose: torch.Generator().manual_seed(len(purpose)))


def test_a_masked_text_is_committed_in_random_order_position_by_position():
    found = drawn("masked")
    assert (found.committed[:, 0] == -1).all() and found.final[:, 0].unique().tolist() == [0]
    counts = torch.stack([(found.committed == step).sum(1) for step in range(STEPS)], 1)
    assert (counts == (LENGTH - 1) // STEPS).all() and found.committed.unique(dim=0).shape[0] == ROWS
    mask = built("masked")[0].mask_id
    for step, state in enumerate(found.states):
        assert torch.equal(state.state == mask, found.committed >= step)
        assert torch.equal(found.open[:, step], state.corrupted)
        seen = found.committed < step
        assert torch.equal(state.state[seen], found.final[seen])


def test_under_gaussian_noise_a_token_is_committed_when_it_stays():
    found, (net, _) = drawn("gaussian"), built("gaussian")
    choice = torch.stack([net.predict(each.state, each.t, each.previous).log_probs.argmax(-1)
                          for each in found.states])
    assert len(choice) == len(found.states) >= STEPS and torch.equal(choice[-1], found.final)
    for row, position in ((0, 1), (3, 5)):
        step = int(found.committed[row, position])
        assert (choice[step:, row, position] == found.final[row, position]).all()
        assert step == 0 or choice[step - 1, row, position] != found.final[row, position]


@pytest.mark.parametrize("kind", ["masked", "gaussian"])
def test_equal_generators_give_equal_texts_and_others_do_not(kind):
    one, two, other = drawn(kind), drawn(kind), drawn(kind, seed=1)
    assert torch.equal(one.final, two.final) and torch.equal(one.guesses, two.guesses)
    assert not torch.equal(one.guesses, other.guesses)
    assert one.confidence.shape == (ROWS, len(one.states), LENGTH) and (one.confidence <= 1).all()


@pytest.mark.parametrize("kind", ["masked", "gaussian"])
def test_a_model_is_its_own_base_and_a_changed_one_is_not(kind):
    base = built(kind)[0]
    other, noise = copy.deepcopy(base), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in other.named_parameters():
            if name.startswith(("body", "down")) and value.ndim == 2:
                value.add_(0.15 * torch.randn(value.shape, generator=noise))
    same, changed = measurable(kind, copy.deepcopy(base), base), measurable(kind, other, base)
    flips, lag, error = (cls(cls.Params()) for cls in (CommitFlips, StabilityLagMetric, ErrorByStep))
    assert flips.measure(same) == {"commit_flips": 0, "commit_flips_se": 0}
    own = lag.measure(same)
    assert own["stability_lag"] == own["stability_lag_base"]
    assert set(error.measure(same).values()) == {0.0}
    found = flips.measure(changed) | error.measure(changed)
    assert 0 < found["commit_flips"] <= 1
    assert found["error_by_step"] > 0
    if found["error_by_step_first"]:
        ratio = found["error_by_step"] / found["error_by_step_first"]
        assert found["error_by_step_growth"] == pytest.approx(ratio)
    if kind == "gaussian":  # what the base has committed it goes on choosing, by definition
        assert own["stability_lag"] == 0 <= lag.measure(changed)["stability_lag"]


@pytest.mark.parametrize("cls", [CommitFlips, StabilityLagMetric, ErrorByStep])
def test_without_a_base_there_is_nothing_to_compare_with(cls):
    m = measurable("masked", built("masked")[0], None)
    m.facts = {}
    assert cls(cls.Params()).measure(m) == {}
