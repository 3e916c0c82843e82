"""What every quantizer in the registry must do. A new plug-in is covered by its registry line and its `examples()`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.registry import QUANTIZERS

CASES = [(name, params) for name in QUANTIZERS for params in QUANTIZERS.get(name).examples()]
IDS = [QUANTIZERS.get(name)(params).label for name, params in CASES]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SHAPES = [(1, 1), (7, 13), (821, 16), (64, 128), (3, 1), (1, 257)]


def draw(shape, seed=0, std=0.5, device="cpu"):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std).to(device)


def assert_same_bits(a: torch.Tensor, b: torch.Tensor):
    """Equal as bytes: tells -0 from 0, which `torch.equal` does not."""
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.detach().cpu().contiguous().numpy().tobytes() == b.detach().cpu().contiguous().numpy().tobytes()


def awkward_weights() -> dict[str, torch.Tensor]:
    """Weights on which a careless quantizer divides by zero, overflows, or loses a sign."""
    tie = torch.arange(-40, 40).float().view(8, 10) / 16 + 1 / 32
    zero_row = draw((5, 9))
    zero_row[2] = 0
    signed_zeros = torch.zeros(2, 8)
    signed_zeros[:, ::2] = -0.0
    return {
        "all zero": torch.zeros(4, 6), "a zero row": zero_row, "signed zeros": signed_zeros, "ties": tie,
        "huge": draw((4, 6)) * 1e30, "largest float": torch.full((3, 7), torch.finfo(torch.float32).max),
        "tiny": draw((4, 6)) * 1e-30, "smallest float": torch.tensor([[1e-45, -1e-45, 0.0, 1e-38]]),
        "mixed": torch.tensor([[1e30, -1e-30, 0.5, -2.0], [3.0, 0.0, -1e-45, 1e20]]),
        "constant": torch.full((3, 5), -0.25),
    }


AWKWARD = awkward_weights()


@pytest.fixture(params=CASES, ids=IDS)
def quantizer(request):
    name, params = request.param
    return QUANTIZERS.get(name)(params)


class TestQuantizerContract:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_decode_gives_the_trained_values_bit_for_bit(self, quantizer, shape, device):
        for std in (0.02, 0.5, 5.0):
            w = draw(shape, std=std, device=device)
            packed = quantizer.encode(w)
            decoded = quantizer.decode(packed, shape)
            assert decoded.dtype == torch.float32 and decoded.device == w.device
            assert_same_bits(decoded, quantizer.fake_quantize(w))

    @pytest.mark.parametrize("case", AWKWARD, ids=str)
    def test_awkward_weights_stay_finite_and_round_trip(self, quantizer, case):
        w = AWKWARD[case].clone().requires_grad_()
        out = quantizer.fake_quantize(w)
        assert torch.isfinite(out).all()
        assert_same_bits(quantizer.decode(quantizer.encode(w), tuple(w.shape)), out)
        out.sum().backward()
        assert torch.isfinite(w.grad).all()

    @given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=48),
           columns=st.integers(1, 7))
    @settings(max_examples=25, deadline=None)
    @pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
    def test_any_finite_float32_round_trips(self, name, params, values, columns):
        quantizer = QUANTIZERS.get(name)(params)
        rows = max(1, len(values) // columns)
        w = torch.tensor((values * columns)[: rows * columns], dtype=torch.float32).view(rows, columns)
        assert_same_bits(quantizer.decode(quantizer.encode(w), (rows, columns)), quantizer.fake_quantize(w))

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_declared_size_is_the_size_to_the_byte(self, quantizer, shape):
        packed = quantizer.encode(draw(shape))
        assert packed["codes"].dtype == torch.uint8 and packed["codes"].ndim == 1
        assert packed["codes"].numel() == quantizer.code_bytes(math.prod(shape))
        assert all(value.is_contiguous() for value in packed.values())
        total = sum(value.numel() * value.element_size() for value in packed.values())
        assert total == quantizer.stored_bytes(shape)
        assert quantizer.bits_per_value(shape) == 8 * total / math.prod(shape)
        assert set(packed) <= {"codes", "scale"}

    def test_codes_hold_no_more_than_the_levels_need(self, quantizer):
        if quantizer.grid.levels is None:
            return
        bits = quantizer.code_bytes(10_000) * 8 / 10_000
        assert math.log2(quantizer.grid.levels) <= bits < math.log2(quantizer.grid.levels) + 1

    def test_values_lie_on_the_declared_grid(self, quantizer):
        out = quantizer.fake_quantize(draw((300, 40), std=2.0)).double().numpy()
        grid = quantizer.grid
        if grid.levels is not None:
            per_row = [len(np.unique(row)) for row in out]
            assert max(per_row) <= grid.levels
        if grid.low is not None:
            assert grid.low <= out.min() and out.max() <= grid.high
        if grid.step is not None:
            assert np.array_equal((out - grid.low) % grid.step, np.zeros_like(out))

    def test_idempotent(self, quantizer):
        if not quantizer.idempotent:
            pytest.skip(f"{quantizer.label} declares that a second pass may differ")
        once = quantizer.fake_quantize(draw((50, 17), std=3.0))
        torch.testing.assert_close(quantizer.fake_quantize(once), once, rtol=1e-6, atol=0)

    def test_deterministic_and_leaves_its_input_alone(self, quantizer):
        w = draw((31, 9))
        before = w.clone()
        assert_same_bits(quantizer.fake_quantize(w), quantizer.fake_quantize(w.clone()))
        first, second = quantizer.encode(w), quantizer.encode(w)
        quantizer.decode(first, (31, 9)).add_(1)
        assert_same_bits(w, before)
        for key in second:
            assert_same_bits(first[key], second[key])

    def test_rows_do_not_depend_on_each_other(self, quantizer):
        w = draw((20, 33))
        assert_same_bits(quantizer.fake_quantize(w)[4:9], quantizer.fake_quantize(w[4:9]))

    def test_gradient_reaches_small_weights_and_is_finite(self, quantizer):
        w = draw((20, 15), std=0.05).requires_grad_()
        out = quantizer.fake_quantize(w)
        out.backward(draw((20, 15), seed=1))
        assert w.grad.shape == w.shape and torch.isfinite(w.grad).all()
        assert (w.grad != 0).double().mean() > 0.4

    def test_training_follows_the_gradient(self, quantizer):
        """A fake-quantized matrix learns to fit targets it can express: the loss falls far below its start."""
        # Within the range: where a format saturates, most families pass no gradient and a weight is stuck.
        std = min(0.8, 0.3 * (quantizer.grid.high or math.inf))
        target = quantizer.fake_quantize(draw((6, 12), seed=3, std=std))
        x = draw((64, 12), seed=5, std=1.0)
        w = draw((6, 12), seed=4, std=std).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=0.02)
        losses = []
        for _ in range(300):
            loss = (x @ (quantizer.fake_quantize(w) - target).T).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert min(losses) < 0.25 * losses[0]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_other_dtypes_are_quantized_in_float32_then_cast(self, quantizer, dtype):
        w = draw((9, 11)).to(dtype).requires_grad_()
        out = quantizer.fake_quantize(w)
        assert out.dtype == dtype
        reference = quantizer.decode(quantizer.encode(w), (9, 11)) if quantizer.name != "none" else w.detach()
        assert torch.equal(out.detach(), reference.to(dtype))
        out.sum().backward()
        assert w.grad.dtype == dtype and torch.isfinite(w.grad).all()

    def test_non_contiguous_weight(self, quantizer):
        w = draw((13, 22))
        view = w.t()[::2]
        assert_same_bits(quantizer.fake_quantize(view), quantizer.fake_quantize(view.contiguous()))
        assert_same_bits(quantizer.decode(quantizer.encode(view), tuple(view.shape)), quantizer.fake_quantize(view))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_encode_refuses_a_diverged_weight(self, quantizer, bad):
        w = draw((3, 4))
        w[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            quantizer.encode(w)

    def test_decode_refuses_truncated_arrays(self, quantizer):
        packed = quantizer.encode(draw((40, 10)))
        for key, value in packed.items():
            with pytest.raises(ValueError, match="expected"):
                quantizer.decode({**packed, key: value[:-1]}, (40, 10))

    def test_says_what_it_is(self, quantizer):
        facts = quantizer.facts((821, 16))
        assert set(facts) == {"label", "bits_per_value", "levels", "low", "high", "step"}
        assert facts["label"] == quantizer.label and quantizer.label
        assert type(quantizer).__doc__ and quantizer.name in QUANTIZERS
        assert type(quantizer).Params(**quantizer.params.model_dump()) == quantizer.params


def test_labels_are_unique():
    assert len(set(IDS)) == len(IDS)
