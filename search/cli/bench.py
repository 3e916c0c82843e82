"""`qdlm bench`: what an exported model costs to run, beside another one or its base. Ray is not imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import typer

from search.cli.arguments import AS_JSON, artifact_folder
from search.cli.examples import examples
from spaces.errors import UserError
from spaces.importing import importing
from spaces.uris import joined, origin, parent

STEPS = (20, 50, 200)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Use what was found", epilog=examples(
        "qdlm bench runs/NAME/artifacts/trial-0003 --against base",
        "beside the model that its trial started from",
        "qdlm bench ARTIFACT --against OTHER --batch 1,64", "two artifacts, batches of 1 and of 64",
        "qdlm bench ARTIFACT --steps 20 --threads 1", "one core",
    ))(bench)


def bench(
    artifact: Path = typer.Argument(metavar="ARTIFACT", show_default=False, parser=artifact_folder,
                                    help="An exported model: RUN/artifacts/trial-NNNN, a folder or a URI."),
    against: str | None = typer.Option(None, metavar="ARTIFACT|base", show_default=False,
                                       help="What to compare with, measured in turns in the same window."),
    device: str = typer.Option("cpu", metavar="cpu|cuda", help="Where to run."),
    batch: str = typer.Option("1,8,64", metavar="N,...", help="Sentences generated at once."),
    steps: str
    | None = typer.Option(None, metavar="N,...", show_default=False,
                          help="Sampler steps; unless given 20, 50 and 200, where the model has as many."),
    repeats: int = typer.Option(12, metavar="N", min=2,
                                help="Timed generations of each cell, after one to warm up."),
    threads: int | None = typer.Option(None, metavar="N", min=1, show_default=False,
                                       help="Torch threads on the CPU."),
    table: Literal["auto", "decoded", "packed"] = typer.Option(
        "auto", help="The word table as floats or as codes; auto: codes where that is faster."),
    out: Path | None = typer.Option(None, metavar="PREFIX", show_default=False,
                                    help="Where PREFIX.json and PREFIX.png go; bench-ARTIFACT unless given."),
    form: Literal["table", "json"] = typer.Option("table", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Measure latency, throughput, memory and bytes of an exported model; write them as JSON and a plot."""
    batches, counts = numbers("--batch", batch), None if steps is None else numbers("--steps", steps)
    with importing():
        import torch

        from dashboards.plot_bench import bench_png
        from trainable.benchmarking import bench as measuring

    _check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    sides = measuring.open_pair(artifact, other(artifact, against), device, table)
    most = min(side.process.levels for side in sides)
    counts = counts or [count for count in STEPS if count <= most] or [most]
    found: dict[str, Any] = {"artifact": artifact.name, "against": against and Path(against).name,
                             "unit": "ms a sentence", "repeats": repeats, "table": table,
                             **measuring.surroundings(device), "products": measuring.kernels(sides),
                             "hints": [measuring.hint(side) for side in sides], "cells": []}
    from search.cli.generate import waiting

    with waiting("measuring memory"):
        forms: tuple[measuring.Table, ...] = (table, "auto")
        found["memory"] = [measuring.weight(side, device, max(batches), min(counts), form)
                           for side, form in zip(sides, forms, strict=False)]
    with waiting("timing"):
        for cell in measuring.cells(sides, batches, counts, repeats, device):
            found["cells"].append(cell)
    out = out or Path(f"bench-{artifact.name}")
    picture = bench_png(found, Path(f"{out}.png"))
    written = Path(f"{out}.json")
    written.write_text(json.dumps(found, indent=1) + "\n")
    if as_json or form == "json":
        typer.echo(json.dumps(found, indent=1))
    else:
        show(found, written, picture)


def other(artifact: Path, against: str | None) -> str | None:
    """`--against` as a folder. The base of a model that was fetched from a URI is fetched from that
    storage's cache."""
    if against is None or against != "base":
        return against and str(artifact_folder(against))
    uri = origin(artifact)
    base = uri and json.loads((artifact / "config.json").read_text(encoding="utf-8")).get("facts",
                                                                                          {}).get("base")
    if not uri or not base or Path(base).is_dir():
        return against
    storage = parent(parent(parent(uri)[0])[0])[0]  # of STORAGE/RUN/artifacts/trial-NNNN
    return str(artifact_folder(joined(storage, "cache", Path(base).name)))


def numbers(option: str, text: str) -> list[int]:
    """`1,8,64` as whole numbers. Raises `UserError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"{option} {text!r}: expected whole numbers above 0 with commas between, "
                        "such as 1,8,64")
    return sorted({int(part) for part in parts})


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device {device!r}: legal: cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch {torch.__version__} sees no CUDA device here; legal: cpu")


def show(found: dict[str, Any], written: Path, picture: Path) -> None:
    """Print the figures for people."""
    from rich.markup import escape

    from search.cli.format import figure, grid, out, plain, shown

    names = [escape(found["artifact"])] + ([escape(found["against"])] if found["against"] else [])
    console = out()
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    load = "" if found["load"] < 0.8 * found["cpus"] else "; the machine is busy, trust the ratio"
    console.print(f"[bold]{' against '.join(names)}[/]  [dim]{found['processor']}, {threads}, "
                  f"torch {found['torch']}, load {found['load']}{load}[/]")
    rows = []
    for cell in found["cells"]:
        row = [str(cell["steps"]), str(cell["batch"])]
        for side in cell["sides"]:
            row += [f"{plain(side['p50'])} ({plain(side['interval'][0])}-{plain(side['interval'][1])})",
                    plain(side["p95"]), plain(side["throughput"])]
        if "ratio" in cell:
            row.append(
                f"{cell['ratio']:.3f} ({cell['ratio_interval'][0]:.3f}-{cell['ratio_interval'][1]:.3f})")
        rows.append(row)
    columns = ["steps", "batch",
               *(head for name in names for head in (f"{name} ms", "p95 ms", "sentences/s"))]
    columns += ["ratio"] if len(names) == 2 else []
    console.print(grid(None, columns, rows, right=columns))
    sizes = [[name, figure("disk_bytes", side["disk"]), figure("resident_bytes", side["resident"]),
              figure("peak_bytes", side["peak"])] for name, side in zip(names, found["memory"], strict=True)]
    if len(names) == 2:
        sizes.append(["ratio", *(_share(found["memory"], key) for key in ("disk", "resident", "peak"))])
    console.print(grid(None, ["", "on disk", "in memory", "peak"], sizes,
                       right=["on disk", "in memory", "peak"]))
    for name, used in zip(names, found["products"], strict=True):
        if used:
            counts = ", ".join(f"{kind} {count}" for kind, count in sorted(used.items()))
            console.print(f"[dim]{name}: layers of int8 by product: {counts}[/]")
    for hint in sorted(set(filter(None, found["hints"]))):
        console.print(f"[dim]{escape(hint)}[/]")
    console.print(f"[dim]ms a sentence: median (95%); {shown(written)}, {shown(picture)}[/]")


def _share(memory: list[dict[str, Any]], key: str) -> str:
    first, second = (side[key] for side in memory)
    return "-" if not first or not second else f"{first / second:.3f}"
