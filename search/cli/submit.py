"""`qdlm submit`: a search as a job on a cluster, followed or left alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from search.cli.examples import examples
from search.cli.overrides import changes
from spaces.errors import UserError
from spaces.uris import checked, is_uri


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm submit quickstart --address http://127.0.0.1:8265 --storage DIR", "send it and leave",
        "qdlm submit my.yaml --address http://HOST:8265 --storage /nfs/runs --follow",
        "see its log; Ctrl-C leaves it running",
        "qdlm submit quickstart --address http://HOST:8265 --storage s3://BUCKET/runs",
        "nodes that share no folder",
        "qdlm submit --attach JOB --address http://HOST:8265", "come back to it",
        "qdlm submit --stop JOB --address http://HOST:8265", "end it; the run can be resumed",
        "qdlm submit --resume s3://BUCKET/runs/NAME --address http://HOST:8265", "go on with a run",
    ))(submit)


def submit(
    space: str | None = typer.Argument(None, metavar="SPACE", show_default=False,
                                       help="A space file or a shipped space."),
    address: str = typer.Option("http://127.0.0.1:8265", metavar="URL", help="The cluster's dashboard."),
    storage: str | None = typer.Option(None, metavar="DIR|URI", show_default=False,
                                       help="Where the cluster keeps runs: a folder that all its nodes "
                                       "share, or a URI (s3://BUCKET/PATH) with the nodes' own credentials."),
    trials: int | None = typer.Option(None, metavar="N", min=1, help="Trials at most.", show_default=False),
    budget: str | None = typer.Option(None, metavar="TIME", show_default=False,
                                      help="Time at most: 90s, 30m, 2h."),
    within: list[str] = typer.Option([], metavar="BOUND", show_default=False,
                                     help="What can be afforded, 'size_bytes <= 200kB'; may be given again."),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", show_default=False,
                                       help="Change any setting of the space; may be given again."),
    resume: str | None = typer.Option(None, metavar="RUN", show_default=False,
                                      help="Go on with a run: its folder on the cluster, or its URI."),
    pip: bool = typer.Option(False, "--pip", help="Have the nodes install the pinned packages first (their "
                                                  "image lacks them)."),
    follow: bool = typer.Option(False, "--follow", help="Print the job's log until it ends."),
    attach: str | None = typer.Option(None, metavar="JOB", show_default=False,
                                      help="Follow a job that was sent before."),
    stop: str | None = typer.Option(None, metavar="JOB", show_default=False, help="End a job."),
) -> int:
    """Send a search to a cluster as a job. It does not need this terminal: Ctrl-C ends following,
    never the job."""
    if sum(item is not None for item in (space, resume, attach, stop)) != 1:
        raise UserError("give one of: a SPACE to send, --resume RUN, --attach JOB, --stop JOB")
    text: str | None = None
    if space is not None:
        if storage is None:
            raise UserError("--storage: name a folder that all nodes share, or a URI; "
                            "a job's own folder is deleted with the job")
        text = _checked_space(space, storage, changes(settings, trials, budget, within=within))
        arguments = ["--storage", storage]
    elif resume is not None:
        arguments = _resume_arguments(resume, settings, trials, budget, within)
    else:
        return _attach_or_stop(address, attach, stop)
    from cluster import submitting
    from search.cli.format import command

    jobs = submitting.client(address)
    with tempfile.TemporaryDirectory(prefix="qdlm-job-") as pack:
        job = submitting.submit(jobs, text, arguments, Path(pack), pip=pip)
    typer.echo(f"job {job}")
    typer.echo(command("submit", "--attach", job, "--address", address))
    return _follow(jobs, job, address) if follow else 0


def _checked_space(space: str, storage: str, wanted: Mapping[str, Any]) -> str:
    """The space as it is sent. What cannot work is refused here, before anything travels."""
    from search.run.validation import load_checked

    if is_uri(storage):
        checked(storage)
    return load_checked(space, wanted).to_yaml()


def _resume_arguments(run: str, settings: list[str], trials: int | None, budget: str | None,
                      within: list[str]) -> list[str]:
    """The options of `qdlm run` on the cluster, which knows the run and checks them."""
    if not (checked(run) if is_uri(run) else Path(run).is_absolute()):
        raise UserError(f"--resume {run}: give its full path on the cluster, or its URI")
    given = [("--set", item) for item in settings] + [("--within", item) for item in within]
    given += [] if trials is None else [("--trials", str(trials))]
    given += [] if budget is None else [("--budget", budget)]
    return ["--resume", run, *(word for pair in given for word in pair)]


def _attach_or_stop(address: str, attach: str | None, stop: str | None) -> int:
    from cluster import submitting

    jobs = submitting.client(address)
    if stop is not None:
        try:
            jobs.stop_job(stop)
        except RuntimeError as error:
            raise UserError(f"the cluster knows no job {stop}") from error
        typer.echo(f"job {stop} is being ended")
        return 0
    assert attach is not None, "one of the two"
    return _follow(jobs, attach, address)


def _follow(jobs: object, job: str, address: str) -> int:
    from cluster import submitting
    from search.cli.format import command

    try:
        status = submitting.follow(jobs, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo("\nthe job goes on. Come back with: "
                   f"{command('submit', '--attach', job, '--address', address)}", err=True)
        return 0
    typer.echo(f"job {job}: {status.lower()}")
    return 0 if status == "SUCCEEDED" else 1
