"""Packed codes: sizes, byte layout and round trips."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.quantizers.packing import MAX_BITS, pack_bits, pack_trits, unpack_bits, unpack_trits


@given(bits=st.integers(1, MAX_BITS), count=st.integers(0, 70), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_bits_agree_with_numpy_and_come_back(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count)
    packed = pack_bits(torch.from_numpy(codes), bits)
    stream = (codes[:, None] >> np.arange(bits)) & 1  # least significant bit first
    assert packed.numpy().tobytes() == np.packbits(stream.astype(np.uint8), bitorder="little").tobytes()
    assert packed.numel() == -(-count * bits // 8)
    assert unpack_bits(packed, bits, count).tolist() == codes.tolist()


@given(trits=st.lists(st.integers(0, 2), max_size=60))
@settings(max_examples=100, deadline=None)
def test_trits_come_back_from_a_fifth_of_a_byte(trits):
    packed = pack_trits(torch.tensor(trits, dtype=torch.int64))
    assert packed.dtype == torch.uint8 and packed.numel() == -(-len(trits) // 5)
    assert unpack_trits(packed, len(trits)).tolist() == trits


def test_layouts_are_pinned():
    assert pack_bits(torch.tensor([1, 2, 3]), 3).tolist() == [0b11_010_001, 0b0]
    assert pack_bits(torch.tensor([0x1FFFF, 0]), 17).tolist() == [255, 255, 1, 0, 0]
    assert pack_trits(torch.tensor([1, 2, 0, 0, 2, 1])).tolist() == [1 + 2 * 3 + 2 * 81, 1]


@pytest.mark.parametrize("bad", [[-1], [8]])
def test_codes_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"codes must be in \[0, 8\)"):
        pack_bits(torch.tensor(bad), 3)


def test_a_byte_that_is_no_five_trits_is_refused():
    with pytest.raises(ValueError, match="243"):
        unpack_trits(torch.tensor([255], dtype=torch.uint8), 5)


@pytest.mark.parametrize("bits", [0, 25])
def test_unpackable_widths_are_refused(bits):
    with pytest.raises(ValueError, match="bits per code"):
        pack_bits(torch.zeros(3, dtype=torch.int32), bits)
