"""What every quantizer in the registry must do. A new plug-in is covered by its registry line and
its `examples()`."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.quantizers.blocks import BlockScaled
from trainable.quantizers.lookup import look_up, row_parts, row_runs
from trainable.registry import QUANTIZERS

CASES = [(name, params) for name in QUANTIZERS for params in QUANTIZERS.get(name).examples()]
IDS = [QUANTIZERS.get(name)(params).label for name, params in CASES]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SHAPES = [(1, 1), (7, 13), (821, 16), (64, 128), (3, 1), (1, 257)]


def draw(shape, seed=0, std=0.5, device="cpu"):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std).to(device)


def assert_same_bits(a: torch.Tensor, b: torch.Tensor, of: object = None):
    """Equal as bytes: tells -0 from 0, which `torch.equal` does not. `of`: what failed, for the message."""
    assert a.dtype == b.dtype and a.shape == b.shape, of
    first, second = (x.detach().cpu().contiguous().flatten().view(torch.uint8) for x in (a, b))
    assert torch.equal(first, second), of


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


def trainable(quantizer, w: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weight and what its quantizer learns about it, as leaves that take gradients."""
    learned = {name: value.clone().requires_grad_(name not in quantizer.frozen)
               for name, value in quantizer.fit(w).items()}
    return w.clone().requires_grad_(), learned


@pytest.fixture(params=CASES, ids=IDS)
def quantizer(request):
    name, params = request.param
    return QUANTIZERS.get(name)(params)


