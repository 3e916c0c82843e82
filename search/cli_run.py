"""`qdlm run`: a search space in, a Pareto front out."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from search.cli_format import out, shown
from search.cli_help import examples
from search.cli_place import run_folder
from search.cli_space import changes
from search.last_words import LastWords
from spaces.errors import RunError, UserError
from spaces.uris import is_uri

if TYPE_CHECKING:
    from rich.console import Console

    from spaces.schema import Space

NO_SPACE = "which space? give its file or name (see: qdlm spaces), or --resume RUN"

IN_FLIGHT = 4
"""Trials that a deterministic run keeps in flight unless it is told."""


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm run spaces/quickstart.yaml", "a shipped space, or your own file",
        "qdlm run quickstart --trials 40 --budget 2h", "at most that many, and that long",
        "qdlm run quickstart --within 'size_bytes <= 200kB'", "only what can be afforded",
        "qdlm run e2e --set trial.corpus.source.path=DIR", "any setting of the file, by its path",
        "qdlm run --resume runs/NAME", "go on where it stopped",
        "qdlm run quickstart --address auto --storage s3://BUCKET/runs", "nodes that share no folder",
        "qdlm run quickstart --address auto --json", "on the cluster, for a job's log",
    ))(run)


def run(
    space: str | None = typer.Argument(None, metavar="SPACE", show_default=False,
                                       help="A space file, or the name of a shipped one (see: qdlm spaces)."),
    trials: int | None = typer.Option(None, metavar="N", min=1, help="Trials at most.", show_default=False),
    budget: str | None = typer.Option(None, metavar="TIME", show_default=False, help="Time at most: 90s, 30m, 2h."),
    max_concurrent: int | None = typer.Option(None, metavar="N", min=1, show_default=False,
                                              help="Trials at once; by default as many as there is room for."),
    storage: str = typer.Option("runs", metavar="DIR|URI", help="Where runs and what they share are kept: a folder that all "
                                "nodes see, or a URI (s3://BUCKET/PATH)."),
    address: str | None = typer.Option(None, metavar="ADDRESS", show_default=False,
                                       help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT. By default one starts here."),
    within: list[str] = typer.Option([], metavar="BOUND", show_default=False,
                                     help="What can be afforded, 'size_bytes <= 200kB'; may be given again."),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", show_default=False,
                                       help="Change any setting of the space; may be given again."),
    seed: int | None = typer.Option(None, metavar="N", min=0, show_default=False, help="Of the search."),
    deterministic: bool = typer.Option(False, "--deterministic", help="The same proposals whatever the timing, with "
                                       f"--max-concurrent trials in flight ({IN_FLIGHT} if not given)."),
    resume: str | None = typer.Option(None, metavar="RUN", show_default=False, help="Go on with a run: its folder or URI."),
    warm_start: str | None = typer.Option(None, metavar="RUN", show_default=False,
                                          help="Learn from an earlier run: its folder or URI."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but the front and the paths at the end."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per event, and nothing else."),
) -> int:
    """Search a space and print its Pareto front. Ctrl-C keeps every finished trial; `--resume RUN` goes on."""
    if quiet and as_json:
        raise UserError("--quiet and --json contradict each other; give one")
    if resume and warm_start:
        raise UserError("--resume and --warm-start contradict each other: a run that goes on knows what it has learned")
    from search.checking import load_checked
    from search.progress import choose

    wanted = changes(settings, trials, budget, seed, (max_concurrent or IN_FLIGHT) if deterministic else None, within)
    given = load_checked(space, None if resume else wanted) if space is not None else None
    if address is not None and address.startswith("ray://"):
        from search.cli_remote import There

        search: Here | There = There(address, given, wanted, storage, resume, max_concurrent, warm_start)
    else:
        search = Here(resolve(given, resume, wanted, space), address, storage, resume, max_concurrent, warm_start)
    with (choose(search.objectives, quiet, as_json) as observer, redirect_stdout(sys.stderr),
          Watch(observer, search.how_to_go_on) as watch):
        try:
            with watch.on_interrupt():
                state = search.run(watch)
        except KeyboardInterrupt:
            watch.say_how_to_go_on()
            return 1
        except RunError as error:
            watch.say_how_to_go_on(" ".join(str(error).split()))
            return 1
    if not as_json:
        search.report(out())
    return 0 if state == "finished" else 1


class Here:
    """A search that this process drives, on a cluster of its own or one that it attaches to."""

    def __init__(self, space: Space, address: str | None, storage: str, resume: str | None, max_concurrent: int | None,
                 warm_start: str | None = None):
        from search.checking import check_sources
        from search.records import RunFolder

        check_sources(space)
        self.space, self.address, self.storage, self.max_concurrent = space, address, storage, max_concurrent
        self.resume = resume and (resume if is_uri(resume) else Path(resume).resolve())
        self.warm_start = RunFolder.open(run_folder(warm_start)).path.resolve() if warm_start else None
        self.objectives = space.objectives

    def run(self, observer: Watch) -> str:
        """The state in which the run ended."""
        from search import sweep

        result = sweep.run(self.space, storage=self.storage, address=self.address, max_concurrent=self.max_concurrent,
                           resume=self.resume, warm_start=self.warm_start, observer=observer)
        self.folder = result.run_folder
        return result.state

    def report(self, console: Console) -> None:
        """Print the front."""
        report(self.folder, console)

    def how_to_go_on(self, run: str) -> str:
        """The command that goes on with a run."""
        return f"qdlm run --resume {shown(run)}"


def resolve(given: Space | None, resume: str | None, wanted: Mapping[str, Any], label: str | None = None) -> Space:
    """The space to run: the one that is given, or that of the run to go on with, with which one given beside it must agree.

    Raises `UserError`. The budget may differ from the recorded one: a run may be given more.
    """
    if resume is None:
        if given is None:
            raise UserError(NO_SPACE)
        return given
    from search.checking import check
    from search.cli_results import recorded_space

    recorded = recorded_space(run_folder(resume))
    if given is not None:
        agree(given, recorded, f"{label or 'the space given'} does not agree with the run {resume}")
    asked = recorded.with_overrides(wanted) if wanted else recorded
    agree(asked, recorded, f"the run {resume} cannot go on with other settings")
    check(asked)
    return asked


def agree(space: Space, recorded: Space, complaint: str) -> None:
    """Raises `UserError` naming the first difference that a resumed run cannot have."""
    found = space.difference(recorded)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{complaint}: {found[0]}{more}; only the budget may change")


class Watch:
    """Passes events on and remembers where the run lies, for whoever has to say how to go on with it."""

    def __init__(self, observer: Callable[[Mapping[str, Any]], None], how_to_go_on: Callable[[str], str] | None = None):
        self.observer, self.how_to_go_on, self.run, self.said = observer, how_to_go_on, None, False
        self.last_words: LastWords | None = None
        self._guarded = False

    def __enter__(self) -> Watch:
        """From here on, somebody says how to go on even if this process is killed."""
        self._guarded = True
        return self

    def __exit__(self, *_: object) -> None:
        if self.last_words:
            self.last_words.dismiss()

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune writes snapshots of all it holds, though none is ever read; a terminal has no place in them."""
        return Watch, (None,)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event.get("run"):
            self.run = event["run"]
            if self._guarded and self.last_words is None:
                self.last_words = LastWords(self._line("the search was ended from outside (killed, out of memory, or its Ray "
                                                       "node died)"))
        self.observer(event)

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Ctrl-C is answered at once: bringing the run in order and stopping Ray takes seconds, and a second one ends both."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def answer(*_: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self.say_how_to_go_on()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, answer)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def say_how_to_go_on(self, why: str = "interrupted") -> None:
        """One line on standard error, once."""
        if self.said:
            return
        self.said = True
        if self.run is None:
            print(f"qdlm: {why}, before the run began; nothing was kept", file=sys.stderr)
        else:
            print(self._line(why), file=sys.stderr)

    def _line(self, why: str) -> str:
        return f"qdlm: {why}; every finished trial is kept. Go on with: {self.how_to_go_on(self.run)}"


def report(run: Path, console: Console) -> None:
    """Print the front, where things lie and what to try next."""
    from search.cli_results import cost_table, front_table, next_steps, opened
    from search.cost import Ledger

    folder, space, found = opened(run)
    console.print(front_table(folder, space, found))
    console.print("", cost_table(Ledger.from_events(folder.events()), space), sep="\n")
    console.print(next_steps(folder, found))
