"""`qdlm export`: an exported model in a form that other programs load."""

from __future__ import annotations

from pathlib import Path

import typer

from search.cli.arguments import artifact_folder
from search.cli.examples import examples
from spaces.importing import importing


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(rich_help_panel="Use what was found", epilog=examples(
        "qdlm export ARTIFACT --to hf", "a folder for transformers' AutoModel and AutoTokenizer, and peft",
        "qdlm export ARTIFACT --to compressed-tensors", "the same with the codes of its body",
        "qdlm export ARTIFACT --to onnx --out model", "model/model.onnx: one forward pass, for onnxruntime",
    ))(export)


def export(
    artifact: Path = typer.Argument(metavar="ARTIFACT", show_default=False, parser=artifact_folder,
                                    help="An exported model: RUN/artifacts/trial-NNNN, a folder or a URI."),
    to: str = typer.Option(..., "--to", metavar="hf|compressed-tensors|onnx", show_default=False,
                           help="hf: config, float weights and tokenizer, the adapter beside its base where "
                                "it stands apart; compressed-tensors: the same with the body's codes; onnx: "
                                "the network as a float graph."),
    out: Path | None = typer.Option(None, metavar="DIR", show_default=False,
                                    help="A new folder; ARTIFACT's name with the form here, unless given."),
) -> None:
    """Write an exported model for other programs. Its codes are decoded to floats, but for
    compressed-tensors."""
    from search.cli.format import shown
    from search.cli.generate import waiting
    with importing():
        from trainable.artifacts.exporting import export_to

    with waiting(f"writing {to}"):
        written = export_to(to, artifact, out or Path(f"{artifact.name}-{to}"))
    typer.echo(shown(written))
