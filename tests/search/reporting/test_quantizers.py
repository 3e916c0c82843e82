"""The table of quantizers: means over seeds, paired differences, and the plain answer drawn from them."""

import math
import statistics

import pytest

from dashboards.plot_convergence import convergence_png
from search.reporting import quantizers as table
from search.reporting.integer_fraction import answer, splits
from spaces.schema import load
from trainable.registry import QUANTIZERS


def row(quantizer, seed, nll, state="complete", steps=120, **values):
    return {"state": state, "steps": steps, "config.quantization.quantizer": quantizer, "config.seed": seed,
            "nll_bound": nll, "embedding_rms": 0.5, **values}


SEEDS = (0.0, 0.3, 0.1)  # what every arm has in common at a seed: cancels in differences


def arm(quantizer, cost, wiggle=0.01, **values):
    return [row(quantizer, seed, 4 + common + cost + wiggle * seed, **values)
            for seed, common in enumerate(SEEDS)]


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
    rows = [*arm("none", 0), row("none", 7, 9.0, state="failed"),
            row("binary", 0, 8.0, state="rung", steps=30), row("binary", 0, 6.0, state="stopped", steps=60)]
    none, binary = table.arms(rows)
    assert len(none.finals) == 3 and not binary.finals and list(binary.curve) == [30]
    assert [line["quantizer"] for line in table.table([none, binary], cell)] == ["none"]


def test_arms_differ_by_all_that_was_searched_but_the_seed():
    rows = [row('{"name": "fixed", "int_bits": 0, "frac_bits": 4}', 0, 4.0, **{"config.lora.rank": 8}),
            row({"name": "uniform", "bits": 3}, 0, 4.0,
                **{"config.quantization.sites": ["embedding", "ffn"]}),
            row("fixed:Q0i4f", 1, 4.0, **{"config.lora.rank": 8})]
    assert [(arm.name, arm.rest, len(arm.finals)) for arm in table.arms(rows)] == [
        ("fixed:Q0i4f", "rank=8", 2), ("uniform(bits=3)", "sites=embedding+ffn", 1)]


def test_the_answer_names_the_winner_and_the_range():
    fraction, integer = {4: 0.02, 8: 0.0}, {4: 1.0, 8: 1.02}
    rows = [*arm("none", 0),
            *(line for bits, cost in fraction.items() for line in arm(f"fixed:Q0i{bits}f", cost)),
            *(line for bits, cost in integer.items() for line in arm(f"fixed:Q{bits}i0f", cost)),
            *arm("fixed:Q4i4f", 0.0)]
    first, second = answer(table.arms(rows))
    assert (first.startswith("fixed: at equal bits (4, 8) integer-only costs +1.00")
            and "fraction beats integer" in first)
    assert "rows have RMS 0.5;" in second and "too coarse +1.01" in second and "in range +0.01" in second
    assert second.endswith("the range decides, not the kind of bit")


def test_no_difference_is_called_none():
    costs = {"pow2:Q0i8f": (0.1, 0.4), "pow2:Q8i0f": (0.12, 0.01), "pow2:Q0i4f": (0.2, 0.01),
             "pow2:Q4i0f": (0.1, 0.3)}
    rows = [*arm("none", 0), *(line for name, cost in costs.items() for line in arm(name, *cost))]
    line, ranges = answer(table.arms(rows))
    assert (line.startswith("pow2: at equal bits (4, 8)")
            and line.endswith("no difference beyond the interval"))
    assert "too coarse" not in ranges and "in range +0.30" in ranges


def test_without_the_arms_it_says_so():
    assert "no `fixed` or `pow2` arm beside an unquantized one" in answer(table.arms(arm("none", 0)))[0]


def test_each_place_has_an_answer_of_its_own_and_only_the_table_one_about_its_range():
    place, table_only = ({"config.quantization.sites": ["embedding", "ffn"]},
                         {"config.quantization.sites": ["embedding"]})
    rows = [*arm("none", 0), *arm("fixed:Q0i4f", 0.0, **place), *arm("fixed:Q4i0f", 3.0, **place),
            *arm("fixed:Q0i4f", 0.0, **table_only), *arm("fixed:Q4i0f", 2.0, **table_only)]
    first, second, third = answer(table.arms(rows))
    assert first.startswith("fixed, sites=embedding: at equal bits (4) integer-only costs +2.00")
    assert second.startswith("fixed, sites=embedding, by range")
    assert third.startswith("fixed, sites=embedding+ffn: at equal bits (4) integer-only costs +3.00")


def test_where_a_split_lies_is_told_beside_the_unquantized_rms():
    wide = {"embedding_rms": 8.0}
    rows = [*arm("none", 0, **wide), *arm("fixed:Q0i4f", 1.3, embedding_rms=1.0),
            *arm("fixed:Q4i0f", 0, **wide), *arm("pow2:Q0i8f", 1.0, **wide), *arm("pow2:Q8i0f", 0.1, **wide),
            *arm("fixed:Q1i1f", 1.0, **wide)]
    fixed, pow2 = splits(table.arms(rows))
    assert ([fixed.fault(split) for split in ((0, 4), (4, 0), (1, 1))]
            == ["too narrow", "in range", "too narrow"])
    assert [pow2.fault(split) for split in ((0, 8), (8, 0))] == ["too narrow", "in range"]
    assert fixed.rms == 8 and fixed.mean((0, 4)) == pytest.approx(1.3)
    assert splits(table.arms([*arm("none", 0), *arm("fixed:Q0i0f", 1)]))[0].fault((0, 0)) == "too coarse"


def test_curves_are_drawn(tmp_path):
    curves = {f"arm {n}": [(30, 5.0 + n, 0.1), (60, 4.0 + n, math.nan)] for n in range(20)} | {"empty": []}
    assert convergence_png(curves, "nll", tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_families_holds_every_family_near_four_bits():
    space = load("families")
    found = [space.config(point).quantization.quantizer for point in space.enumerate()]
    assert {ref.name for ref in found} == set(QUANTIZERS) and len(found) == 57
    bits = {QUANTIZERS.build(ref).label: QUANTIZERS.build(ref).bits_per_value((821, 16))
            for ref in found if ref.name != "none"}
    unlike = {label for label, value in bits.items() if not 3.9 <= value <= 4.7}
    assert unlike == {"binary", "ternary_twn", "ternary_absmean", "pow2_Q0i8f"}
    # that of the published table, and of spaces/granularity.yaml
    assert space.example.base == load("granularity").example.base
