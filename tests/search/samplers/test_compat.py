"""What is used of Optuna under private names: each does in this version what it did in the one that
it was read in."""

import optuna
import pytest
from optuna.samplers import GPSampler, RandomSampler
from optuna.trial import TrialState

from search.samplers import compat
from search.samplers.compat import StudyView, running_trial, set_gp_effort


def test_they_were_read_in_optuna_5_0_0():
    """Another version: read them again (search/samplers/compat.py), and name it there and here."""
    assert compat.OPTUNA == optuna.__version__ == "5.0.0"


@pytest.mark.parametrize("name", ["_n_qmc_samples_ehvi", "_n_qmc_samples_qei", "_n_preliminary_samples"])
def test_a_gp_sampler_of_optuna_5_0_0_has_what_is_set(name):
    """That the numbers reach its proposals: tests/search/samplers/test_gp.py."""
    sampler = GPSampler(seed=0)
    assert getattr(sampler, name) > 16
    set_gp_effort(sampler, samples=3, candidates=16)
    assert getattr(sampler, name) in (3, 16)


def test_a_trial_of_optuna_5_0_0_goes_on_by_its_id():
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.ask().suggest_float("x", 0, 1)
    (frozen,) = study.get_trials(deepcopy=False)
    trial = running_trial(study, frozen)
    trial.set_user_attr("went", "on")
    study.tell(trial.number, 1.0)
    assert study.trials[0].user_attrs == {"went": "on"} and study.trials[0].value == 1.0
    assert trial.params == frozen.params


def test_a_sampler_of_optuna_5_0_0_reads_its_history_through_the_view():
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(5):
        study.tell(study.ask(), 1.0)
    calls = []
    view = StudyView(study, lambda trials: calls.append(len(trials)) or trials[-2:])
    for _ in range(2):
        assert ([trial.number for trial in view._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
                == [3, 4])
    assert calls == [5], "computed once" 
    assert view.direction == study.direction and len(view.trials) == 5
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
    running = study.ask()
    sampler.sample_independent(StudyView(study, lambda trials: calls.append("asked") or trials),
                               running._cached_frozen_trial, "x",
                               optuna.distributions.FloatDistribution(0, 1))
    assert "asked" in calls, "it asks the view"
