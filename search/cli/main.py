"""`qdlm`: the command line. One file a command; what is heavy is imported inside it.

Exit codes: 0 done, 1 the run failed or was interrupted, 2 bad input (one line on standard error).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from inspect import getdoc
from typing import Protocol, cast

import typer

from search.cli.examples import examples
from spaces.errors import RunError, UserError
from spaces.extras import of_search
from spaces.importing import importing
from spaces.shell import program
from spaces.texts import visible

OK, FAILED, BAD_INPUT = 0, 1, 2
HOMES = {"run": "run", "submit": "submit", "front": "results", "status": "results", "trials": "trials",
         "replay": "replay", "report": "report", "watch": "watch", "dashboard": "watch", "compare": "compare",
         "sync": "sync", "table": "table", "generate": "generate", "export": "export", "bench": "bench",
         "spaces": "inspect", "doctor": "inspect", "plugins": "plugins"}
"""Each command's module here, in the order of `qdlm --help`. Of one that is asked for, only its own is
imported: to take all commands apart takes as long as some of them run."""


class Commands(Protocol):
    """One of these modules."""

    def register(self, app: typer.Typer) -> None:
        """Add its commands."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # slow to import

        try:
            typer.echo(f"qdlm {metadata.version('qdlm')}")
        except metadata.PackageNotFoundError:
            typer.echo("qdlm, run from its source folder")
        raise typer.Exit()


def qdlm(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True,
                                 help="Print the version."),
) -> None:
    """The best quantized, LoRA-adapted, controllable diffusion language models within what you can afford.

    A search space goes in; a Pareto front comes out: perplexity, controllability, latency, size.
    """


def app_of(command: str | None = None) -> typer.Typer:
    """The program with the module of this command alone; with all of them where no command has the name."""
    app = typer.Typer(
        name="qdlm", rich_markup_mode="rich", pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=examples(
            "qdlm run spaces/quickstart.yaml",
            "search the built-in corpus; the front in 4 to 7 minutes on 2 cores",
            "qdlm front runs/quickstart-...", "the trade-offs that were found",
            "qdlm generate runs/quickstart-.../artifacts/trial-0003", "text from one member of the front",
        ),
    )
    app.callback()(qdlm)
    for home in [HOMES[command]] if command in HOMES else dict.fromkeys(HOMES.values()):
        cast(Commands, importlib.import_module(f"search.cli.{home}")).register(app)
    for each in app.registered_commands:  # the list of commands would keep the line breaks of the docstrings
        each.short_help = " ".join((getdoc(each.callback) or "").partition("\n\n")[0].split())
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Bugs are not caught: their traceback is the report."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with importing():
            app = app_of(arguments[0] if arguments else None)
        return app(args=arguments or ["--help"], prog_name="qdlm", standalone_mode=False) or OK
    except UserError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        needed = of_search(error)
        if needed is None:
            raise
        message = str(needed)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        where = (context.command_path if context else "qdlm").replace("qdlm", program(), 1)
        message = f"{error.format_message().rstrip('.')} (see: {where} --help)"
    except RunError as error:
        print(f"qdlm: the run stopped: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return FAILED
    except typer.Abort:
        return FAILED
    print(f"qdlm: error: {visible(' '.join(message.split()))}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
