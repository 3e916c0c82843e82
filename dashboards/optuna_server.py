"""optuna-dashboard on the journal of a run's study, which it reads anew at each request: it follows
a live search, and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from spaces.errors import UserError
from spaces.shell import extra_command

LISTED = "constraints"
"""Attribute in which optuna-dashboard 0.21 looks for a list of violations. Optuna 5 has one a constraint
(`Trial.set_constraint`), of which the page knows nothing: findings/optuna_dashboard_constraints.sh."""
READING = ("GET", "HEAD")


def application(journal: Path) -> Callable[..., Iterable[bytes]]:
    """The dashboard as a WSGI application that only reads. Raises `UserError` when the package is
    not installed."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError(f"optuna-dashboard is not installed; run: {extra_command('dashboard')}") from None
    return read_only(wsgi(ListedConstraints(JournalFileBackend(str(journal.resolve())))))


class ListedConstraints(JournalStorage):
    """A study's journal whose trials have their constraints in both forms. Only what is served: in the study
    itself a second form would count twice."""

    def get_all_trials(self, study_id: int, deepcopy: bool = True,
                       states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """As `JournalStorage`; trials are copies."""
        return [listed(trial) for trial in super().get_all_trials(study_id, deepcopy, states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As `JournalStorage`; a copy."""
        return listed(super().get_trial(trial_id))


def listed(trial: FrozenTrial) -> FrozenTrial:
    """A trial with its violations as a list too, in the order of their names."""
    known = trial.constraints
    if not known or LISTED in trial.system_attrs:
        return trial
    found = copy.copy(trial)
    found.system_attrs = {**trial.system_attrs, LISTED: [known[name] for name in sorted(known)]}
    return found


def read_only(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application without what changes the study: the search alone writes it."""

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"),
                                                  ("Allow", ", ".join(READING))])
        return [b'{"reason": "this page only reads: the study belongs to its search"}']

    return served


def serve(journal: Path, host: str, port: int) -> None:
    """Serve until interrupted. Raises `UserError` when the address cannot be listened on."""
    try:
        server = make_server(host, port, application(journal), handler_class=_Quiet)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    with server:
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    """Requests are not printed."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
