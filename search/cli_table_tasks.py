"""The table of the controllable-generation papers: rows are methods, columns are control tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli_table import Asked, Laid
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.front import Front
    from search.records import RunFolder
    from spaces.config import TrialConfig
    from trainable.baselines.comparison import Ground

CELLS, STEM = "table_tasks.json", "table_tasks"
BASE = "base"


def layout(asked: Asked) -> Laid:
    """Measure the cells that RUN does not hold yet, keep them, lay them out. Raises `UserError` for unknown names."""
    from search.cli_results import opened
    from trainable.baselines.comparison import METHODS

    folder, space, found = opened(asked.run)
    methods = chosen("method", asked.methods, METHODS)
    model = asked.artifact or most_controllable(found)
    from spaces import points

    config = space.config(points.complete(space.dimensions, {}))
    tasks = task_names(asked.tasks, config)
    cells = [] if asked.fresh else kept(folder.path / CELLS)
    ground = None
    for task in tasks:
        missing = [method for method in methods if find(cells, task, method, model, asked.targets) is None]
        if missing:
            ground = ground or prepared_ground(folder, config, model, asked.targets)
            for cell in measured(ground, task, missing, model):
                cells.append(cell)
                (folder.path / CELLS).write_text(json.dumps(cells, indent=1), encoding="utf-8")
    rows, notes = laid_out(cells, tasks, methods, model, asked.targets)
    files = written(folder.path, rows)
    title = f"{model}: control % / lm-score, 95% intervals over {asked.targets} targets"
    return Laid(title, rows, notes, files)


def chosen(kind: str, wanted: Sequence[str], legal: Sequence[str]) -> list[str]:
    """The wanted names, all where none is wanted. A name that holds a comma may come in two pieces."""
    if not wanted:
        return list(legal)
    found, pieces = [], list(wanted)
    while pieces:
        two = ", ".join(pieces[:2])
        name = two if len(pieces) > 1 and two in legal else pieces[0]
        if name not in legal:
            raise UserError(f"table: unknown {kind} {name!r}; legal: {'; '.join(legal)}")
        found.append(name)
        pieces = pieces[2 if name == two else 1:]
    return found


def task_names(wanted: Sequence[str], config: TrialConfig) -> list[str]:
    """The wanted tasks; by default those that the run measured."""
    from trainable.registry import TASKS

    return chosen("task", wanted or [ref.name for ref in config.evaluation.control_tasks], list(TASKS))


def most_controllable(found: Front) -> str:
    """The exported front member with the highest controllability; the base where there is none."""
    members = [row for row in found if row.get("artifact") and row.get("controllability") is not None]
    best = max(members, key=lambda row: row["controllability"], default=None)
    return Path(best["artifact"]).name if best else BASE


def kept(path: Path) -> list[dict[str, Any]]:
    """Cells measured before."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it or give --fresh") from None


def find(cells: list[dict], task: str, method: str, model: str, targets: int) -> dict | None:
    """The newest cell measured for these; baselines and human text do not depend on the model."""
    def fits(cell: dict) -> bool:
        own = cell["model"] == model or not method.startswith("diffusion")
        return own and (cell["task"], cell["method"], cell["asked"]) == (task, method, targets)
    return next((cell for cell in reversed(cells) if fits(cell)), None)


def prepared_ground(folder: RunFolder, config: TrialConfig, model: str, targets: int) -> Ground:
    """The run's model, corpus and teacher."""
    from trainable.baselines.comparison import opened_ground

    paths = shared_paths(folder, config)
    artifact = Path(paths[BASE]) if model == BASE else folder.path / "artifacts" / model
    if not artifact.is_dir():
        raise UserError(f"table: {artifact} is no exported model; legal: {BASE}, or a folder of {folder.path / 'artifacts'}")
    return opened_ground(artifact, paths["corpus"], paths["teacher"], targets)


def shared_paths(folder: RunFolder, config: TrialConfig) -> dict[str, str]:
    """Where the run's corpus, teacher and base lie. Raises `UserError` when they are gone."""
    from trainable.prepare import base_key, corpus_key, teacher_key

    made = [event["path"] for event in folder.events() if event.get("event") == "prepare" and "path" in event]
    if not made:
        raise UserError(f"{folder.path}: the run has prepared nothing yet")
    cache = next((Path(path).parent for path in made if Path(path).name.startswith("corpus-")), Path(made[0]).parent)
    paths = {"corpus": str(cache / f"corpus-{corpus_key(config)}"), BASE: str(cache / f"base-{base_key(config)}"),
             "teacher": config.teacher.path or str(cache / f"teacher-{teacher_key(config)}")}
    for kind, path in paths.items():
        if not Path(path).is_dir() and not (kind == "teacher" and config.teacher.path):
            raise UserError(f"table: the run's {kind} is gone: no {path}; `qdlm run` with the same space makes it again")
    return paths


def measured(ground: Ground, task: str, methods: list[str], model: str) -> Iterator[dict]:
    """Cells of one task, each as soon as it is there, telling how far it is."""
    from rich.console import Console

    from trainable.baselines.comparison import compare

    console = Console(file=sys.stderr, highlight=False)
    with console.status(f"[dim]{task}[/]"):
        for done, cell in enumerate(compare(ground, [task], methods), 1):
            console.print(f"{task}, {cell['method']}: {cell_text(cell)} ({done} of {len(methods)})", style="dim", markup=False)
            yield {**cell, "model": model, "asked": ground.targets}


def laid_out(cells: list[dict], tasks: list[str], methods: list[str], model: str,
             targets: int) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """A row per method, a column per task and oracle; the teacher and what the figures mean as notes."""
    rows, teachers = [], set()
    for method in methods:
        row: dict[str, Any] = {"method": method}
        for task in tasks:
            cell = find(cells, task, method, model, targets)
            row[f"{task} ({cell['oracle']})"] = cell_text(cell)
            teachers.add(cell["teacher"])
        rows.append(row)
    return rows, (f"control: success in % by the oracle in brackets; lm-score: perplexity under {', '.join(sorted(teachers))}",)


def cell_text(cell: dict) -> str:
    """`81.2 [75.0, 86.1] / 2.55 [2.40, 2.71]`."""
    value, low, high = (100 * share for share in cell["control"])
    score, least, most = cell["lm_score"]
    return f"{value:.1f} [{low:.1f}, {high:.1f}] / {score:.2f} [{least:.2f}, {most:.2f}]"


def written(folder: Path, rows: list[dict[str, Any]]) -> tuple[Path, ...]:
    """The table as CSV and Markdown beside the run."""
    from search.cli_format import emit

    paths = tuple(folder / f"{STEM}.{form}" for form in ("csv", "md"))
    for path in paths:
        path.write_text(emit(rows, path.suffix[1:]) + "\n", encoding="utf-8")
    return paths
