"""What optuna-dashboard is served of a study: constraints in its own form, and nothing that writes."""

from __future__ import annotations

import json
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from dashboards.optuna_server import ListedConstraints, read_only
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Constraint, Objective

BOUNDS = [Constraint("size_bytes", "<=", 100.0), Constraint("latency_ms", "<=", 40.0)]


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> Path:
    """Three trials: within both bounds, beyond one, and one that runs."""
    path = tmp_path_factory.mktemp("run") / "study.journal"
    study = StudySearcher({"lora.rank": Dimension.model_validate({"int": [0, 8]})},
                          [Objective("perplexity", "minimize")], BOUNDS, storage=path)
    for size in (50.0, 200.0):
        metrics = {"perplexity": 9.0, "size_bytes": size, "latency_ms": 20.0}
        study.tell(study.ask().number, "complete", metrics)
    study.ask()
    return path


def asked(app, path: str, method: str = "GET", query: str = "") -> tuple[str, dict]:
    """Status and JSON of a request."""
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    status = []
    body = b"".join(app(environ, lambda line, headers, error=None: status.append(line)))
    return status[0], json.loads(body)


def test_both_forms_are_served_and_one_is_kept(journal):
    kept = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(
        JournalFileBackend(str(journal)))).get_trials()
    served = ListedConstraints(JournalFileBackend(str(journal))).get_all_trials(0)
    assert [trial.system_attrs.get("constraints") for trial in served] == [[-0.5, -0.5], [-0.5, 1.0], None]
    assert not any("constraints" in trial.system_attrs for trial in kept), "they would count twice"
    for old, new in zip(kept, served, strict=True):
        assert old.constraints.items() <= new.constraints.items()
        assert (old.number, old.state, old.params, old.values) == (new.number, new.state, new.params,
                                                                   new.values)
    storage = ListedConstraints(JournalFileBackend(str(journal)))
    second = storage.get_trial_id_from_study_id_trial_number(0, 1)
    assert storage.get_trial(second).system_attrs["constraints"] == [-0.5, 1.0]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_what_would_write_is_refused(method):
    status, said = asked(read_only(lambda environ, start: pytest.fail("it was let through")), "/", method)
    assert status.startswith("405") and "only reads" in said["reason"]


def test_the_page_itself_shows_which_trials_break_constraints(journal):
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    from dashboards.optuna_server import application

    app = application(journal)
    before = journal.read_bytes()
    _, found = asked(app, "/api/studies/0", query="after=0")
    assert [trial["constraints"] for trial in found["trials"]] == [[-0.5, -0.5], [-0.5, 1.0], []]
    assert asked(app, "/api/studies/0", "DELETE")[0].startswith("405") and journal.read_bytes() == before
