"""One search from the command line: where it runs, how it is watched, and what is said when it ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli.arguments import run_folder
from search.cli.exit_notice import ExitNotice
from search.cli.format import command, shown
from spaces.errors import UserError
from spaces.importing import importing
from spaces.uris import is_uri

if TYPE_CHECKING:
    from rich.console import Console

    from spaces.schema import Space


def no_space() -> UserError:
    """What to say when neither a space nor a run is given."""
    return UserError(f"which space? give its file or name (see: {command('spaces')}), or --resume RUN")


class LocalSession:
    """A search that this process drives, on a cluster of its own or one that it attaches to."""

    def __init__(self, space: Space, address: str | None, storage: str, resume: str | None,
                 max_concurrent: int | None, warm_start: str | None = None):
        from search.records.run_folder import RunFolder
        from search.run.validation import check_sources

        check_sources(space)
        self.space, self.address, self.storage, self.max_concurrent = space, address, storage, max_concurrent
        self.resume = resume and (resume if is_uri(resume) else Path(resume).resolve())
        self.warm_start = RunFolder.open(run_folder(warm_start)).path.resolve() if warm_start else None
        self.objectives = space.objectives

    def run(self, observer: SessionObserver) -> str:
        """The state in which the run ended."""
        with importing():
            from search.run import sweep

        result = sweep.run(self.space, storage=self.storage, address=self.address,
                           max_concurrent=self.max_concurrent,
                           resume=self.resume, warm_start=self.warm_start, observer=observer)
        self.folder = result.run_folder
        return result.state

    def report(self, console: Console) -> None:
        """Print the front."""
        report(self.folder, console)

    def resume_command(self, run: str) -> str:
        """The command that goes on with a run."""
        return command("run", "--resume", shown(run))


def resolve(given: Space | None, resume: str | None, wanted: Mapping[str, Any],
            label: str | None = None) -> Space:
    """The space to run: the one that is given, or that of the run to go on with, with which one given
    beside it must agree.

    Raises `UserError`. The budget may differ from the recorded one: a run may be given more.
    """
    if resume is None:
        if given is None:
            raise no_space()
        return given
    from search.cli.results import recorded_space
    from search.run.resuming import resumed

    return resumed(recorded_space(run_folder(resume)), resume, given, wanted, label)


class SessionObserver:
    """Passes events on and remembers where the run lies, for whoever has to say how to go on with it."""

    def __init__(self, observer: Callable[[Mapping[str, Any]], None],
                 resume_command: Callable[[str], str] | None = None):
        self.observer, self.resume_command, self.said = observer, resume_command, False
        self.run: str | None = None
        self.exit_notice: ExitNotice | None = None
        self._guarded = False

    def __enter__(self) -> SessionObserver:
        """From here on, somebody says how to go on even if this process is killed."""
        self._guarded = True
        return self

    def __exit__(self, *_: object) -> None:
        if self.exit_notice:
            self.exit_notice.dismiss()

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune writes snapshots of all it holds, though none is ever read; a terminal has
        no place in them."""
        return SessionObserver, (None,)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event.get("run"):
            self.run = event["run"]
            if self._guarded and self.exit_notice is None:
                self.exit_notice = ExitNotice(self._line(
                    self.run, "the search was ended from outside (killed, "
                    "out of memory, or its Ray node died)"))
        self.observer(event)

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Ctrl-C is answered at once: bringing the run in order and stopping Ray takes seconds,
        and a second one ends both."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def answer(*_: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self.print_resume_hint()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, answer)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def print_resume_hint(self, why: str = "interrupted") -> None:
        """One line on standard error, once."""
        if self.said:
            return
        self.said = True
        if self.run is None:
            print(f"qdlm: {why}, before the run began; nothing was kept", file=sys.stderr)
        else:
            print(self._line(self.run, why), file=sys.stderr)

    def _line(self, run: str, why: str) -> str:
        assert self.resume_command is not None, "a snapshot is never read"
        return f"qdlm: {why}; every finished trial is kept. Go on with: {self.resume_command(run)}"


def report(run: Path, console: Console, call: str | None = None) -> None:
    """Print the front, where things lie and what to try next. `call`: how the shell that reads it
    calls this program."""
    from search.cli.results import front_table, next_steps, opened
    from search.cli.standing import cost_table
    from search.engine.cost import Ledger

    folder, space, found = opened(run)
    console.print(front_table(folder, space, found))
    console.print("", cost_table(Ledger.from_events(folder.events()), space), sep="\n")
    console.print(next_steps(folder, found, call), soft_wrap=True)
