"""optuna-dashboard on the journal of a run's study, which it reads anew at each request: it follows
a live search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

from spaces.errors import UserError
from spaces.shell import extra_command


def application(journal: Path) -> Callable:
    """The dashboard as a WSGI application. Raises `UserError` when the package is not installed."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError(f"optuna-dashboard is not installed; run: {extra_command('dashboard')}") from None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return wsgi(JournalStorage(JournalFileBackend(str(journal.resolve()))))


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
