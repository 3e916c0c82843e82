"""`qdlm table RUN --layout quantizers` on a run folder: rows, notes, the picture, and what it refuses."""

import json

import pytest
from small_grid import SPACE

from search.cli.main import BAD_INPUT, OK, main
from search.records.run_folder import RunFolder
from spaces.schema import Space

COST = {"none": 0.0, "fixed:Q0i4f": 0.1, "fixed:Q4i0f": 1.0}


def folder(tmp_path, finished=True):
    run = RunFolder.create(tmp_path, "small", Space.from_yaml(SPACE).to_yaml())
    number = 0
    for quantizer, cost in COST.items():
        for seed in (0, 1):
            for rung, steps in enumerate((30, 60)):
                row = {"trial": number, "rung": rung,
                       "steps": steps, "nll_bound": 5 - rung + cost + 0.1 * seed + 0.01 * number,
                       "config.quantization.quantizer": quantizer, "config.seed": seed, "seconds": 1.0,
                       "state": "complete" if rung and finished else "rung"}
                run.append(row | ({"size_bytes": 90_000.0, "embedding_rms": 0.5} if rung else {}))
            number += 1
    run.close("finished")
    return run.path


def test_it_prints_every_arm_the_answer_and_draws_the_curves(tmp_path, capsys):
    run = folder(tmp_path)
    assert main(["table", str(run), "--layout", "quantizers"]) == OK
    shown = " ".join(capsys.readouterr().out.split())
    assert "fixed:Q0i4f" in shown and "90 kB" in shown and "nll_bound minus none" in shown
    assert ("fixed: at equal bits (4) integer-only costs +0.92 ± 0.00 nats a word more than fraction-only"
            in shown)
    assert (run / "convergence.png").read_bytes()[:4] == b"\x89PNG"


def test_rows_for_programs(tmp_path, capsys):
    assert main(["table", str(folder(tmp_path)), "--layout", "quantizers", "--format", "json"]) == OK
    rows = json.loads(capsys.readouterr().out)
    assert [row["quantizer"] for row in rows] == list(COST) and {row["seeds"] for row in rows} == {2}


@pytest.mark.parametrize("finished", [False])
def test_nothing_to_compare_is_one_line(tmp_path, capsys, finished):
    assert main(["table", str(folder(tmp_path, finished)), "--layout", "quantizers"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "no trial has finished yet" in error and error.count("\n") == 1
