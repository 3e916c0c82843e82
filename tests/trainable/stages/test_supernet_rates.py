"""When a supernet's adapters are turned, and at which learning rate each of its widths trains."""

import pytest

from spaces.config import TrialConfig
from trainable.adapters.supernet import Draws
from trainable.stages.rebasing import turns
from trainable.stages.supernet import rate
from trainable.training.optimizer import learning_rate


def config(**adapt) -> TrialConfig:
    return TrialConfig.model_validate({
        "quantization": {"quantizer": {"name": "uniform", "bits": 2}, "sites": ["attention", "ffn"]},
        "lora": {"rank": 2},
        "adapt": {"mode": "supernet", "ranks": [2, 4], "bits": [2, 3], "supernet_steps": 40,
                  "optim": {"lr": 5e-3, "warmup": 4, "steps": 12}, **adapt}})


def alone(steps: int) -> list[float]:
    """The learning rates of a run of so many steps."""
    optim = config().adapt.optim.model_copy(update={"steps": steps})
    return [learning_rate(step, optim) for step in range(steps)]


def test_turns_are_evenly_spread_and_the_last_is_the_last_step():
    assert turns(4, 12, 0) == frozenset() and turns(4, 12, 1) == {12} and turns(4, 12, 3) == {4, 8, 12}
    assert turns(0, 2, 9) == {0, 1, 2}  # no step more than once


def test_each_width_has_a_schedule_of_its_own_and_the_slower_the_more_bits():
    settings, draws = config(schedule="width", slower=1.0), Draws((2, 4), (2, 3), 0)
    found: dict[int, list[float]] = {2: [], 3: []}
    for step in range(40):
        found[draws.at(step).bits].append(rate(settings, draws, step))
    assert found[2] == alone(20) and found[3] == [value / 2 for value in alone(20)]


def test_one_schedule_for_all_is_that_of_the_run():
    draws = Draws((2, 4), (2, 3), 0, 0.7)
    assert [rate(config(schedule="run", slower=0.0), draws, step) for step in range(40)] == alone(40)


def test_a_mixture_trains_at_the_mean_rate_of_its_sites():
    settings = config(shared=True, mixtures=1.0, schedule="run", slower=1.0)
    draws = Draws((2, 4), (2, 3), 0, 0.0, 1.0)
    step = next(step for step in range(40) if draws.at(step).others)
    assert rate(settings, draws, step) == pytest.approx(0.75 * alone(40)[step])
