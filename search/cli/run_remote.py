"""`qdlm run --address ray://HOST:PORT`: the same command, carried out by the cluster."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.cli.arguments import run_folder
from search.cli.format import command, out
from search.cli.session import SessionObserver, no_space, report, resolve
from spaces.shell import program

if TYPE_CHECKING:
    from rich.console import Console

    from spaces.schema import Space


@dataclass(frozen=True)
class Request:
    """What is asked of the cluster. `space`: YAML; None for that of the run to go on with, which
    `changes` are for. `width` and `color` are the terminal's, `program` is how its shell calls this one."""

    space: str | None
    changes: dict[str, Any]
    storage: str
    resume: str | None
    max_concurrent: int | None
    width: int
    color: bool
    warm_start: str | None = None
    program: str = "qdlm"


class ClientSession:
    """A search that a cluster drives which is reached by a Ray Client connection."""

    def __init__(self, address: str, given: Space | None, wanted: dict[str, Any], storage: str,
                 resume: str | None, max_concurrent: int | None, warm_start: str | None = None):
        if given is None and resume is None:
            raise no_space()
        console = out()
        self.address, self.objectives = address, given.objectives if given else ()
        self.request = Request(given.to_yaml() if given else None, wanted if resume else {}, storage, resume,
                               max_concurrent, console.width, console.is_terminal, warm_start, program())

    def run(self, observer: SessionObserver) -> str:
        """The state in which the run ended."""
        from search.distributed import remote

        state, self.text = remote.run(self.address, run_request, self.request, observer)
        return state

    def report(self, console: Console) -> None:
        """Print the front, and whose the paths are."""
        console.file.write(self.text)
        console.print(f"All paths are the cluster's ({self.address}).")

    def resume_command(self, run: str) -> str:
        """The command that goes on with a run."""
        return command("run", "--resume", run, "--address", self.address)


def run_request(request: Request, tell: Callable[[Mapping[str, Any]], None]) -> tuple[str, str]:
    """On the cluster: search; the state in which the run ended and the front as text."""
    from search.run import sweep
    from search.run.validation import check_sources
    from spaces.schema import Space

    given = Space.from_yaml(request.space, "SPACE") if request.space else None
    space = resolve(given, request.resume, request.changes)
    check_sources(space)
    warm_start = run_folder(request.warm_start).resolve() if request.warm_start else None
    result = sweep.run(space, storage=request.storage, max_concurrent=request.max_concurrent,
                       resume=request.resume, warm_start=warm_start, observer=tell)
    text = io.StringIO()
    report(result.run_folder, out(file=text, width=request.width, force_terminal=request.color),
           request.program)
    return result.state, text.getvalue()
