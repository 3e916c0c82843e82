"""Which of many measurements are learned from."""

import numpy as np

from search.samplers.learning import LEARNED, NEAR, RECENT, learned


def told(trials, rungs=3, seed=0):
    """Owners, whether last, and complete results of trials of which every other one was stopped at once."""
    lengths = np.where(np.arange(trials) % 2, 1, rungs)
    owner = np.repeat(np.arange(trials), lengths)
    complete = np.flatnonzero(lengths == rungs)
    goals = np.random.default_rng(seed).uniform(size=(len(complete), 3))
    return owner, np.r_[owner[1:] != owner[:-1], True], (complete, goals)


def test_few_measurements_are_all_kept():
    owner, last, good = told(LEARNED // 2)
    assert len(learned(owner, last, good)) == len(owner) == LEARNED


def test_the_lower_rungs_of_old_trials_go_first():
    last = np.tile([False, False, True], 200)
    kept = learned(np.repeat(np.arange(200), 3), last, (np.arange(200), np.zeros((200, 2))))
    assert len(kept) == LEARNED and last[kept].sum() == 200 and (np.diff(kept) > 0).all()
    assert kept[~last[kept]].min() >= 300 - 1


def test_of_many_results_the_last_the_best_and_some_of_all_times_are_kept():
    owner, last, (complete, goals) = told(2000)
    kept = learned(owner, last, (complete, goals))
    assert len(kept) == LEARNED == len(set(kept.tolist())) and (np.diff(kept) > 0).all()
    newest = owner >= 2000 - RECENT
    assert set(np.flatnonzero(newest)) <= set(kept.tolist()), "with every rung"
    assert last[kept[~newest[kept]]].all()
    front = complete[[not (goals <= row).all(axis=1).sum() > 1 for row in goals]]
    assert 20 < len(front) < NEAR and set(front) <= set(owner[kept].tolist())
    stopped = owner[kept][owner[kept] % 2 == 1]
    assert np.histogram(stopped, 4, (0, 2000 - RECENT))[0].min() > 8, "of all times"


def test_one_more_result_changes_little():
    owner, last, good = told(1000)
    before = set(owner[learned(owner, last, good)].tolist())
    cut = owner < 998
    few = good[0] < 998
    after = set(owner[cut][learned(owner[cut], last[cut], (good[0][few], good[1][few]))].tolist())
    assert len(before & after) > 0.95 * len(before)
