"""`qdlm table`: layouts by name, names that hold commas, cells that are kept, and what it says when something is gone."""

import json
from types import SimpleNamespace

import pytest

from search import cli_table
from search.cli import main
from search.cli_table_tasks import (
    cell_text,
    chosen,
    fillable,
    find,
    kept,
    laid_out,
    most_controllable,
    seconds_left,
    shared_paths,
    written,
)
from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.baselines.comparison import TOLD

LEGAL = ["human", "diffusion, guided", "FUDGE"]


def cell(task="length", method="FUDGE", model="base", asked=50, value=0.5):
    return {"task": task, "method": method, "model": model, "asked": asked, "oracle": "count", "teacher": "toy",
            "control": [value, 0.4, 0.6], "lm_score": [2.5, 2.0, 3.0]}


@pytest.mark.parametrize(("wanted", "found"), [
    ((), LEGAL), (("FUDGE",), ["FUDGE"]), (("diffusion", "guided"), ["diffusion, guided"]),
    (("human", "diffusion", "guided", "FUDGE"), LEGAL),
])
def test_names_with_commas(wanted, found):
    assert chosen("method", wanted, LEGAL) == found


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(UserError, match="unknown method 'diffusion'; legal: human; diffusion, guided; FUDGE"):
        chosen("method", ("diffusion",), LEGAL)


def test_every_layout_resolves(capsys):
    assert all(callable(cli_table.resolve(name)) for name in cli_table.LAYOUTS)
    assert main(["table", "nowhere", "--layout", "rows"]) == 2
    assert "unknown table layout 'rows'; legal: tasks" in capsys.readouterr().err


def test_a_run_that_is_none(tmp_path, capsys):
    assert main(["table", str(tmp_path / "none")]) == 2
    assert "qdlm: error:" in capsys.readouterr().err


def test_baselines_serve_every_model_and_diffusion_only_its_own():
    cells = [cell(model="trial-0001"), cell(method="diffusion, guided", model="trial-0001")]
    assert find(cells, "length", "FUDGE", "trial-0002", 50) is cells[0]
    assert find(cells, "length", "diffusion, guided", "trial-0002", 50) is None
    assert find(cells, "length", "FUDGE", "trial-0002", 20) is None
    newer = cell(value=0.9)
    assert find([*cells, newer], "length", "FUDGE", "base", 50) is newer


def test_the_table_has_a_row_per_method_and_names_oracle_and_teacher(tmp_path):
    cells = [cell(), cell(method="human", value=1.0)]
    rows, notes = laid_out(cells, ["length"], ["human", "FUDGE"], "base", 50)
    assert rows[1] == {"method": "FUDGE", "length (count)": "50.0 [40.0, 60.0] / 2.50 [2.00, 3.00]"}
    assert cell_text(cells[0]) == rows[1]["length (count)"] and "toy" in notes[0]
    csv, page = written(tmp_path, rows)
    assert csv.read_text().splitlines()[0] == "method,length (count)" and page.read_text().startswith("| method | length")


def test_what_a_model_was_never_told_leaves_no_row_or_an_empty_cell():
    cells = [cell(), cell(task="pos"), cell(method=TOLD)]
    rows, _ = laid_out(cells, ["length", "pos"], [TOLD, "FUDGE"], "base", 50)
    assert [row["method"] for row in rows] == [TOLD, "FUDGE"] and rows[0]["pos (count)"] is None
    assert [row["method"] for row in laid_out(cells[:2], ["length", "pos"], [TOLD, "FUDGE"], "base", 50)[0]] == ["FUDGE"]


def test_which_cells_a_model_can_fill(tmp_path):
    wanted = [("length", TOLD), ("pos", TOLD), ("pos", "FUDGE"), ("compose", TOLD)]
    for conditions, count in ((None, 1), ([], 1), ([{"name": "pos"}], 2), ([{"name": "pos"}, {"name": "semantic"}], 3)):
        model = {} if conditions is None else {"conditions": conditions}
        (tmp_path / "config.json").write_text(json.dumps({"config": {"model": model}}))
        able, not_able = fillable(wanted, tmp_path)
        assert len(able) == count and sorted(able + not_able) == sorted(wanted)


def test_the_time_left_is_that_of_the_same_methods_and_unknown_before():
    left = [("pos", "FUDGE"), ("pos", "human")]
    first = {**cell(), "seconds": 40.0}
    assert seconds_left(left, [first]) is None and seconds_left([], []) == 0
    others = [first, {**cell(method="human"), "seconds": 0.5}]
    assert seconds_left(left, others) == 40.5
    assert seconds_left(left, [*others, {**cell(task="pos"), "seconds": 60.0}]) == 60.5


def test_kept_cells_are_read_back_and_damage_is_told(tmp_path):
    path = tmp_path / "cells.json"
    assert kept(path) == []
    path.write_text(json.dumps([cell()]))
    assert kept(path) == [cell()]
    path.write_text("{")
    with pytest.raises(UserError, match="cells.json: cannot be read .* --fresh"):
        kept(path)


def test_the_most_controllable_member_is_taken():
    rows = [{"artifact": "artifacts/trial-0001", "controllability": 0.5}, {"artifact": None, "controllability": 0.9},
            {"artifact": "artifacts/trial-0002", "controllability": 0.7}]
    assert most_controllable(rows) == "trial-0002" and most_controllable([]) == "base"


def test_what_the_run_shared_may_be_gone(tmp_path):
    events = [{"event": "prepare", "path": str(tmp_path / "corpus-0")}]
    folder = SimpleNamespace(path=tmp_path, events=lambda: iter(events))
    with pytest.raises(UserError, match="the run's corpus is gone"):
        shared_paths(folder, TrialConfig())
    with pytest.raises(UserError, match="has prepared nothing"):
        shared_paths(SimpleNamespace(path=tmp_path, events=lambda: iter([])), TrialConfig())
