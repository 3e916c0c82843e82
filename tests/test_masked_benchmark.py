"""The arithmetic of `benchmarks.masked`: plans by the clock, distances of lengths, choices that cost."""

import pytest

from benchmarks.masked import AT_HALF, BLOCKS, GAUSSIAN_STEPS, PASSES, SPACES, asked_samplers, merged
from benchmarks.masked_show import choice, pairs, show
from benchmarks.masked_texts import variation
from benchmarks.timed_base import CHUNK, planned_steps
from spaces.config import PluginRef
from spaces.schema import load
from trainable.registry import MASKED_SAMPLERS


@pytest.mark.parametrize(("step", "spent", "steps"), [(100, 10.0, 2400), (2390, 239.0, 2415),
                                                      (50, 100.0, 120)])
def test_a_plan_ends_when_the_time_is_up(step, spent, steps):
    assert planned_steps(step, spent, 240.0) == steps >= step + CHUNK


def test_variation_is_that_of_the_histograms():
    assert variation([3, 4, 4, 5], [4, 3, 5, 4]) == 0 and variation([1], [2, 3]) == 1
    assert variation([1, 1, 1, 2], [1, 2]) == pytest.approx(0.25)  # (|3/4 - 1/2| + |1/4 - 1/2|) / 2


def row(perplexity, distinct2, **more):
    return {"sampler": {"name": "quota"}, "steps": 8, "temperature": 0.5, "nfe": 8.0, "nfe_p95": 9.0,
            "perplexity": perplexity, "perplexity_se": 0.1, "distinct2": distinct2, "words": 12.0,
            "length_distance": 0.1, "early": 0.02, **more}


def test_less_diversity_is_not_chosen():
    rows = [row(4.0, 0.20), row(6.0, 0.31), row(5.0, 0.30)]
    again = [row(9.0, 0.20), row(9.0, 0.31), row(9.0, 0.25)]
    assert choice((rows, rows), (0.29, 0.29)) == 2 and choice((rows, again), (0.29, 0.29)) == 1
    assert choice((rows, again), (0.1, 0.1)) == 0 and choice((rows, again), (0.5, 0.1)) is None


def found(rows, again):
    return {"rows": rows, "again": again, "nll_bound": 2.0, "training": {"steps": 7}}


def test_what_is_chosen_by_one_draw_is_read_off_another():
    gaussian = found([row(9.0, 0.4, temperature=0.3), row(10.0, 0.3)],
                     [row(9.5, 0.4, temperature=0.3), row(11.0, 0.3)])
    masked = found([row(5.0, 0.3), row(6.0, 0.3)], [row(8.0, 0.3), row(1.0, 0.3)])
    held = {"texts": {"quickstart": {"gaussian": {"0": gaussian}, "masked": {"0": masked, "1": masked}}}}
    (pair,) = pairs(held, "quickstart")  # seed 1 has no partner
    assert pair["gaussian"]["perplexity"] == 11.0 and pair["masked"]["perplexity"] == 8.0
    assert "| 11.00, 8.00 | 0.73 |" in show(held)


def test_parts_are_added_to_what_earlier_calls_measured():
    held = {"texts": {"a": {"masked": {"0": {"rows": [1, 2]}}}}}
    assert merged(held, {"texts": {"a": {"masked": {"0": {"rows": [3]}, "1": {}}}}, "seconds": 2}) == {
        "texts": {"a": {"masked": {"0": {"rows": [3]}, "1": {}}}}, "seconds": 2}


@pytest.mark.parametrize("text", SPACES)
def test_what_is_compared_shares_text_and_teacher_and_every_sampler_is_legal(text):
    gaussian, masked = (load(name).example for name in SPACES[text].values())
    assert masked.corpus == gaussian.corpus and masked.teacher == gaussian.teacher
    assert masked.evaluation.samples == gaussian.evaluation.samples
    for sampler, _ in asked_samplers(text):
        MASKED_SAMPLERS.build(PluginRef(**sampler))
    assert all(masked.corpus.max_length % block == 0 for block in BLOCKS[text])
    # the first of PASSES suffices for one word a pass
    assert AT_HALF <= GAUSSIAN_STEPS / 2 and PASSES[text][0] >= masked.corpus.max_length - 2
