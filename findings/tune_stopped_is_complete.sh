#!/usr/bin/env bash
# Ray Tune 2.60.0 with Optuna 5.0.0: a trial that a scheduler stops early is told to Optuna as complete, and
# a NaN leaves its trial running for ever.
#
# A trial stopped at step 1 of 9 is expected to be PRUNED in the Optuna study, as with Optuna's own pruners,
# and a NaN objective to be FAIL. OptunaSearch tells every trial that ended with a result as COMPLETE with
# its last values: here all stopped trials are COMPLETE, with values from one step, beside trials that had
# nine, in the model the sampler learns from and in study.best_trials. With a NaN tell() raises, the
# searcher logs a warning, and the Optuna trial stays RUNNING after the search: samplers with a constant
# liar go on treating it as busy. In a search where quality rises with training and latency does not, early
# stops bias the model; where a metric falls with training (diversity), they enter the front.
# Source: ray/tune/search/optuna/optuna_search.py on_trial_complete.
#
# Output seen:
#   ray 2.60.0, optuna 5.0.0
#   expected: trials stopped before step 9 are PRUNED and not on the front
#   seen: steps [1, 1, 1, 1, 1, 9], states {'COMPLETE': 6}, stopped early 5, front [[11.21, 0.11],
#     [20.2, 1.0]]
#   expected: a NaN trial is FAIL; seen: states after the search ['COMPLETE', 'RUNNING']
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-ray[tune]==2.60.0 optuna==5.0.0 numpy==2.4.6}
export RAY_USAGE_STATS_ENABLED=0 RAY_AIR_NEW_OUTPUT=0
cd "$work" && venv/bin/python -I -W ignore - 2>log.txt <<'PY' || { tail -5 "$work/log.txt" >&2; exit 1; }
import collections
import importlib.metadata
import os

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "optuna")), sep=", ")
optuna.logging.set_verbosity(optuna.logging.ERROR)
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")


def train(config: dict) -> None:
    for step in range(1, 10):  # perplexity falls with training, diversity too
        tune.report({"perplexity": 10 + config["x"] + 10 / step, "diversity": 1 / step})


def broken(config: dict) -> None:
    tune.report({"perplexity": float("nan") if config["x"] > 0.5 else 1.0, "diversity": 1.0})


def search(trainable, points: list[float], scheduler) -> tuple[optuna.Study, list[int]]:
    searcher = OptunaSearch(
        {"x": tune.uniform(0, 1)}, metric=["perplexity", "diversity"], mode=["min", "max"],
        points_to_evaluate=[{"x": x} for x in points])
    results = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=len(points), max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=os.getcwd(), verbose=0)).fit()
    return searcher._ot_study, [result.metrics["training_iteration"] for result in results]


asha = ASHAScheduler(
    metric="perplexity", mode="min", time_attr="training_iteration",
    grace_period=1, max_t=9, reduction_factor=3)
study, steps = search(train, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], asha)
states = collections.Counter(trial.state.name for trial in study.trials)
early = [number for number, step in enumerate(steps) if step < 9]
print("expected: trials stopped before step 9 are PRUNED and not on the front")
print(f"seen: steps {sorted(steps)}, states {dict(states)}, stopped early {len(early)}, front "
      f"{[[round(value, 2) for value in trial.values] for trial in study.best_trials]}")
assert early and dict(states) == {"COMPLETE": 6}, "changed: stopped trials are told apart"
assert any(trial.values[1] == 1.0 for trial in study.best_trials), "changed: none of them is on the front"

study, _ = search(broken, [0.2, 0.9], None)
states = [trial.state.name for trial in study.trials]
print(f"expected: a NaN trial is FAIL; seen: states after the search {states}")
assert states == ["COMPLETE", "RUNNING"], "changed: NaN"
ray.shutdown()
PY
