"""Equal to the released Diffusion-LM to float32, by numbers that `released_formulas` made in float64."""

import json
from types import SimpleNamespace

import pytest
import torch
from released_formulas import GOLDEN, X_0, X_T, released

from spaces.config import OptimConfig
from spaces.schema import load
from trainable.diffusion.gaussian import losses, schedule
from trainable.diffusion.gaussian.samplers import DDIM, Ancestral
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.training.loop import TrainingRun

NUMBERS = json.loads(GOLDEN.read_text())
SCHEDULES = [pytest.param(found, id=f"{found['name']}-{found['timesteps']}")
             for found in NUMBERS["schedules"]]
SINGLE = 2e-7  # float32's own precision, and a little


def flat(found):
    if isinstance(found, dict | list):
        items = found.values() if isinstance(found, dict) else found
        return [number for item in items for number in flat(item)]
    return [found] if not isinstance(found, str) else []


def test_the_file_is_what_the_formulas_give():
    assert flat(released()) == pytest.approx(flat(NUMBERS), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("found", SCHEDULES)
def test_schedules_are_the_released_ones(found):
    alpha_bar = Schedule.make(found["name"], found["timesteps"]).alpha_bar
    ours = {"first": alpha_bar[0], "middle": alpha_bar[found["timesteps"] // 2], "last": alpha_bar[-1]}
    for name, value in ours.items():
        assert float(value) == pytest.approx(found[name], rel=1e-12)


@pytest.mark.parametrize("found", SCHEDULES)
def test_steps_are_the_released_ones(found):
    alpha_bar = Schedule.make(found["name"], found["timesteps"]).alpha_bar
    x_t, x_0 = (torch.full((1, 1, 1), value) for value in (X_T, X_0))
    for wanted in found["steps"]:
        t = wanted["t"]
        for variance in ("small", "large"):
            sampler = Ancestral(Ancestral.Params(variance=variance))
            mean, sigma = sampler.step(x_t, x_0, alpha_bar[t], alpha_bar[t - 1])
            assert float(mean) == pytest.approx(wanted["mean"], rel=SINGLE, abs=SINGLE)
            assert float(sigma) == pytest.approx(wanted[variance], rel=1e-9)
        for eta in (0, 1):
            mean, sigma = DDIM(DDIM.Params(eta=eta)).step(x_t, x_0, alpha_bar[t], alpha_bar[t - 1])
            assert float(mean) == pytest.approx(wanted[f"ddim{eta}"], rel=2 * SINGLE, abs=2 * SINGLE)
            assert float(sigma) == pytest.approx(wanted[f"sigma{eta}"], rel=1e-9)


def test_the_loss_is_the_released_one(monkeypatch):
    given = {name: torch.tensor(value) for name, value in NUMBERS["loss"].items()}
    draws = iter([given["first"], given["second"]])
    for module in (losses, schedule):
        monkeypatch.setattr(module, "randn", lambda *_: next(draws))

    class Half(torch.nn.Module):
        def forward(self, x_t, t, x0_prev, condition):
            return 0.5 * x_t

        def table(self):
            return given["table"]

        def logits(self, x, table):
            return x @ table.T

    found = losses.published_loss(Half(), given["ids"], given["times"], Schedule.make("sqrt", 200),
                                  torch.Generator())
    for name in ("mse", "rounding", "prior", "loss"):
        assert found[name].tolist() == pytest.approx(given[name].tolist(), rel=5 * SINGLE), name


def test_an_average_without_warm_up_is_the_released_one():
    """p stays 1 and the average starts at 0: after n steps it is 1 - rate^n."""
    for warm, wanted in ((False, 1 - 0.9**3), (True, 1 - 2 / 11 * (3 / 12) * (4 / 13))):
        run = SimpleNamespace(step=0, config=OptimConfig(ema=0.9, ema_warmup=warm),
                              average={"p": torch.zeros(1)}, trained={"p": torch.ones(1)})
        for run.step in (1, 2, 3):
            TrainingRun._update_average(run)
        assert float(run.average["p"]) == pytest.approx(wanted, rel=1e-6)


def test_the_papers_space_trains_and_samples_as_released():
    space = load("e2e_paper")
    optim, adapt = space.example.base.optim, space.example.adapt.optim
    assert optim.betas == adapt.betas == (0.9, 0.999) and optim.ema == 0.9999 and not optim.ema_warmup
    assert space.example.sampling.sampler.model_dump() == {"name": "ancestral", "variance": "large"}
