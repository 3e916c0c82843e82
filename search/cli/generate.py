"""`qdlm generate`: text from an exported model. Ray is not imported: an artifact stands on its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import typer

from search.cli.arguments import AS_JSON, artifact_folder
from search.cli.examples import examples
from spaces.errors import UserError
from spaces.importing import importing
from spaces.texts import visible, visible_json


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Use what was found", epilog=examples(
        "qdlm generate runs/NAME/artifacts/trial-0003", "eight sentences",
        "qdlm generate ARTIFACT --control length=14 -n 4", "of fourteen words",
        "qdlm generate ARTIFACT --control food=Italian --control length=12", "two wishes at once",
        "qdlm generate ARTIFACT --control food=Italian --json", "with a meaning; one JSON object per line",
        "qdlm generate ARTIFACT --steps 20 --seed 7", "fewer sampler steps, other noise",
        "qdlm generate ARTIFACT --control length=14 --by classifier_free",
        "by telling a model with model.conditions",
    ))(generate)


def generate(
    artifact: Path = typer.Argument(metavar="ARTIFACT", show_default=False, parser=artifact_folder,
                                    help="An exported model: RUN/artifacts/trial-NNNN, a folder or a URI."),
    control: list[str] = typer.Option([], metavar="KEY=VALUE", show_default=False,
                                       help="What the text shall satisfy: length=14, food=Italian; "
                                            "may be given again."),
    count: int = typer.Option(8, "--count", "-n", metavar="N", min=1, help="How many sentences."),
    seed: int = typer.Option(0, metavar="N", min=0, help="Of the sampling noise: same seed, same text."),
    steps: int | None = typer.Option(None, metavar="N", min=1, show_default=False,
                                     help="Sampler steps, instead of the exported setting."),
    by: Literal["gradient", "classifier_free", "both", "reweight"] | None = typer.Option(
        None, show_default=False,
        help="What leads to the control, instead of the exported evaluation.guidance.by."),
    scale: float | None = typer.Option(None, metavar="W", min=0, show_default=False,
                                       help="Of classifier-free guidance, instead of the exported setting."),
    form: Literal["text", "json"] = typer.Option("text", "--format", help="json: one object per sentence."),
    as_json: bool = AS_JSON,
) -> None:
    """Generate text with an exported model, freely or under a control. Needs no Ray."""
    if not artifact.is_dir():
        raise UserError(f"{artifact}: no such folder; expected an artifact, such as RUN/artifacts/trial-0003")
    with importing():
        from trainable.artifacts.artifact import load, seeded
        from trainable.artifacts.texts import texts

    as_json = as_json or form == "json"
    with waiting(f"loading {artifact.name}"):
        loaded = load(artifact)
    given = {name: value for name, value in (("by", by), ("scale", scale)) if value is not None}
    rows = shown(texts(loaded, count, seeded(artifact, seed), controls=control, steps=steps, guidance=given))
    met = made = 0
    for row in rows:
        typer.echo(visible_json(row) if as_json else visible(row["text"]))
        made, met = made + 1, met + row.get("success", 0)
    if control and not as_json:
        typer.echo(f"{', '.join(control)}: met by {met:.0f} of {made} (oracle: {row['oracle']})", err=True)


def shown(batches: Iterator[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The rows of all batches, a spinner turning while one is made."""
    while True:
        with waiting("generating"):
            rows = next(batches, None)
        if rows is None:
            return
        yield from rows


def waiting(text: str) -> Any:
    """A spinner on a terminal, nothing elsewhere."""
    from rich.console import Console

    return Console(file=sys.stderr).status(f"[dim]{text}[/]")
