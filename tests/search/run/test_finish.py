"""Fresh seeds for the members of the front, and what their repeats come to."""

from types import SimpleNamespace

import pytest

from search.run.finish import record_repeats, repeat_statistics, reseeded
from spaces.config import TrialConfig


def test_a_trial_is_reseeded_everywhere_and_nothing_else_changes():
    config = TrialConfig(seed=3)
    fresh = [reseeded(config, index) for index in range(3)]
    assert ([one.seed for one in fresh] == [1003, 1004, 1005]
            and len({one.evaluation.seed for one in fresh}) == 3)
    back = fresh[1].model_copy(update={"seed": 3, "evaluation": config.evaluation})
    assert back == config


def test_repeats_become_columns():
    runs = [{"rung": 0, "loss": 1.0, "label": "a", "flag": True, "part": 1.0},
            {"rung": 0, "loss": 3.0, "label": "b", "flag": True}]
    assert repeat_statistics(runs, "seeds") == {"seeds": 2, "loss_seeds": 2.0,
                                                "loss_seeds_sd": pytest.approx(2**0.5)}
    assert repeat_statistics(runs[:1], "again") == {"again": 1, "loss_again": 1.0, "part_again": 1.0}


def test_a_member_that_fails_is_warned_of_and_the_others_are_recorded():
    amended, warned = {}, []
    found = [{"loss": 1.0}, {"loss": 3.0}, {"loss": 5.0}, ValueError("damaged"), {"loss": 2.0}, {"loss": 2.0}]
    record_repeats(SimpleNamespace(add_measurements=amended.__setitem__),
                   [{"trial": 4}, {"trial": 5}, {"trial": 9}], found, 2, "again", "measured", warned.append)
    assert {trial: columns["loss_again"] for trial, columns in amended.items()} == {4: 2.0, 9: 2.0}
    assert warned == ["trial 5 was not measured again: damaged"]
