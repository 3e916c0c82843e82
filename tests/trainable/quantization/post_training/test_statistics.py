"""Statistics of calibration tokens: sums, merging, intervals, the error of outputs, and what is refused."""

import pytest
import torch
from calibration_problems import counted, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.statistics import NEEDS, Calibration, Statistics, output_error


def test_sums_are_those_of_numpy():
    x = inputs(300, 24)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(0)).double()
    found = counted(x, weights)
    a, w = x.double().numpy(), weights.numpy()
    assert torch.allclose(found.second_moment, torch.from_numpy((a * w[:, None]).T @ a / w.sum()), rtol=1e-12)
    assert torch.allclose(found.absolute_mean, torch.from_numpy(abs(a).mean(0)), rtol=1e-12)
    assert torch.equal(found.absolute_maximum, torch.from_numpy(abs(a).max(0)))
    assert found.count == 300 and found.weight == pytest.approx(w.sum())


@given(cuts=st.lists(st.integers(1, 99), max_size=4), weighted=st.booleans())
@settings(max_examples=25, deadline=None)
def test_batches_and_merged_workers_give_the_whole(cuts, weighted):
    x = inputs(100, 8)
    weights = torch.rand(100, generator=torch.Generator().manual_seed(1)) if weighted else None
    whole, merged, added = counted(x, weights), Statistics(8, NEEDS), Statistics(8, NEEDS)
    edges = [0, *sorted(set(cuts)), 100]
    for low, high in zip(edges, edges[1:], strict=False):
        part = None if weights is None else weights[low:high]
        merged.merge(counted(x[low:high], part))
        added.add(x[low:high].view(1, high - low, 8), None if part is None else part[None])
    for other in (merged, added):
        assert other.count == 100 and other.weight == pytest.approx(whole.weight)
        assert torch.allclose(other.second_moment, whole.second_moment, rtol=1e-12)
        assert torch.allclose(other.absolute_mean, whole.absolute_mean, rtol=1e-12)
        assert torch.equal(other.absolute_maximum, whole.absolute_maximum)
        assert torch.equal(other.histogram[1], whole.histogram[1])


def test_weights_of_one_give_the_bits_of_none_and_scale_does_not_matter():
    x = inputs(200, 16)
    plain, ones, halves = counted(x), counted(x, torch.ones(200)), counted(x, torch.full((200,), 0.5))
    assert torch.equal(plain.second_moment, ones.second_moment)
    assert torch.equal(plain.second_moment, halves.second_moment)


def test_histogram_knows_every_value_to_a_thirtysecond():
    x = inputs(500, 16)
    edges, counts = counted(x).histogram
    assert counts.sum() == x.numel() and counts[1].sum() == (x < 0).sum()
    for sign, side in zip((1, -1), counts, strict=True):
        values = (sign * x[sign * x > 0]).sort().values
        bins = torch.repeat_interleave(edges, side)
        bins = bins[len(bins) - len(values):]
        assert ((bins <= values) & (values <= bins * (1 + 1 / 32))).all()


def test_output_error_is_that_of_the_outputs():
    x = inputs(400, 16)
    weight, rounded = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = (x.double() @ (weight.double() - rounded.double()).T).square().mean(0)
    assert torch.allclose(output_error(weight, rounded, counted(x).second_moment), expected, rtol=1e-10)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_refused_in_one_line(bad):
    x = inputs(20, 8)
    x[3, 2] = bad
    statistics = Statistics(8, NEEDS, "body.layer.0.query")
    with pytest.raises(UserError, match="body.layer.0.query: 1 of 160 values of the inputs") as error:
        statistics.add(x)
    assert "\n" not in str(error.value) and statistics.count == 0
    with pytest.raises(UserError, match="token weights are NaN"):
        statistics.add(inputs(20, 8), torch.full((20,), bad))


