"""The table of quantizers: means over seeds, paired differences, and the plain answer drawn from them."""

import math
import statistics

import pytest

from dashboards.plot_convergence import convergence_png
from search import quantizer_table as table


def row(quantizer, seed, nll, state="complete", steps=120, **values):
    return {"state": state, "steps": steps, "config.quantization.quantizer": quantizer, "config.seed": seed,
            "nll_bound": nll, "embedding_rms": 0.5, **values}


SEEDS = (0.0, 0.3, 0.1)  # what every arm has in common at a seed: cancels in differences


def arm(quantizer, cost, wiggle=0.01, **values):
    return [row(quantizer, seed, 4 + common + cost + wiggle * seed, **values) for seed, common in enumerate(SEEDS)]


def cell(metric, mean, half):
    return round(mean, 4), round(half, 4)


def test_intervals_are_students_over_seeds_and_differences_are_within_a_seed():
    found = table.arms([*arm("none", 0, 0), *arm("fixed:Q0i8f", 0.2, size_bytes=1000), *arm("binary", 2.0)])
    rows = {line["quantizer"]: line for line in table.table(found, cell)}
    assert list(rows)[0] == "none" and rows["none"]["nll_bound minus none"] is None
    values = [4.2, 4.51, 4.32]
    half = 4.30 * statistics.stdev(values) / math.sqrt(3)
    assert rows["fixed:Q0i8f"]["nll_bound"] == pytest.approx((statistics.fmean(values), half), abs=1e-4)
    mean, half = rows["fixed:Q0i8f"]["nll_bound minus none"]
    assert mean == pytest.approx(0.21) and half == pytest.approx(4.30 * 0.01 / math.sqrt(3), abs=1e-4)
    assert rows["fixed:Q0i8f"]["size_bytes"] == (1000, 0) and rows["binary"]["size_bytes"] is None
    assert rows["binary"]["seeds"] == 3


def test_stopped_and_failed_trials_are_not_counted_and_rungs_make_the_curve():
    rows = [*arm("none", 0), row("none", 7, 9.0, state="failed"), row("binary", 0, 8.0, state="rung", steps=30),
            row("binary", 0, 6.0, state="stopped", steps=60)]
    none, binary = table.arms(rows)
    assert len(none.finals) == 3 and not binary.finals and list(binary.curve) == [30]
    assert [line["quantizer"] for line in table.table([none, binary], cell)] == ["none"]


def test_arms_differ_by_all_that_was_searched_but_the_seed():
    rows = [row('{"name": "fixed", "int_bits": 0, "frac_bits": 4}', 0, 4.0, **{"config.lora.rank": 8}),
            row({"name": "uniform", "bits": 3}, 0, 4.0, **{"config.quantization.sites": ["embedding", "ffn"]}),
            row("fixed:Q0i4f", 1, 4.0, **{"config.lora.rank": 8})]
    assert [(arm.name, arm.rest, len(arm.finals)) for arm in table.arms(rows)] == [
        ("fixed:Q0i4f", "rank=8", 2), ("uniform(bits=3)", "sites=embedding+ffn", 1)]


def test_the_answer_names_the_winner_and_the_range():
    fraction, integer = {4: 0.02, 8: 0.0}, {4: 1.0, 8: 1.02}
    rows = [*arm("none", 0), *(line for bits, cost in fraction.items() for line in arm(f"fixed:Q0i{bits}f", cost)),
            *(line for bits, cost in integer.items() for line in arm(f"fixed:Q{bits}i0f", cost)), *arm("fixed:Q4i4f", 0.0)]
    first, second = table.answer(table.arms(rows))
    assert first.startswith("fixed: at equal bits (4, 8) integer-only costs +1.00") and "fraction beats integer" in first
    assert "rows have RMS 0.50" in second and "too coarse +1.01 (2)" in second and "in range +0.01 (3)" in second
    assert second.endswith("the range decides, not the kind of bit")


def test_no_difference_is_called_none():
    costs = {"pow2:Q0i8f": 0.1, "pow2:Q8i0f": 0.12, "pow2:Q0i4f": 0.2, "pow2:Q4i0f": 0.1}
    rows = [*arm("none", 0), *(line for name, cost in costs.items() for line in arm(name, cost))]
    (line,) = table.answer(table.arms(rows))
    assert line.startswith("pow2: at equal bits (4, 8)") and line.endswith("no difference beyond the interval")


def test_without_the_arms_it_says_so():
    assert "no `fixed` or `pow2` arm beside an unquantized one" in table.answer(table.arms(arm("none", 0)))[0]


def test_other_places_do_not_enter_the_answer_about_the_table():
    place = {"config.quantization.sites": ["ffn"]}
    rows = [*arm("none", 0), *arm("fixed:Q0i4f", 0.0, **place), *arm("fixed:Q4i0f", 3.0, **place)]
    assert table.answer(table.arms(rows))[0].startswith("fraction or integer: no")


def test_curves_are_drawn(tmp_path):
    curves = {f"arm {n}": [(30, 5.0 + n, 0.1), (60, 4.0 + n, math.nan)] for n in range(20)} | {"empty": []}
    assert convergence_png(curves, "nll", tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
