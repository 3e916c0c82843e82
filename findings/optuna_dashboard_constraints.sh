#!/usr/bin/env bash
# optuna-dashboard 0.21.0 with Optuna 5.0.0: trials that break a constraint are shown as feasible.
#
# Optuna 5 deprecates constraints_func for Trial.set_constraint(key, value). The dashboard is expected to
# show which trials break one, as it did. It reads the storage key "constraints"; set_constraint writes
# "constraints:<key>". So every trial carries an empty list, and the front that the page draws treats all
# trials as feasible, while study.best_trials of the same storage leaves the infeasible ones out. Who
# searches under a size or latency limit sees points on the dashboard's front that the search itself
# rejects.
# Source: optuna_dashboard/_serializer.py CONSTRAINTS_KEY; optuna/trial/_trial.py set_constraint.
#
# Output seen:
#   optuna 5.0.0, optuna-dashboard 0.21.0
#   expected: constraints [[-0.25], [0.25]] served, trial 0 alone feasible
#   seen: constraints_func: best_trials of Optuna [0], constraints served [[-0.25], [0.25]]
#   seen: set_constraint: best_trials of Optuna [0], constraints served [[], []]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-optuna==5.0.0 optuna-dashboard==0.21.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I -W ignore - <<'PY'
import importlib.metadata
import json
from wsgiref.util import setup_testing_defaults

import optuna
from optuna_dashboard import wsgi

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("optuna", "optuna-dashboard")), sep=", ")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def served(study: optuna.Study) -> list[list[float]]:
    """The constraints of every trial as the page's own request gets them."""
    environ = {"PATH_INFO": f"/api/studies/{study._study_id}", "QUERY_STRING": "after=0"}
    setup_testing_defaults(environ)
    body = b"".join(wsgi(study._storage)(environ, lambda status, headers, error=None: None))
    return [trial["constraints"] for trial in json.loads(body)["trials"]]


def run(new: bool) -> optuna.Study:
    rule = None if new else lambda trial: (trial.params["x"] - 0.5,)
    sampler = optuna.samplers.TPESampler(seed=0, constraints_func=rule)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for x in (0.25, 0.75):  # 0.5 is the limit
        study.enqueue_trial({"x": x})

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        if new:
            trial.set_constraint("size", x - 0.5)
        return x, 1 - x

    study.optimize(objective, n_trials=2)
    return study


print("expected: constraints [[-0.25], [0.25]] served, trial 0 alone feasible")
seen = {}
for new in (False, True):
    study = run(new)
    seen[new] = served(study)
    print(f"seen: {'set_constraint' if new else 'constraints_func'}: best_trials of Optuna "
          f"{[trial.number for trial in study.best_trials]}, constraints served {seen[new]}")
    assert [trial.number for trial in study.best_trials] == [0]
assert seen[False] == [[-0.25], [0.25]] and seen[True] == [[], []], "changed: the dashboard reads other keys"
PY
