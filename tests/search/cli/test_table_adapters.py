"""`qdlm table RUN --layout adapters` on a run folder: rows, columns, intervals, and what it refuses."""

import json

import pytest

from search.cli.main import BAD_INPUT, OK, main
from search.records.run_folder import RunFolder
from spaces.schema import load

SEARCHED = {"trial.adapt.optim.lr": None, "trial.sampling.steps": None,
            "search.seed": {"choice": [0, 1, 2]}, "search.adapt.optim.lr": {"log": [1e-4, 1e-2]},
            "search.sampling.steps": {"choice": [10, 20]}, "search.lora.alpha": {"choice": [8, 16]}}
NONE, NF4 = {"name": "none"}, {"name": "nf4", "double": True}


def uniform(bits, group=16):
    return {"name": "uniform", "bits": bits, "granularity": "group", "group": group}


def row(number, bound, quantizer, start="zero", rank=4, seed=0, lr=1e-3, steps=10, alpha=8, state="complete"):
    settings = {**{f"quantization.quantizer.{name}": value for name, value in quantizer.items()},
                "lora.rank": rank, "seed": seed, "adapt.optim.lr": lr, "sampling.steps": steps,
                "lora.alpha": alpha}
    if rank and quantizer is not NONE:
        settings["lora.start"] = start
    return {"trial": number, "rung": 1, "state": state, "fidelity": 320, "seconds": 1.0, "nll_bound": bound,
            "perplexity": 10 * bound, **{f"config.{name}": value for name, value in settings.items()}}


@pytest.fixture
def printed(tmp_path, capsys):
    """Rows of the shipped space with more searched -> exit code, rows of the table, messages."""
    def run(rows, *arguments):
        folder = RunFolder.create(tmp_path, "low", load("low_bit", SEARCHED).to_yaml())
        for one in rows:
            folder.append(one)
        folder.close("finished")
        code = main(["table", str(folder.path), "--layout", "adapters", *arguments])
        return code, *capsys.readouterr()
    return run


def table(printed, rows, *arguments):
    code, out, said = printed(rows, "--format", "json", *arguments)
    assert code == OK, said
    return json.loads(out)


def test_a_cell_is_the_mean_over_seeds_with_students_interval(printed):
    rows = [row(seed, bound, uniform(2), "loftq", seed=seed) for seed, bound in enumerate((2.0, 2.2, 2.4))]
    found, = table(printed, rows)
    # 4.30 (t at 97.5 %, 2 degrees) x 0.2 / sqrt(3) = 0.497
    assert found == {"start": "loftq", "rank": "4", "rest": "alpha=8", "int2_g16": "2.2 ± 0.5"}


def test_rows_are_starts_by_rank_and_columns_formats_by_what_they_store(printed):
    rows = [row(0, 2.0, NONE, rank=0), row(1, 5.0, uniform(2), rank=16), row(2, 4.0, uniform(2), rank=8),
            row(3, 3.0, NF4, "pissa"), row(4, 2.5, uniform(4, 64), "pissa"),
            row(5, 2.9, uniform(3, 16), "loftq")]
    found = table(printed, rows)
    assert [(one["start"], one["rank"]) for one in found] == [
        ("no adapter", None), ("zero", "8"), ("zero", "16"), ("loftq", "4"), ("pissa", "4")]
    # 3, 4, 4.127, 4.25 and 32 bits a value
    assert list(found[0])[3:] == ["int2_g16", "int3_g16", "nf4_g64_double", "int4_g64", "float32"]
    assert (found[4]["nf4_g64_double"], found[4]["int4_g64"], found[4]["int2_g16"]) == ("3", "2.5", None)
    assert found[0]["float32"] == "2"


def test_parameters_of_a_start_part_rows_and_what_changes_nothing_does_not(printed):
    few = {"name": "apiq", "epochs": 8}
    rows = [row(0, 3.0, uniform(2), few, steps=10), row(1, 3.0, uniform(2), few, steps=20),
            row(2, 4.0, uniform(2), few, alpha=16)]
    assert [(one["start"], one["rest"], one["int2_g16"]) for one in table(printed, rows)] == [
        ("apiq(epochs=8)", "alpha=16", "4"), ("apiq(epochs=8)", "alpha=8", "3")]
    assert len(table(printed, rows, "--metric", "perplexity")) == 3  # texts are sampled by those steps


def test_trials_that_differ_in_a_continuous_setting_are_repeats_and_it_is_named(printed):
    rows = [row(0, 3.0, uniform(2), lr=1e-3), row(1, 5.0, uniform(2), lr=2e-3),
            row(2, 9.0, uniform(2), state="stopped")]
    code, out, _ = printed(rows)
    shown = " ".join(out.split())
    assert code == OK and "4 ± 13" in shown
    assert "trials (Student) that differ in seed, adapt.optim.lr" in shown
    assert "stopped early and left out: 1; they trained fewer steps" in shown


@pytest.mark.parametrize(("rows", "arguments", "message"), [
    ([], (), "no trial has finished yet"),
    ([row(0, 0.2, uniform(2), state="stopped")], (), "no trial has finished yet"),
    ([row(0, 0.2, uniform(2))], ("--metric", "bleu"),
     "no finished trial has measured bleu; legal: nll_bound, perplexity"),
])
def test_what_cannot_be_shown_is_one_line(printed, rows, arguments, message):
    code, _, error = printed(rows, *arguments)
    assert code == BAD_INPUT and message in error and error.count("\n") == 1
