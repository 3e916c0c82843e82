"""What is used of torch under private names: each does in this version what it did in the one that
it was read in."""

import pytest
import torch
import transformers

from trainable import compat
from trainable.compat import (
    fbgemm_linear,
    int4_weight_matmul,
    int8_matmul,
    int8_weight_matmul,
    lerp_all_,
    pack_fbgemm,
    pack_int4,
    unpack_fbgemm,
)


def seeded():
    return torch.Generator().manual_seed(0)


def test_they_were_read_in_torch_2_13_and_transformers_5_23():
    """Another version: read them again (trainable/compat.py), and name it there and here."""
    assert compat.TORCH == "2.13" and torch.__version__.startswith("2.13.")
    assert compat.TRANSFORMERS == "5.23" and transformers.__version__.startswith("5.23.")


def test_transformers_5_23_lets_one_layer_call_another_attention():
    config = transformers.BertConfig(attn_implementation="sdpa")
    other = compat.with_attention(config, "eager")
    assert compat.attention_implementation(config) == "sdpa"
    assert compat.attention_implementation(other) == "eager" and other.hidden_size == config.hidden_size


@pytest.mark.skipif(not compat.int8_matmul_serves(), reason="a CPU without VNNI, or oneDNN was told so")
def test_torch_2_13_int_mm_sums_exactly():
    a, b = (torch.randint(-128, 128, shape, generator=seeded(), dtype=torch.int8)
            for shape in ((24, 64), (64, 32)))
    assert torch.equal(int8_matmul(a, b), a.int() @ b.int())


def test_torch_2_13_fbgemm_takes_our_scale_and_keeps_the_codes():
    codes = torch.randint(-127, 128, (32, 64), generator=seeded(), dtype=torch.int8)
    scale = torch.rand(32, generator=seeded()) / 100
    try:
        packed = pack_fbgemm(codes, scale)
    except RuntimeError as error:
        pytest.skip(f"no FBGEMM here: {error}")
    assert torch.equal(unpack_fbgemm(packed), codes)
    x = torch.tensor([-200.0, -3.4, 0.5, 1.5, 2.6, 60.0] + [0.0] * 58)[None]  # small: no CPU overflows
    rounded = torch.tensor([-128.0, -3.0, 0.0, 2.0, 3.0, 60.0] + [0.0] * 58)[None]
    expected = rounded.double() @ (codes.double() * scale.double()[:, None]).t()
    torch.testing.assert_close(fbgemm_linear(x, packed).double(), expected, rtol=1e-5, atol=1e-5)


def test_torch_2_13_weight_int8pack_mm_is_the_product_with_scaled_rows():
    x = torch.randn(5, 64, generator=seeded()).bfloat16()
    codes = torch.randint(-127, 128, (32, 64), generator=seeded(), dtype=torch.int8)
    scale = (torch.rand(32, generator=seeded()) / 100).bfloat16()
    found = int8_weight_matmul(x, codes, scale)
    expected = x.float() @ (codes.float() * scale.float()[:, None]).t()
    assert found.dtype == torch.bfloat16 and found.shape == (5, 32)
    assert torch.allclose(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("group", [32, 64])
def test_torch_2_13_int4pack_mm_takes_codes_whose_zero_is_8(group):
    codes = torch.randint(0, 16, (64, 64), generator=seeded(), dtype=torch.int32)
    scale = torch.rand(64 // group, 64, generator=seeded()) / 10
    packed = pack_int4(codes)
    assert packed.dtype == torch.uint8 and packed.numel() == 64 * 64 // 2
    x = torch.randn(5, 64, generator=seeded()).bfloat16()
    pairs = torch.stack([scale, torch.zeros_like(scale)], dim=-1).bfloat16()
    weight = (codes - 8).float() * pairs[..., 0].float().t().repeat_interleave(group, dim=1)
    found = int4_weight_matmul(x, packed, group, pairs)
    assert (found.shape == (5, 64)
            and torch.allclose(found.float(), x.float() @ weight.t(), rtol=0.02, atol=0.05))


def test_torch_2_13_foreach_lerp_moves_in_place():
    averages, values = [torch.zeros(3), torch.ones(2, 2)], [torch.full((3,), 4.0), torch.full((2, 2), 3.0)]
    kept = list(averages)
    lerp_all_(averages, values, 0.25)
    assert torch.equal(kept[0], torch.full((3,), 1.0)) and torch.equal(kept[1], torch.full((2, 2), 1.5))


def test_torch_2_13_knows_whether_the_cpu_has_bf16_instructions():
    assert compat.has_bf16_instructions() in (True, False)


def test_hooks_that_were_left_are_taken_off_and_others_stay():
    layer, seen = torch.nn.Linear(2, 2), []
    layer.register_forward_hook(lambda *_: seen.append("own"))
    with pytest.raises(ZeroDivisionError), compat.hooks_as_before([layer]):
        layer.register_forward_hook(lambda *_: seen.append("left"))
        layer(torch.zeros(1, 2))
        raise ZeroDivisionError
    layer(torch.zeros(1, 2))
    assert seen == ["own", "left", "own"]


def test_a_graph_runs_what_was_recorded_and_is_differentiable():
    weight = torch.randn(3, 3)

    def function(x):
        return (x @ weight).tanh()

    x = torch.randn(2, 3, requires_grad=True)
    graph = compat.trace(function, [x.detach()])
    with compat.as_traced():
        found, expected = graph(x), function(x)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(value.sum(), x)[0] for value in (found, expected)))


def test_what_changes_and_watches_is_seen():
    layer = torch.nn.Linear(2, 2)
    before = compat.version(layer.weight)
    with torch.no_grad():
        layer.weight.add_(1)
    assert compat.version(layer.weight) > before and not compat.is_watched(layer)
    layer.register_forward_pre_hook(lambda *_: None)
    assert compat.is_watched(layer)


def test_torch_2_13_reads_a_parameter_where_another_tensor_stands():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.BatchNorm1d(2).eval())
    weight, mean, x = layer[0].weight, layer[1].running_mean, torch.randn(3, 2, generator=seeded())
    plain = layer(x)
    with pytest.raises(KeyError), compat.replaced(layer, {id(weight): 2 * weight, id(mean): mean + 1}):
        torch.testing.assert_close(layer(x), 2 * plain - 1 / (1 + layer[1].eps)**0.5)
        raise KeyError
    assert layer[0].weight is weight and layer[1].running_mean is mean
    assert torch.equal(layer(x), plain)
