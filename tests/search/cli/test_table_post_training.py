"""`qdlm table RUN --layout post_training` on a run folder: rows, columns, intervals, and what it refuses."""

import json

import pytest

from search.cli.main import BAD_INPUT, OK, main
from search.records.run_folder import RunFolder
from spaces.schema import load

SEEDS = {"search.calibration.seed": {"choice": [0, 1, 2]}}


def weights(attention, ffn=None):
    return {f"bits.{site}_{block}": bits for block in (0, 1)
            for site, bits in (("attention", attention), ("ffn", ffn or attention))}


GPTQ = {"method.name": "gptq", **weights(3), "method.group": 0, "transforms": [], "token_weight": "uniform"}
RTN = {"method.name": "rtn", **weights(3), "method.group": 0, "transforms": []}


def row(number, kl, settings, source="corrupted", bits=16, steps=20, state="complete", **more):
    values = {"corrections": [], **settings, "source": source, "activation_bits": bits}
    return {"trial": number, "rung": 1, "state": state, "fidelity": 4, "seconds": 1.0, "kl_to_base": kl,
            "perplexity": 10 * kl, "config.sampling.steps": steps, "config.sampling.sampler": "ancestral",
            "config.sampling.temperature": 0.5,
            **{f"config.calibration.{name}": value for name, value in values.items()}, **more}


@pytest.fixture
def printed(tmp_path, capsys):
    """Rows of the shipped space with calibration seeds -> exit code, rows of the table, messages."""
    def run(rows, *arguments):
        folder = RunFolder.create(tmp_path, "ptq", load("dllmquant", SEEDS).to_yaml())
        for one in rows:
            folder.append(one)
        folder.close("finished")
        code = main(["table", str(folder.path), "--layout", "post_training", *arguments])
        return code, *capsys.readouterr()
    return run


def seed(number):
    return {"config.calibration.seed": number}


def table(printed, rows, *arguments):
    code, out, said = printed(rows, "--format", "json", *arguments)
    assert code == OK, said
    return json.loads(out)


def test_a_cell_is_the_mean_over_calibration_seeds_with_students_interval(printed):
    rows = [row(n, kl, GPTQ, **seed(n)) for n, kl in enumerate((0.010, 0.012, 0.014))]
    found, = table(printed, rows)
    # 4.303 (t at 97.5 %, 2 degrees) x 0.002 / sqrt(3) = 0.004969
    assert found == {"method": "gptq", "calibrated on": "corrupted", "weights": "uniform", "W4A16": None,
                     "W3A16": "0.012 ± 0.005", "W2A16": None, "W8A8": None, "W4A8": None, "W4A4": None}


def test_rows_differ_by_method_source_and_weights_and_columns_by_bits(printed):
    four = {**GPTQ, **weights(4)}
    rows = [row(0, 0.5, RTN, **seed(0)), row(1, 0.5, RTN, "clean", **seed(1)),
            row(2, 0.2, GPTQ, **seed(0)), row(3, 0.3, GPTQ, "clean", **seed(0)),
            row(4, 0.1, {**GPTQ, "token_weight": "cgq_survey"}, **seed(0)),
            row(5, 0.7, four, bits=4, **seed(0)), row(6, 0.6, four, bits=8, **seed(0)),
            row(7, 0.4, {**GPTQ, "transforms": ["rotation"], "method.group": 16}, **seed(0))]
    found = table(printed, rows)
    heads = [(one["method"], one["calibrated on"], one["weights"], one["W3A16"]) for one in found]
    assert heads == [("rtn", None, None, "0.5"),  # is calibrated on nothing: two sources are one row
                     ("gptq", "clean", "uniform", "0.3"), ("gptq", "corrupted", "cgq_survey", "0.1"),
                     ("gptq", "corrupted", "uniform", "0.2"),
                     ("gptq(group=16) + rotation", "corrupted", "uniform", "0.4")]
    assert (found[3]["W4A4"], found[3]["W4A8"], found[3]["W4A16"]) == ("0.7", "0.6", None)


def test_sampler_steps_part_rows_only_where_they_act(printed):
    rows = [row(0, 0.2, GPTQ, steps=10, **seed(0)), row(1, 0.2, GPTQ, steps=50, **seed(0)),
            row(2, 0.3, GPTQ, "rollout", steps=10, **seed(0)),
            row(3, 0.4, GPTQ, "rollout", steps=50, **seed(0))]
    found = table(printed, rows)
    drawn = "sampling.sampler=ancestral, sampling.temperature=0.5"
    assert [(one["calibrated on"], one["rest"], one["W3A16"]) for one in found] == [
        ("corrupted", None, "0.2"), ("rollout", f"sampling.steps=10, {drawn}", "0.3"),
        ("rollout", f"sampling.steps=50, {drawn}", "0.4")]
    assert len(table(printed, rows, "--metric", "perplexity")) == 4


def test_notes_say_what_is_left_out(printed):
    rows = [row(0, 0.2, GPTQ, **seed(0)), row(1, 0.9, {**GPTQ, **weights(8)}, **seed(0)),
            row(2, 5.0, GPTQ, state="stopped", **seed(1)),
            *(row(n, 0.3, {**GPTQ, **weights(8, n)}, **seed(0)) for n in (3, 4))]
    code, out, _ = printed(rows)
    shown = " ".join(out.split())
    assert code == OK and "one calibration seed each" in shown and "0.2" in shown and "±" not in shown
    assert "not shown: W3-8A16 (1 trial), W4-8A16 (1 trial), W8A16 (1 trial)" in shown
    assert "stopped early and left out: 1;" in shown


@pytest.mark.parametrize(("rows", "arguments", "message"), [
    ([], (), "no trial has finished yet"),
    ([row(0, 0.2, GPTQ, state="stopped", **seed(0))], (), "no trial has finished yet"),
    ([row(0, 0.2, GPTQ, **seed(0))], ("--metric", "bleu"),
     "no finished trial has measured bleu; legal: kl_to_base, perplexity"),
    ([row(0, 0.9, {**GPTQ, **weights(8)}, **seed(0))], (), "finished: W8A16 (1 trial)"),
])
def test_what_cannot_be_shown_is_one_line(printed, rows, arguments, message):
    code, _, error = printed(rows, *arguments)
    assert code == BAD_INPUT and message in error and error.count("\n") == 1
