"""docs/notebook.ipynb, cell by cell: a whole small search with a tracker, its table, a model of its front."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "notebook.ipynb"


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; what a notebook would print below it: the value of its last line, where that has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, PAGE.name, "exec"), names)
    if last is not None:
        return eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)


def test_the_notebook_runs(ray_session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = json.loads(PAGE.read_text(encoding="utf-8"))
    assert page["nbformat"] == 4 and not any(cell.get("outputs") for cell in page["cells"])
    names: dict[str, Any] = {}
    size, run, table, texts, tracked = (shown("".join(cell["source"]), names) for cell in page["cells"]
                                        if cell["cell_type"] == "code")
    assert size == 12 and run.state == "finished" and run.path.parent == tmp_path / "runs"
    assert len(table) == 4 and set(table["state"]) <= {"complete", "stopped"}
    assert capsys.readouterr().out.count("trial ") == 4, "the callback was told of each"
    assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
    assert tracked == ["search", *(f"trial-{number:04d}" for number in table["trial"])]
    assert names["best"].metrics["size_bytes"] <= 200_000 and names["best"].on_front
