"""`qdlm run`: a search space in, a Pareto front out."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Literal

import typer

from search.cli.arguments import AS_JSON
from search.cli.examples import examples
from search.cli.format import out
from search.cli.overrides import changes
from search.cli.session import LocalSession, SessionObserver, resolve
from spaces.errors import RunError, UserError

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
        "qdlm run quickstart --track tensorboard", "trials in TensorBoard too, below RUN/tensorboard",
        "qdlm run quickstart --address auto --storage s3://BUCKET/runs", "nodes that share no folder",
        "qdlm run quickstart --address auto --json", "on the cluster, for a job's log",
    ))(run)


def run(
    space: str | None = typer.Argument(None, metavar="SPACE", show_default=False,
                                       help="A space file, or the name of a shipped one (see: qdlm spaces)."),
    trials: int | None = typer.Option(None, metavar="N", min=1, help="Trials at most.", show_default=False),
    budget: str | None = typer.Option(None, metavar="TIME", show_default=False,
                                      help="Time at most: 90s, 30m, 2h."),
    max_concurrent: int
    | None = typer.Option(None, metavar="N", min=1, show_default=False,
                          help="Trials at once; by default as many as there is room for."),
    storage: str = typer.Option("runs", metavar="DIR|URI", help="Where runs and what they share are kept: "
                                "a folder that all nodes see, or a URI (s3://BUCKET/PATH)."),
    address: str | None = typer.Option(None, metavar="ADDRESS", show_default=False,
                                       help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT. "
                                            "By default one starts here."),
    within: list[str] = typer.Option([], metavar="BOUND", show_default=False,
                                     help="What can be afforded, 'size_bytes <= 200kB'; may be given again."),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", show_default=False,
                                       help="Change any setting of the space; may be given again."),
    seed: int | None = typer.Option(None, metavar="N", min=0, show_default=False, help="Of the search."),
    deterministic: bool = typer.Option(False,
                                       "--deterministic", help="The same proposals whatever the timing, with "
                                       f"--max-concurrent trials in flight ({IN_FLIGHT} if not given)."),
    resume: str | None = typer.Option(None, metavar="RUN", show_default=False,
                                      help="Go on with a run: its folder or URI."),
    warm_start: str | None = typer.Option(None, metavar="RUN", show_default=False,
                                          help="Learn from an earlier run: its folder or URI."),
    track: list[str] = typer.Option([], metavar="NAME", show_default=False,
                                    help="A tracker that is told of trials: mlflow, tensorboard, trackio, "
                                         "wandb; may be given again."),
    quiet: bool = typer.Option(False, "--quiet", "-q",
                               help="Print nothing but the front and the paths at the end."),
    form: Literal["table", "json"] = typer.Option("table", "--format", help="json: one object per event, and "
                                                  "nothing else."),
    as_json: bool = AS_JSON,
) -> int:
    """Search a space and print its Pareto front. Ctrl-C keeps every finished trial;
    `--resume RUN` goes on."""
    as_json = as_json or form == "json"
    if quiet and as_json:
        raise UserError("--quiet and --json contradict each other; give one")
    if resume and warm_start:
        raise UserError("--resume and --warm-start contradict each other: a run that goes on knows what it "
                        "has learned")
    from search.cli.progress import choose
    from search.run.validation import load_checked

    wanted = changes(settings, trials, budget, seed,
                     (max_concurrent or IN_FLIGHT) if deterministic else None, within, track)
    given = load_checked(space, None if resume else wanted) if space is not None else None
    if address is not None and address.startswith("ray://"):
        from search.cli.run_remote import ClientSession

        session: LocalSession | ClientSession = ClientSession(address, given, wanted, storage, resume,
                                                              max_concurrent, warm_start)
    else:
        session = LocalSession(resolve(given, resume, wanted, space), address, storage, resume,
                               max_concurrent, warm_start)
    with (choose(session.objectives, quiet, as_json) as observer, redirect_stdout(sys.stderr),
          SessionObserver(observer, session.resume_command) as watch):
        try:
            with watch.on_interrupt():
                state = session.run(watch)
        except KeyboardInterrupt:
            watch.print_resume_hint()
            return 1
        except RunError as error:
            watch.print_resume_hint(" ".join(str(error).split()))
            return 1
    if not as_json:
        session.report(out())
    return 0 if state == "finished" else 1
