"""Fresh seeds for the members of the front, and what their repeats come to."""

import pytest

from search.finishing import repeated, reseeded
from spaces.config import TrialConfig


def test_a_trial_is_reseeded_everywhere_and_nothing_else_changes():
    config = TrialConfig(seed=3)
    fresh = [reseeded(config, index) for index in range(3)]
    assert [one.seed for one in fresh] == [1003, 1004, 1005] and len({one.evaluation.seed for one in fresh}) == 3
    back = fresh[1].model_copy(update={"seed": 3, "evaluation": config.evaluation})
    assert back == config


def test_repeats_become_columns():
    runs = [{"rung": 0, "loss": 1.0, "label": "a", "flag": True, "part": 1.0},
            {"rung": 0, "loss": 3.0, "label": "b", "flag": True}]
    assert repeated(runs, "seeds") == {"seeds": 2, "loss_seeds": 2.0, "loss_seeds_sd": pytest.approx(2**0.5)}
    assert repeated(runs[:1], "again") == {"again": 1, "loss_again": 1.0, "part_again": 1.0}
