"""The table of the controllable-generation papers: rows are methods, columns are control tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli.table import TableContent, TableRequest
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.pareto.front import Front
    from search.records.run_folder import RunFolder
    from spaces.config import TrialConfig

CELLS, STEM = "table_tasks.json", "table_tasks"
BASE = "base"


def layout(request: TableRequest) -> TableContent:
    """Measure the cells that RUN does not hold yet, keep them, lay them out. Raises `UserError`
    for unknown names."""
    from search.cli.results import opened
    from trainable.baselines.comparison import METHODS

    folder, space, found = opened(request.run)
    methods = chosen("method", request.methods, METHODS)
    model = request.artifact or most_controllable(found)
    from spaces import points

    config = space.config(points.complete(space.dimensions, {}))
    tasks = task_names(request.tasks, config)
    cells = [] if request.fresh else kept(folder.path / CELLS)
    missing = [(task, method) for task in tasks for method in methods
               if find(cells, task, method, model, request.targets) is None]
    if missing:
        paths = shared_paths(folder, config)
        missing = fillable(missing, artifact_of(folder, paths, model))
    if missing:
        for cell in measured(artifact_of(folder, paths, model), paths, missing, request.targets, cells):
            cells.append({**cell, "model": model, "asked": request.targets})
            (folder.path / CELLS).write_text(json.dumps(cells, indent=1), encoding="utf-8")
    rows, notes = laid_out(cells, tasks, methods, model, request.targets)
    if not rows:
        raise UserError(f"table: {', '.join(methods)} of {', '.join(tasks)}: {model} was never told such "
                        "targets; train with trial.model.conditions")
    files = written(folder.path, rows)
    title = f"{model}: control % / lm-score, 95% intervals over {request.targets} targets"
    return TableContent(title, rows, notes, files)


def chosen(kind: str, wanted: Sequence[str], legal: Collection[str]) -> list[str]:
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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it or give --fresh") from None


def find(cells: list[dict], task: str, method: str, model: str, targets: int) -> dict | None:
    """The newest cell measured for these; baselines and human text do not depend on the model."""
    def fits(cell: dict) -> bool:
        own = cell["model"] == model or not method.startswith("diffusion")
        return own and (cell["task"], cell["method"], cell["asked"]) == (task, method, targets)
    return next((cell for cell in reversed(cells) if fits(cell)), None)


def artifact_of(folder: RunFolder, paths: dict[str, str], model: str) -> Path:
    """The folder of the diffusion model."""
    artifact = Path(paths[BASE]) if model == BASE else folder.path / "artifacts" / model
    if not artifact.is_dir():
        raise UserError(f"table: {artifact} is no exported model; legal: {BASE}, "
                        f"or a folder of {folder.path / 'artifacts'}")
    return artifact


def fillable(cells: Sequence[tuple[str, str]], artifact: Path) -> list[tuple[str, str]]:
    """Those (task, method) pairs that the model can fill: not what takes a model that was
    told such targets."""
    from spaces.config import PluginRef
    from trainable.artifacts.packed import CONFIG
    from trainable.baselines.comparison import is_applicable
    from trainable.registry import TASKS

    conditions = json.loads((artifact / CONFIG).read_text())["config"]["model"].get("conditions", [])
    refs = [PluginRef.model_validate(ref) for ref in conditions]
    return [(task, method)
            for task, method in cells if is_applicable(method, TASKS.build_default(task), refs)]


def shared_paths(folder: RunFolder, config: TrialConfig) -> dict[str, str]:
    """Where the run's corpus, teacher and base lie. Raises `UserError` when they are gone."""
    from search.cli.format import command, shown
    from search.records.run_folder import SPACE
    from trainable.stages.prepare import base_key, corpus_key, teacher_key

    made = [event["path"] for event in folder.events() if event.get("event") == "prepare" and "path" in event]
    if not made:
        raise UserError(f"{folder.path}: the run has prepared nothing yet")
    cache = next((Path(path).parent for path in made if Path(path).name.startswith("corpus-")),
                 Path(made[0]).parent)
    paths = {"corpus": str(cache / f"corpus-{corpus_key(config)}"),
             BASE: str(cache / f"base-{base_key(config)}"),
             "teacher": config.teacher.path or str(cache / f"teacher-{teacher_key(config)}")}
    for kind, path in paths.items():
        if not Path(path).is_dir() and not (kind == "teacher" and config.teacher.path):
            raise UserError(f"table: the run's {kind} is gone: no {path}; make it again: "
                            f"{command('run', shown(folder.path / SPACE), '--storage', shown(cache.parent))}")
    return paths