class TestQuantizerContract:
    @pytest.mark.parametrize("device", DEVICES)
    def test_decode_gives_the_trained_values_bit_for_bit(self, quantizer, device):
        for shape, std in itertools.product(SHAPES, (0.02, 0.5, 5.0)):
            w = draw(shape, std=std, device=device)
            packed = quantizer.encode(w)
            decoded = quantizer.decode(packed, shape)
            assert decoded.dtype == torch.float32 and decoded.device == w.device
            assert_same_bits(decoded, quantizer.fake_quantize(w), (shape, std))

    def test_awkward_weights_stay_finite_and_round_trip(self, quantizer):
        for case, given_weight in AWKWARD.items():
            w = given_weight.clone().requires_grad_()
            out = quantizer.fake_quantize(w)
            assert torch.isfinite(out).all(), case
            assert_same_bits(quantizer.decode(quantizer.encode(w), tuple(w.shape)), out, case)
            out.sum().backward()
            assert torch.isfinite(w.grad).all(), case

    def test_at_the_ends_of_float32_values_stay_finite_and_a_scale_that_fits_saturates_nothing(self,
                                                                                               quantizer):
        """The largest value comes back as near as levels and scale allow, as anywhere else."""
        most = torch.finfo(torch.float32).max
        w = torch.tensor([[1.0, -1.0, 0.9, 0.3], [-1.0, 1.0, -0.6, 0.0]] * 12) * most
        out = quantizer.fake_quantize(w)
        assert torch.isfinite(out).all()
        assert_same_bits(quantizer.decode(quantizer.encode(w), tuple(w.shape)), out)
        fits = (isinstance(quantizer, BlockScaled) and not quantizer.clips
                and getattr(quantizer, "scaled", True))
        if fits and quantizer.name not in ("mx", "bfp"):  # their scale is a power of two below the largest
            assert out.abs().max() >= 0.99 * most

    @given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1,
                           max_size=48), columns=st.integers(1, 7))
    @settings(max_examples=12, deadline=None)
    @pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
    def test_any_finite_float32_round_trips(self, name, params, values, columns):
        quantizer = QUANTIZERS.get(name)(params)
        rows = max(1, len(values) // columns)
        w = torch.tensor((values * columns)[: rows * columns], dtype=torch.float32).view(rows, columns)
        assert_same_bits(quantizer.decode(quantizer.encode(w), (rows, columns)), quantizer.fake_quantize(w))

    def test_declared_size_is_the_size_to_the_byte(self, quantizer):
        for shape in SHAPES:
            self.size_is_as_declared(quantizer, shape)

    def size_is_as_declared(self, quantizer, shape):
        packed, layout = quantizer.encode(draw(shape)), quantizer.layout(shape)
        assert packed["codes"].dtype == torch.uint8 and set(packed) == set(layout)
        assert all(value.is_contiguous() and value.ndim == 1 for value in packed.values())
        assert ({name: value.dtype for name, value in packed.items()}
                == {name: part.dtype for name, part in layout.items()})
        total = sum(value.numel() * value.element_size() for value in packed.values())
        if quantizer.adaptive:
            assert total <= quantizer.stored_bytes(shape)
        else:
            assert ({name: value.numel() for name, value in packed.items()}
                    == {n: p.count for n, p in layout.items()})
            assert total == quantizer.stored_bytes(shape)
        assert quantizer.bits_per_value(shape) == 8 * quantizer.stored_bytes(shape) / math.prod(shape)

    def test_codes_hold_no_more_than_the_levels_need(self, quantizer):
        if quantizer.grid.levels is None:
            return
        bits = quantizer.layout((100, 100))["codes"].bytes * 8 / 10_000
        assert math.log2(quantizer.grid.levels) <= bits < math.log2(quantizer.grid.levels) + 1

    def test_values_lie_on_the_declared_grid(self, quantizer):
        out = quantizer.fake_quantize(draw((300, 40), std=2.0)).double().numpy()
        grid = quantizer.grid
        if grid.levels is not None and getattr(quantizer.params, "granularity", quantizer.scope) != "group":
            per_row = [len(np.unique(row)) for row in out]
            assert max(per_row) <= grid.levels
        if grid.low is not None:
            assert grid.low <= out.min() and out.max() <= grid.high
        if grid.step is not None:
            assert np.array_equal((out - grid.low) % grid.step, np.zeros_like(out))

    def test_idempotent(self, quantizer):
        if not quantizer.idempotent:
            pytest.skip(f"{quantizer.label} declares that a second pass may differ")
        w = draw((50, 17), std=3.0)
        learned = quantizer.fit(w)
        once = quantizer.fake_quantize(w, learned)
        torch.testing.assert_close(quantizer.fake_quantize(once, learned), once, rtol=1e-6, atol=0)

    def test_integer_groups_are_the_decoded_weight_bit_for_bit(self, quantizer):
        w = draw((48, 128))
        packed = quantizer.encode(w)
        held = quantizer.integer_groups(packed, (48, 128))
        if held is None:
            assert quantizer.name not in ("fixed", "binary", "ternary_twn") or quantizer.grid.levels > 256
            return
        assert torch.equal(held.values, quantizer.decode(packed, (48, 128)))
        most = 1 << held.bits - 1
        for part in (held.levels, *(() if held.zero is None else (held.zero,))):
            assert part.dtype == torch.int8 and -most <= int(part.min()) and int(part.max()) < most

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
        if quantizer.scope != "row":
            pytest.skip(f"{quantizer.label} declares that a {quantizer.scope} shares scale or table")
        w = draw((20, 33))
        assert_same_bits(quantizer.fake_quantize(w)[4:9], quantizer.fake_quantize(w[4:9]))

    def test_gradient_reaches_small_weights_and_is_finite(self, quantizer):
        w = draw((20, 15), std=0.05).requires_grad_()
        out = quantizer.fake_quantize(w)
        out.backward(draw((20, 15), seed=1))
        assert w.grad.shape == w.shape and torch.isfinite(w.grad).all()
        assert (w.grad != 0).double().mean() > 0.4

    def test_training_follows_the_gradient(self, quantizer):
        """A fake-quantized matrix learns to fit targets it can express: the loss falls far
        below its start."""
        # Within the range: where a format saturates, most families pass no gradient and a weight is stuck.
        std = min(0.8, 0.3 * (quantizer.grid.high or math.inf))
        target = quantizer.fake_quantize(draw((6, 12), seed=3, std=std)).detach()
        x = draw((64, 12), seed=5, std=1.0)
        w, learned = trainable(quantizer, draw((6, 12), seed=4, std=std))
        optimizer = torch.optim.Adam([w, *(value for value in learned.values() if value.requires_grad)],
                                     lr=0.02)
        losses: list[float] = []
        while not losses or losses[-1] >= 0.25 * losses[0]:
            assert len(losses) < 300, losses
            loss = (x @ (quantizer.fake_quantize(w, learned) - target).T).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    def test_what_is_learned_gets_a_gradient_and_is_exported(self, quantizer):
        w, learned = trainable(quantizer, draw((40, 12)))
        assert all(value.dtype == torch.float32 for value in learned.values())
        trained = {name: value for name, value in learned.items() if value.requires_grad}
        assert set(quantizer.frozen) <= set(learned)
        if not learned:
            return
        quantizer.fake_quantize(w, learned).backward(draw((40, 12), seed=1))
        for name, value in trained.items():
            assert torch.isfinite(value.grad).all() and (value.grad != 0).any(), name
            with torch.no_grad():
                value.add_(0.1 * value.abs().max() * draw(tuple(value.shape), seed=2))
        moved = quantizer.fake_quantize(w, learned)
        assert not torch.equal(moved, quantizer.fake_quantize(w))
        assert_same_bits(quantizer.decode(quantizer.encode(w, learned), (40, 12)), moved)

    @pytest.mark.parametrize("rule", ["plain", "clipped", "affine", "rotation"])
    def test_every_rule_for_the_gradient_keeps_values_and_is_finite(self, quantizer, rule):
        if "gradient" not in type(quantizer.params).model_fields:
            pytest.skip("nothing to pass through")
        ruled = type(quantizer)(type(quantizer.params)(**{**quantizer.params.model_dump(), "gradient": rule}))
        for w in (draw((20, 15), std=0.05), *AWKWARD.values()):
            w, learned = trainable(quantizer, w)
            out = ruled.fake_quantize(w, learned)
            assert_same_bits(out, quantizer.fake_quantize(w, learned))
            out.backward(draw(tuple(w.shape), seed=1))
            assert torch.isfinite(w.grad).all()
            if rule == "plain":
                assert torch.equal(w.grad, draw(tuple(w.shape), seed=1))

    def test_other_dtypes_are_quantized_in_float32_then_cast(self, quantizer):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            w = draw((9, 11)).to(dtype).requires_grad_()
            out = quantizer.fake_quantize(w)
            assert out.dtype == dtype
            reference = (quantizer.decode(quantizer.encode(w), (9, 11)) if quantizer.name != "none"
                         else w.detach())
            assert torch.equal(out.detach(), reference.to(dtype)), dtype
            out.sum().backward()
            assert w.grad.dtype == dtype and torch.isfinite(w.grad).all(), dtype

    def test_non_contiguous_weight(self, quantizer):
        w = draw((13, 22))
        view = w.t()[::2]
        assert_same_bits(quantizer.fake_quantize(view), quantizer.fake_quantize(view.contiguous()))
        assert_same_bits(quantizer.decode(quantizer.encode(view), tuple(view.shape)),
                         quantizer.fake_quantize(view))

    def test_encode_refuses_a_diverged_weight(self, quantizer):
        for bad in (math.nan, math.inf, -math.inf):
            w = draw((3, 4))
            w[1, 2] = bad
            with pytest.raises(ValueError, match="NaN or infinity"):
                quantizer.encode(w)

    def test_decode_refuses_truncated_arrays(self, quantizer):
        packed = quantizer.encode(draw((40, 10)))
        for key, value in packed.items():
            for wrong in (value[:-1], value.to(torch.int64)):
                with pytest.raises(ValueError, match="expected"):
                    quantizer.decode({**packed, key: wrong}, (40, 10))
            with pytest.raises(ValueError, match="expected"):
                quantizer.decode({name: part for name, part in packed.items() if name != key}, (40, 10))

    def test_rows_are_read_alone_where_they_stand_apart(self, quantizer):
        shape = (96, 40)
        packed, ids = quantizer.encode(draw(shape)), torch.tensor([[5, 95, 0], [5, 6, 7]])
        if row_parts(quantizer, shape) is None:
            with pytest.raises(ValueError, match="cannot be read alone"):
                look_up(quantizer, packed, shape, ids)
            return
        assert_same_bits(look_up(quantizer, packed, shape, ids), quantizer.decode(packed, shape)[ids])

    def test_runs_of_rows_are_those_of_the_whole(self, quantizer):
        for shape in ((40, 64), (40, 13)):
            packed = quantizer.encode(draw(shape))
            whole, runs = quantizer.decode(packed, shape), list(row_runs(quantizer, packed, shape, 16))
            assert [(run.start, run.stop) for run, _ in runs] == [(0, 16), (16, 32), (32, 40)]
            for run, rows in runs:
                assert_same_bits(rows, whole[run], shape)

    def test_says_what_it_is(self, quantizer):
        facts = quantizer.facts((821, 16))
        assert set(facts) == {"label", "bits_per_value", "levels", "low", "high", "step"}
        assert facts["label"] == quantizer.label and quantizer.label
        assert type(quantizer).__doc__ and quantizer.name in QUANTIZERS
        assert type(quantizer).Params(**quantizer.params.model_dump()) == quantizer.params


def test_labels_are_unique():
    assert len(set(IDS)) == len(IDS)
