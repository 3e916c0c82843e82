"""What every post-training method must do. A new one is covered by its line here and its `examples()`."""

import copy

import pytest
import torch
from calibration_problems import assert_same_bits, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.quantization.post_training.base import Encoded
from trainable.quantization.post_training.chain import Chain
from trainable.quantization.post_training.gptq import GPTQ, GptqParams
from trainable.quantization.post_training.grid import GridMethod, GridParams
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rotation import HadamardRotation, RotationParams
from trainable.quantization.post_training.statistics import Statistics
from trainable.registry import POST_TRAINING

METHODS = POST_TRAINING
CASES = [METHODS.get(name)(params) for name in METHODS for params in METHODS.get(name).examples()]
CASES.append(Chain([HadamardRotation(RotationParams())], GPTQ(GptqParams(bits=3))))
CASES.append(Chain([METHODS.build_default("awq"), METHODS.build_default("smoothquant")],
                   METHODS.build_default("hqq")))
IDS = [f"{method.name}-{number}" for number, method in enumerate(CASES)]
SHAPES = [(5, 32), (32, 16), (1, 48), (7, 64)]


@pytest.fixture(params=CASES, ids=IDS)
def method(request):
    return request.param


def arrays(encoded: Encoded) -> dict[str, torch.Tensor]:
    return {"codes": encoded.codes, **encoded.parameters}


