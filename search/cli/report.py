"""`qdlm report`: a run as one HTML file, and its figures as files."""

from __future__ import annotations

from pathlib import Path

import typer

from search.cli.arguments import run_folder
from search.cli.examples import examples
from spaces.errors import UserError
from spaces.uris import origin


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm report runs/NAME --open", "write RUN/report.html and show it",
        "qdlm report runs/NAME --out front.html", "one file, no network: it can be mailed",
        "qdlm report runs/NAME --figures figures", "every figure as PNG, SVG and CSV, for a paper",
    ))(report)


def report(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    out: Path | None = typer.Option(None, metavar="FILE", show_default=False,
                                    help="By default RUN/report.html; of a URI, NAME.report.html here."),
    figures: Path | None = typer.Option(None, metavar="DIR", show_default=False,
                                        help="Write the figures there too, each as PNG, SVG and CSV."),
    show: bool = typer.Option(False, "--open", help="Open the page in a browser."),
) -> None:
    """Write what a run found and what it cost as one HTML file: front, settings, curves, samples,
    how to repeat it."""
    import webbrowser

    from dashboards.report import write_report
    from search.cli.format import shown
    from search.reporting.report import collect

    content = collect(run)
    target = (out if out is not None else run / "report.html" if origin(run) is None
              else Path(f"{run.name}.report.html"))
    try:
        write_report(content, target)
        if figures is not None:
            from dashboards.figures import write_figures

            written = write_figures(content, figures)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
    typer.echo(f"{shown(target)}  {target.stat().st_size / 1e6:.1f} MB")
    if figures is not None:
        typer.echo(f"{shown(figures)}  {len(written)} files")
    if show and not webbrowser.open(target.resolve().as_uri()):
        raise UserError(f"no browser could be started; open {target} by hand")