def measured(artifact: Path, paths: dict[str, str], missing: Sequence[tuple[str, str]], targets: int,
             known: Sequence[dict]) -> Iterator[dict]:
    """The missing cells, each as soon as it is there, telling how far it is and about how long
    the rest takes."""
    from rich.console import Console
    from rich.markup import escape

    from search.cli.format import duration
    from search.run.machine import free_cpus
    from trainable.baselines.comparison import compare, open_comparison

    console = Console(file=sys.stderr, highlight=False)
    found, left = [], list(missing)
    with console.status("[dim]opening the models[/]") as status:
        ground = open_comparison(artifact, paths["corpus"], paths["teacher"], targets, threads=free_cpus(),
                                 tell=lambda text: status.update(f"[dim]{escape(text)}[/]"))
        for task in dict.fromkeys(task for task, _ in missing):
            for cell in compare(ground, [task], [method for name, method in missing if name == task]):
                found.append(cell)
                left.remove((task, cell["method"]))
                seconds = seconds_left(left, [*known, *found])
                rest = f", about {duration(seconds)} left" if seconds else ""
                console.print(f"{task}, {cell['method']}: {cell_text(cell)} ({len(found)} of "
                              f"{len(missing)}{rest})", style="dim", markup=False, soft_wrap=True)
                yield cell


def seconds_left(left: Sequence[tuple[str, str]], cells: Sequence[dict]) -> float | None:
    """About how long these cells will take: each as long as its method took last, on the same task where
    it was measured there. None as long as one of the methods was never timed."""
    total = 0.0
    for task, method in left:
        own = [cell for cell in cells if cell["method"] == method and "seconds" in cell]
        if not own:
            return None
        total += ([cell for cell in own if cell["task"] == task] or own)[-1]["seconds"]
    return total


def laid_out(cells: list[dict], tasks: list[str], methods: list[str], model: str,
             targets: int) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """A row per method that has a cell, a column per task and oracle; the teacher and what the figures
    mean as notes."""
    rows = []
    held = {task: [cell for method in methods if (cell := find(cells, task, method, model, targets))]
            for task in tasks}
    teachers = {cell["teacher"] for found in held.values() for cell in found}
    columns = {task: f"{task} ({found[0]['oracle']})" if found else task for task, found in held.items()}
    for method in methods:
        row: dict[str, Any] = {"method": method}
        for task in tasks:
            cell = find(cells, task, method, model, targets)
            row[columns[task]] = cell_text(cell) if cell else None
        if any(row[columns[task]] for task in tasks):
            rows.append(row)
    return rows, ("control: success in % by the oracle in brackets; lm-score: "
                  f"perplexity under {', '.join(sorted(teachers))}",)


def cell_text(cell: dict) -> str:
    """`81.2 [75.0, 86.1] / 2.55 [2.40, 2.71]`."""
    value, low, high = (100 * share for share in cell["control"])
    score, least, most = cell["lm_score"]
    return f"{value:.1f} [{low:.1f}, {high:.1f}] / {score:.2f} [{least:.2f}, {most:.2f}]"


def written(folder: Path, rows: list[dict[str, Any]]) -> tuple[Path, ...]:
    """The table as CSV and Markdown beside the run."""
    from search.cli.format import emit

    paths = tuple(folder / f"{STEM}.{form}" for form in ("csv", "md"))
    for path in paths:
        path.write_text(emit(rows, path.suffix[1:]) + "\n", encoding="utf-8")
    return paths