class TestPostTrainingContract:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_what_is_stored_is_the_layout_to_the_byte(self, method, shape):
        weight, statistics, _ = problem(*shape)
        encoded = quantize(method, weight, statistics).encoded
        found = {name: (array.dtype, array.numel()) for name, array in arrays(encoded).items()}
        layout = method.layout(shape)
        assert found == {name: tuple(part) for name, part in layout.items()} and next(iter(layout)) == "codes"
        assert all(array.ndim == 1 and array.is_contiguous() for array in arrays(encoded).values())
        assert encoded.codes.dtype == torch.uint8
        assert encoded.bytes == sum(part.bytes for part in layout.values())

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_decoding_is_exact_and_repeatable(self, method, shape):
        weight, statistics, _ = problem(*shape)
        first, second = (quantize(method, weight, statistics) for _ in range(2))
        assert first.weight.dtype == torch.float32 and first.weight.shape == shape
        assert torch.isfinite(first.weight).all() and torch.isfinite(first.effective).all()
        assert_same_bits(first.weight, second.weight)
        assert_same_bits(method.decode(copy.deepcopy(first.encoded), shape), first.weight)

    def test_integer_groups_are_what_decoding_gives(self, method):
        weight, statistics, _ = problem(12, 32)
        done = quantize(method, weight, statistics)
        held = method.integer_groups(done.encoded, (12, 32))
        if held is not None:
            assert_same_bits(held.values + 0.0, done.weight + 0.0)
            for part in (held.levels, *(() if held.zero is None else (held.zero,))):
                assert part.dtype == torch.int8 and int(part.max()) < 1 << held.bits - 1
                assert int(part.min()) >= -(1 << held.bits - 1)
        rounding = getattr(method, "rounding", method)
        apart = getattr(rounding.params, "order", "") == "activation" and not rounding.params.static_groups
        assert (held is None) == (not isinstance(rounding, GridMethod) or apart)

    @pytest.mark.parametrize("out", [1, 12])
    def test_nothing_that_is_given_is_changed(self, method, out):
        weight, statistics, _ = problem(out, 32)
        before, moment = weight.clone(), statistics.second_moment.clone()
        quantize(method, weight, statistics)
        assert_same_bits(weight, before)
        assert torch.equal(statistics.second_moment, moment)

    def test_the_transform_changes_no_output(self, method):
        weight, statistics, x = problem(24, 48)
        changed, maps = method.transform(weight, statistics)
        fed = x
        for each in maps:
            fed = each.inputs(fed)
        expected = x.double() @ weight.double().T
        assert (fed.double() @ changed.double().T - expected).norm() <= 1e-5 * expected.norm()

    def test_effective_weight_acts_as_the_quantized_layer_does(self, method):
        weight, statistics, x = problem(24, 48)
        done = quantize(method, weight, statistics)
        fed = x
        for each in done.maps:
            fed = each.inputs(fed)
        expected = fed.double() @ done.weight.double().T
        assert (x.double() @ done.effective.double().T - expected).norm() <= 1e-5 * expected.norm()

    def test_statistics_behind_the_maps_are_those_of_the_mapped_inputs(self, method):
        weight, statistics, x = problem(24, 48)
        maps = method.transform(weight, statistics).maps
        behind, fed = statistics.after(maps), x
        for each in maps:
            fed = each.inputs(fed)
        direct = Statistics(48, behind.needs)
        direct.add(fed)
        assert torch.allclose(behind.second_moment, direct.second_moment, rtol=1e-4, atol=1e-6)
        for need in ("absolute_mean", "absolute_maximum"):
            if need.replace("_", " ") in behind.needs:
                assert torch.allclose(getattr(behind, need), getattr(direct, need), rtol=1e-5)

    def test_any_float_dtype_is_taken(self, method):
        weight, statistics, _ = problem(8, 32)
        assert_same_bits(quantize(method, weight.bfloat16(), statistics).weight,
                         quantize(method, weight.bfloat16().float(), statistics).weight)

    def test_awkward_weights_stay_finite(self, method):
        _, statistics, _ = problem(4, 32)
        zero_row = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
        zero_row[1] = 0
        constant = torch.full((4, 32), -0.25)
        for weight in (torch.zeros(4, 32), zero_row, constant, zero_row * 1e-30, zero_row * 1e12):
            assert torch.isfinite(quantize(method, weight, statistics).effective).all()

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_weights_that_are_no_numbers_are_refused(self, method, bad):
        weight, statistics, _ = problem(4, 32)
        weight[2, 3] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            quantize(method, weight, statistics)

    def test_truncated_arrays_are_refused(self, method):
        weight, statistics, _ = problem(4, 32)
        encoded = quantize(method, weight, statistics).encoded
        with pytest.raises(ValueError, match="codes|scale"):
            method.decode(encoded._replace(codes=encoded.codes[:-1]), (4, 32))
        for name in list(encoded.parameters)[:1]:
            shorter = {**encoded.parameters, name: encoded.parameters[name][1:]}
            with pytest.raises(ValueError, match=name):
                method.decode(encoded._replace(parameters=shorter), (4, 32))

    def test_missing_statistics_are_named_in_one_line(self, method):
        weight, _, _ = problem(4, 32)
        if not method.needs:
            quantize(method, weight)
            return
        with pytest.raises(UserError, match=f"{method.name!r} needs statistics: ") as error:
            quantize(method, weight, Statistics(32, ()))
        assert "\n" not in str(error.value) and all(need in str(error.value) for need in method.needs)

    def test_statistics_of_another_width_are_a_bug(self, method):
        weight, _, _ = problem(4, 32)
        with pytest.raises(ValueError, match="16 wide"):
            quantize(method, weight, problem(4, 16)[1])


@pytest.mark.parametrize("name", list(METHODS))
def test_plug_ins_are_named_and_say_what_they_are(name):
    cls = METHODS.get(name)
    assert cls.name == name and cls.__doc__.strip().count("\n") == 0 and cls.__doc__.endswith(".")
    assert all(field.description for field in cls.Params.model_fields.values())
    assert cls.Params.model_config["frozen"]


@pytest.mark.parametrize("name",
                         [name for name in METHODS if "group" in METHODS.get(name).Params.model_fields])
def test_groups_that_do_not_fill_the_width_are_refused_in_one_line(name):
    method = METHODS.build(PluginRef(name=name, group=24))
    weight, statistics, _ = problem(4, 32)
    with pytest.raises(UserError, match="group 24 does not divide a weight of 32 inputs; legal: 0 .*, 4, 8"):
        quantize(method, weight, statistics)
    with pytest.raises(UserError, match="group 24"):
        method.layout((4, 32))


@pytest.mark.parametrize("name", list(METHODS))
def test_impossible_bits_are_refused_in_one_line(name):
    with pytest.raises(UserError, match=f"post-training method '{name}', parameter 'bits'") as error:
        METHODS.build(PluginRef(name=name, bits=9))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["rtn", "gptq", "awq", "smoothquant", "rotation", "hqq"])
