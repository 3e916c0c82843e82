"""Schedules and times against derivatives and closed forms."""

import math

import pytest
import torch

from trainable.diffusion.masked.schedule import Schedule, draw_times


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_share_runs_from_none_to_all_and_the_rate_is_its_derivative(name):
    schedule = Schedule(name)
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    share = schedule.masked_share(t)
    slope, = torch.autograd.grad(share.sum(), t)
    share = share.detach()
    assert float(share[0]) == 0 and float(share[-1]) == pytest.approx(1) and (share.diff() > 0).all()
    assert torch.allclose(slope, schedule.rate(t.detach()))


def test_weights_are_those_of_the_published_programs():
    t = torch.tensor([0.001, 0.1, 0.5, 1.0], dtype=torch.float64)
    assert torch.equal(Schedule("linear").weight(t), 1 / t)
    assert torch.allclose(Schedule("linear").weight(t, 1e-6), 1 / (t + 1e-6))
    # dllm: alpha = 1 - cos(pi/2 (1 - t)), alpha' = -(pi/2) sin(pi/2 (1 - t)), w = -alpha'
    # / (1 - alpha + 1e-6)
    angle = math.pi / 2 * (1 - t)
    assert torch.allclose(Schedule("cosine").weight(t, 1e-6),
                          math.pi / 2 * angle.sin() / (angle.cos() + 1e-6))
    assert float(Schedule("cosine").masked_share(torch.tensor(0.5))) == pytest.approx(math.cos(math.pi / 4))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_chances_of_leaving_multiply_to_the_share(name):
    schedule = Schedule(name)
    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    stays = (1 - schedule.leaves(times[:-1], times[1:])).cumprod(0)
    assert torch.allclose(stays, schedule.masked_share(times[1:]), atol=1e-12)
    assert float(schedule.leaves(times[-2], times[-1])) == 1


def test_times_keep_away_from_zero_and_antithetic_ones_are_spread_evenly():
    for how in ("uniform", "antithetic"):
        t = draw_times(1000, how, 1e-3, torch.Generator().manual_seed(0))
        assert t.min() >= 1e-3 and t.max() <= 1 and float(t.mean()) == pytest.approx(0.5, abs=0.03)
    assert sorted((t * 10).floor().tolist()) == pytest.approx(sorted(i // 100 for i in range(1000)), abs=1)
    gaps = t.sort().values.diff()
    assert float(gaps.max() - gaps.min()) < 1e-5
