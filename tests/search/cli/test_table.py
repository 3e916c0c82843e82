"""`qdlm table`: layouts by name, names that hold commas, cells that are kept, and what it says when
something is gone."""

import json
from types import SimpleNamespace

import pytest

from search.cli import table
from search.cli.main import main
from search.cli.table_tasks import (
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
from search.records.run_folder import RunFolder
from spaces import points
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.baselines.comparison import CLASSIFIER_FREE
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

LEGAL = ["human", "diffusion, guided", "FUDGE"]


def cell(task="length", method="FUDGE", model="base", asked=50, value=0.5):
    return {"task": task, "method": method, "model": model, "asked": asked, "oracle": "count",
            "teacher": "toy", "control": [value, 0.4, 0.6], "lm_score": [2.5, 2.0, 3.0]}


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
    assert all(callable(table.resolve(name)) for name in table.LAYOUTS)
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
    assert (csv.read_text().splitlines()[0] == "method,length (count)"
            and page.read_text().startswith("| method | length"))


def test_what_a_model_was_never_told_leaves_no_row_or_an_empty_cell():
    cells = [cell(), cell(task="pos"), cell(method=CLASSIFIER_FREE)]
    rows, _ = laid_out(cells, ["length", "pos"], [CLASSIFIER_FREE, "FUDGE"], "base", 50)
    assert [row["method"] for row in rows] == [CLASSIFIER_FREE, "FUDGE"] and rows[0]["pos (count)"] is None
    rows, _ = laid_out(cells[:2], ["length", "pos"], [CLASSIFIER_FREE, "FUDGE"], "base", 50)
    assert [row["method"] for row in rows] == ["FUDGE"]


def test_which_cells_a_model_can_fill(tmp_path):
    wanted = [("length", CLASSIFIER_FREE), ("pos", CLASSIFIER_FREE), ("pos", "FUDGE"),
              ("compose", CLASSIFIER_FREE)]
    for conditions, count in ((None, 1), ([], 1), ([{"name": "pos"}], 2),
                              ([{"name": "pos"}, {"name": "semantic"}], 3)):
        model = {} if conditions is None else {"conditions": conditions}
        (tmp_path / "config.json").write_text(json.dumps({"config": {"model": model}}))
        assert len(fillable(wanted, tmp_path)) == count and ("pos", "FUDGE") in fillable(wanted, tmp_path)


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
    rows = [{"artifact": "artifacts/trial-0001", "controllability": 0.5},
            {"artifact": None, "controllability": 0.9},
            {"artifact": "artifacts/trial-0002", "controllability": 0.7}]
    assert most_controllable(rows) == "trial-0002" and most_controllable([]) == "base"


def test_what_the_run_shared_may_be_gone(tmp_path):
    events = [{"event": "prepare", "path": str(tmp_path / "corpus-0")}]
    folder = SimpleNamespace(path=tmp_path, events=lambda: iter(events))
    with pytest.raises(UserError, match="the run's corpus is gone"):
        shared_paths(folder, TrialConfig())
    with pytest.raises(UserError, match="has prepared nothing"):
        shared_paths(SimpleNamespace(path=tmp_path, events=lambda: iter([])), TrialConfig())


@pytest.fixture(scope="module")
def told_run(tmp_path_factory):
    """A run with nothing but its prepared models: a base that was told lengths."""
    storage = tmp_path_factory.mktemp("storage")
    space = Space.from_dict({
        "name": "toy", "objectives": {"controllability": "maximize"}, "rungs": [1], "budget": {"trials": 1},
        "search": {"lora.rank": {"int": [0, 1]}}, "trial": {
            "corpus": {"source": {"name": "restaurant", "sentences": 120,
                                  "valid_sentences": 20, "max_words": 12}, "max_length": 14, "min_count": 1},
            "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8,
                      "dropout": 0.0, "conditions": ["length"]},
            "diffusion": {"timesteps": 50, "loss": "ce"}, "sampling": {"steps": 4},
            "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 3}},
            "base": {"optim": {"steps": 3}}, "evaluation": {"control_tasks": ["length", "pos"]}}})
    folder = RunFolder.create(storage, "toy", space.to_yaml(), {"columns": {}})
    config = space.config(points.complete(space.dimensions, {})).model_dump(mode="json")
    context, corpus = WorkerContext(), None
    for job in ("corpus", "teacher", "base"):
        made = list(JOBS[job]({"config": config, "cache": str(storage / "cache"), "corpus": corpus},
                              context))[-1]["path"]
        folder.event({"event": "prepare", "stage": job, "path": made})
        corpus = corpus or made
    return str(folder.path)


def test_a_table_is_measured_kept_and_gone_on_with(told_run, capsys):
    """Only what is missing is measured; what the base was never told stays empty; a method asked for
    in vain is told."""
    part = ["table", told_run, "--targets", "4", "--format", "json"]
    assert main([*part, "--methods", "human", "--tasks", "length"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)[0]["length (count)"].startswith("100.0 [") and "length, human: 100.0" in err
            and "(1 of 1)" in err)
    assert main([*part, "--methods", f"human,{CLASSIFIER_FREE}"]) == 0
    out, err = capsys.readouterr()
    rows = {row["method"]: row for row in json.loads(out)}
    assert rows[CLASSIFIER_FREE]["length (count)"] and rows[CLASSIFIER_FREE]["pos (grammar)"] is None
    assert rows["human"]["pos (grammar)"]
    assert ("length, human" not in err and f"length, {CLASSIFIER_FREE}" in err and "pos, human" in err
            and "(2 of 2)" in err)
    assert main([*part, "--methods", f"human,{CLASSIFIER_FREE}"]) == 0 and capsys.readouterr().err == ""
    assert main([*part, "--methods", CLASSIFIER_FREE, "--tasks", "pos"]) == 2
    assert "base was never told such targets; train with trial.model.conditions" in capsys.readouterr().err
