"""Random numbers of rows: SplitMix64's published outputs, evenness, and independence from the batch."""

import pytest
import torch

from trainable.diffusion.masked.streams import MASKS, ORDER, VALUE, WIDTH, row_seeds, splitmix64, uniforms


def test_splitmix64_gives_the_published_numbers():
    numbers = splitmix64(torch.tensor(1234567), torch.arange(5)).tolist()
    assert [n & (2**64 - 1) for n in numbers] == [6457827717110365317, 3203168211198807973,
                                                  9817491932198370423,
                                                  4593380528125082431, 16408922859458223821]


def test_numbers_are_even_and_differ_by_row_step_and_purpose():
    seeds = row_seeds(torch.Generator().manual_seed(0), torch.arange(200))
    u = uniforms(seeds, 3, VALUE, 500)
    assert u.shape == (200, 500) and u.min() >= 0 and u.max() < 1
    counts = torch.histc(u.flatten(), 50, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 90  # chi-square of 49 degrees of freedom: p near 3e-4
    # columns are independent,
    assert float(u.mean(0).std()) == pytest.approx((1 / 12 / 200) ** 0.5, rel=0.15)
    assert float(u.mean(1).std()) == pytest.approx((1 / 12 / 500) ** 0.5, rel=0.15)  # and rows
    others = [uniforms(seeds, 4, VALUE, 500), uniforms(seeds, 3, ORDER, 500), uniforms(seeds, 3, MASKS, 500)]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 0.015


def test_a_row_has_the_same_numbers_in_any_batch():
    everything = uniforms(row_seeds(torch.Generator().manual_seed(5), torch.arange(40)), 7, VALUE, 9)
    some = torch.tensor([31, 2, 17])
    assert torch.equal(uniforms(row_seeds(torch.Generator().manual_seed(5), some), 7, VALUE, 9),
                       everything[some])
    other = uniforms(row_seeds(torch.Generator().manual_seed(6), torch.arange(40)), 7, VALUE, 9)
    assert not torch.equal(other, everything)


def test_more_numbers_than_a_purpose_has_are_refused():
    with pytest.raises(ValueError, match="asked for at once"):
        uniforms(torch.zeros(1, dtype=torch.long), 0, VALUE, WIDTH + 1)