def test_shapes_that_do_not_fit_are_refused():
    statistics = Statistics(8, NEEDS)
    with pytest.raises(ValueError, match="inputs 9 wide, expected 8"):
        statistics.add(inputs(20, 9))
    with pytest.raises(ValueError, match=r"\(19,\) token weights for \(20,\) tokens"):
        statistics.add(inputs(20, 8), torch.ones(19))
    with pytest.raises(ValueError, match="weight is negative"):
        statistics.add(inputs(2, 8), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="differ in width or in kind"):
        statistics.merge(Statistics(9, NEEDS))
    with pytest.raises(ValueError, match="unknown statistics"):
        Statistics(8, {"third moment"})
    with pytest.raises(UserError, match="lack the second moment"):
        _ = Statistics(8, {"absolute mean"}).second_moment
    with pytest.raises(UserError, match="empty"):
        _ = statistics.second_moment


class TestIntervals:
    def test_levels_fall_into_them_with_boundaries_up(self):
        intervals = Intervals.equal(4)
        assert len(intervals) == 4 and list(intervals) == [0, 1, 2, 3]
        assert intervals.index(torch.tensor([0.0, 0.1, 0.25, 0.5, 0.74, 1.0])).tolist() == [0, 0, 1, 2, 2, 3]
        assert len(Intervals()) == 1 and Intervals().index(torch.tensor([0.0, 1.0])).tolist() == [0, 0]

    def test_quantiles_hold_about_the_same_number(self):
        levels = torch.rand(1000, generator=torch.Generator().manual_seed(0)) ** 3
        counts = Intervals.quantiles(levels, 5).index(levels).bincount()
        assert len(counts) == 5 and counts.min() >= 195
        assert len(Intervals.quantiles(torch.full((10,), 0.5), 4)) == 2

    @pytest.mark.parametrize("boundaries", [(0.5, 0.5), (0.7, 0.2), (0.0,), (1.0,), (-0.1,), (float("nan"),)])
    def test_boundaries_out_of_order_are_refused(self, boundaries):
        with pytest.raises(UserError, match="increasing numbers between 0 and 1"):
            Intervals(boundaries)

    def test_levels_out_of_range_are_refused(self):
        for level in (1.5, -0.1, float("nan")):
            with pytest.raises(ValueError, match="expected"):
                Intervals.equal(2).index(torch.tensor([0.5, level]))


class TestCalibration:
    def test_rows_go_to_the_interval_of_their_level(self):
        x = inputs(60, 8).view(6, 10, 8)
        levels = torch.tensor([0.1, 0.9, 0.4, 0.6, 0.5, 0.0])
        weights = torch.rand(6, 10, generator=torch.Generator().manual_seed(2))
        found = Calibration(NEEDS, Intervals.equal(2))
        found.add("query", x, levels, weights)
        low, high = found.per_interval("query")
        for part, rows in ((low, levels < 0.5), (high, levels >= 0.5)):
            expected = counted(x[rows].view(-1, 8), weights[rows].flatten())
            assert part.count == expected.count
            assert torch.allclose(part.second_moment, expected.second_moment, rtol=1e-12)
        merged, whole = found.merged("query"), counted(x.view(-1, 8), weights.flatten())
        assert merged.count == 60
        assert torch.allclose(merged.second_moment, whole.second_moment, rtol=1e-12)

    def test_padding_is_left_out(self):
        x = inputs(60, 8).view(6, 10, 8)
        keep = torch.rand(6, 10, generator=torch.Generator().manual_seed(3)) < 0.6
        x[~keep] = torch.nan  # must not even be looked at
        found = Calibration(NEEDS)
        found.add("query", x, keep=keep)
        assert found.merged("query").count == int(keep.sum())

    def test_blocks_are_fed_one_after_another_and_forgotten(self):
        found = Calibration({"absolute mean"})
        for batch in range(3):
            for name in ("a", "b"):
                found.add(name, inputs(10, 8, batch).view(2, 5, 8))
        assert found.merged("a").count == 30 and found.merged("a").name == "a"
        found.drop("a")
        with pytest.raises(UserError, match="statistics of a are empty"):
            found.merged("a")
        assert found.merged("b").count == 30

    def test_intervals_need_levels(self):
        with pytest.raises(ValueError, match="2 intervals need the noise level"):
            Calibration(NEEDS, Intervals.equal(2)).add("a", inputs(10, 8).view(2, 5, 8))
