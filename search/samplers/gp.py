"""Optuna's Gaussian processes with the cost of a proposal in the user's hands."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from search.samplers.compat import set_gp_effort


class LeanGP(GPSampler):
    """`GPSampler` that estimates what a point would gain from `samples` draws, and starts looking from
    `candidates` points.

    With several objectives and trials still running, Optuna 5 divides the space above the front anew for each
    of 128 draws and compares 2048 points with every part (`_gp/acqf.py`, `qLogEHVI`); none of the numbers is
    a parameter of its own.
    """

    def __init__(self, seed: int, startup: int, samples: int, candidates: int, others: BaseSampler):
        super().__init__(seed=seed, n_startup_trials=startup, independent_sampler=others,
                         warn_independent_sampling=False)
        set_gp_effort(self, samples, candidates)