def test_more_bits_lose_less(name):
    weight, statistics, _ = problem(32, 64)
    lost = []
    for bits in range(2, 9):
        done = quantize(METHODS.build(PluginRef(name=name, bits=bits)), weight, statistics)
        lost.append(float((done.effective - weight).norm() / weight.norm()))
    assert lost == sorted(lost, reverse=True) and lost[-1] < 0.02


@pytest.mark.parametrize(("bits", "group", "symmetric", "scale_bits"),
                         [(4, 0, False, 16), (3, 8, False, 16), (2, 16, True, 16), (8, 0, True, 32),
                          (5, 4, False, 32)])
def test_plain_rounding_is_that_of_the_uniform_quantizer_bit_for_bit(bits, group, symmetric, scale_bits):
    from trainable.registry import QUANTIZERS
    weight, _, _ = problem(20, 32)
    grid = {"bits": bits, "symmetric": symmetric, "scale_bits": scale_bits}
    ours = quantize(METHODS.build(PluginRef(name="rtn", **grid, group=group)), weight)
    where = {"granularity": "group", "group": group} if group else {"granularity": "row"}
    theirs = QUANTIZERS.build(PluginRef(name="uniform", **grid, **where))
    assert_same_bits(ours.weight, theirs.fake_quantize(weight))
    packed = theirs.encode(weight)
    assert torch.equal(ours.encoded.codes, packed.pop("codes"))
    assert set(packed) == set(ours.encoded.parameters)


def test_clip_search_loses_no_more_than_the_whole_range():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight[::4, 5] = 9.0  # an outlier that stretches the range of its row
    plain, clipped = (quantize(METHODS.build(PluginRef(name="rtn", bits=3, clip=clip)), weight).weight
                      for clip in ("none", "search"))
    norms = [((found - weight).abs() ** 2.4).sum(1) for found in (plain, clipped)]
    assert (norms[1] <= norms[0] * (1 + 1e-6)).all() and norms[1].sum() < 0.9 * norms[0].sum()


def test_clip_search_is_the_same_one_ratio_at_a_time(monkeypatch):
    weight, _, _ = problem(24, 32)
    method = METHODS.build(PluginRef(name="rtn", bits=3, group=8, clip="search"))
    many = quantize(method, weight).weight
    monkeypatch.setattr("trainable.quantization.post_training.grid.AT_ONCE", 1)
    assert_same_bits(quantize(method, weight).weight, many)


def test_a_chain_searches_on_the_grid_that_it_rounds_to():
    weight, statistics, _ = problem(32, 32)
    chain = Chain([METHODS.build_default("awq")], METHODS.build(PluginRef(name="rtn", bits=2, group=8)))
    alone = METHODS.build(PluginRef(name="awq", bits=2, group=8))
    assert_same_bits(quantize(chain, weight, statistics).effective,
                     quantize(alone, weight, statistics).effective)
    assert isinstance(chain.transforms[0].params, GridParams) and chain.transforms[0].params.bits == 2


def test_a_transform_that_needs_channels_behind_a_rotation_is_refused():
    weight, statistics, _ = problem(8, 32)
    chain = Chain([METHODS.build_default("rotation")], METHODS.build_default("smoothquant"))
    with pytest.raises(UserError, match="lack the absolute maximum: .* or lies before a rotation"):
        quantize(chain, weight, statistics)


@given(values=st.lists(st.floats(width=32, min_value=-2.0**40, max_value=2.0**40), min_size=1, max_size=40),
       bits=st.integers(2, 8), symmetric=st.booleans())
@settings(max_examples=60, deadline=None)
def test_plain_rounding_errs_by_at_most_half_a_level(values, bits, symmetric):
    method = METHODS.build(PluginRef(name="rtn", bits=bits, symmetric=symmetric, scale_bits=32))
    weight = torch.tensor([values])
    done = quantize(method, weight)
    scale = done.encoded.parameters["scale"]
    assert ((done.weight - weight).abs() <= (0.5 + 2.0**-10) * scale + 1e-6 * weight.abs()).all()
