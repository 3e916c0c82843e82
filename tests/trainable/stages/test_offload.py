"""Calibration block by block on a device that has no room for the model: the same numbers, and never more
than one block there. The device is a pretended one, which keeps tensors apart as a GPU does."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace

import calibrated_models as small
import pytest
import torch
from pretended_device import DEVICE, Device, There, moved, on_device

from spaces.config import CalibrationConfig
from spaces.errors import UserError
from trainable.metrics.kl_to_base import divergence
from trainable.models.diffusion_gemma.config import DiffusionGemmaConfig
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.models.placement import Placement, Streamed, blocks_of, offloads, sizes
from trainable.stages.calibrate import Calibrated, calibrate

GPTQ = small.GPTQ
SETTINGS = {
    "gptq": GPTQ,
    "rtn, nothing is fed": {"method": "rtn:3"},
    "around the body too": {**GPTQ, "sites": ("projection", "attention", "ffn"), "activation_bits": 8},
    "scaled and rotated": {**GPTQ, "transforms": ["smoothquant", "rotation"], "activation_bits": 4,
                           "activation_range": "static"},
    "weighed by attention": {**GPTQ, "token_weight": "rsq"},
    "weighed by certainty": {**GPTQ, "token_weight": "cgq_survey"},
    "corrected": small.ALL,
}


@cache
def here(kind: str, name: str) -> tuple[Calibrated, torch.Tensor]:
    """On the CPU, all at once; and what the rounded model says."""
    net, done = small.calibrated(kind, SETTINGS[name])
    return done, small.log_probs(net, kind)


def streamed(kind: str, name: str):
    """Block by block on the pretended device."""
    net, device = small.model(kind), Device()
    device.models = (net,)
    with device, torch.no_grad():
        place = Streamed(net, DEVICE, torch.float32)
        done = calibrate(net, moved(small.states(kind)), CalibrationConfig.model_validate(SETTINGS[name]),
                         place=place)
        place.close()
    return net, done, device


@pytest.mark.parametrize(("kind", "name"), [*(("gaussian", name) for name in SETTINGS),
                                            ("llama", "corrected"), ("bert", "gptq")])
def test_the_same_is_found_with_one_block_on_the_device(kind, name):
    whole, said = here(kind, name)
    net, done, device = streamed(kind, name)
    assert done.weights.keys() == whole.weights.keys() and done.plain.keys() == whole.plain.keys()
    for weight, stored in whole.weights.items():
        assert done.weights[weight].entry == stored.entry
        for array, value in stored.arrays.items():
            found = done.weights[weight].arrays[array]
            assert type(found) is torch.Tensor and torch.equal(found, value)
    assert all(torch.equal(done.plain[key], value) for key, value in whole.plain.items())
    times = {"calibration_seconds"}
    assert {key: value for key, value in done.facts.items() if key not in times} == {
        key: value for key, value in whole.facts.items() if key not in times}
    assert torch.equal(small.log_probs(net, kind), said)  # at home, rounded
    assert not any(isinstance(value, There) for value in net.state_dict().values())
    each = {frozenset({block}) for block in blocks_of(net)}
    assert all(len(places - {"around"}) <= 1 for places in device.seen)
    assert "rtn" in name or each <= device.seen  # without what lies around them, too


def test_a_guard_that_sees_two_blocks_says_so():
    """All at once on the same device: what the tests above would find."""
    net, device = small.model("gaussian"), Device()
    device.models = (net,)
    with device, torch.no_grad():
        on_device(net)
        done = calibrate(net, moved(small.states("gaussian")), CalibrationConfig.model_validate(GPTQ))
    assert device.seen == {frozenset({"around", *blocks_of(net)})}
    for weight, stored in here("gaussian", "gptq")[0].weights.items():
        assert torch.equal(done.weights[weight].arrays["codes"].cpu(), stored.arrays["codes"])


def test_more_layers_take_no_more_of_the_device():
    def most(layers: int, stream: bool) -> int:
        params = MaskedLMConfig(hidden=32, layers=layers, heads=2, ffn=64, positions=16)
        net, device = MaskedLM(params, len(small.WORDS), seed=1).eval().requires_grad_(False), Device()
        with device, torch.no_grad():
            place = Streamed(net, DEVICE) if stream else Placement()
            calibrate(net if stream else on_device(net), moved(small.states("bert")),
                      CalibrationConfig.model_validate(GPTQ), place=place)
        return device.most

    block = sizes(MaskedLM(MaskedLMConfig(hidden=32, layers=1, heads=2, ffn=64, positions=16), 20)).block
    assert most(6, True) - most(3, True) < block / 4
    assert most(6, False) - most(3, False) >= 3 * block


def test_two_devices_do_not_mix():
    with Device():
        there, ours = torch.ones(2, device=DEVICE), torch.ones(2)
        assert there.device == DEVICE == (there + 1).device and there[torch.tensor([0])].numel() == 1
        with pytest.raises(RuntimeError, match="two devices"):
            there + ours
        with pytest.raises(RuntimeError, match="two devices"):
            torch.nn.functional.linear(there, torch.ones(1, 2))
        assert torch.equal(there.cpu(), ours) and type(there.to("cpu")) is torch.Tensor


@pytest.mark.parametrize("kind", ["gaussian", "llama"])
def test_models_are_compared_with_one_block_of_the_base_on_the_device(kind):
    base, net, device = small.model(kind), small.calibrated(kind, GPTQ)[0], Device()
    expected = divergence(base, net, small.states(kind))
    device.models = (base,)
    with device:
        Streamed(base, DEVICE).settle()
        found = divergence(base, on_device(net), moved(small.states(kind)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert device.seen == {frozenset({"around"}), *(frozenset({"around", name}) for name in blocks_of(base))}


def test_weights_of_a_smaller_type_are_widened_where_they_compute():
    half, wide = small.model("llama").bfloat16(), small.model("llama").bfloat16().float()
    before = copy.deepcopy(half.state_dict())
    told = CalibrationConfig.model_validate(GPTQ)
    expected = calibrate(wide, small.states("llama"), told)
    place = Streamed(half, torch.device("cpu"), torch.float32)  # in the host's memory, block by block
    found = calibrate(half, small.states("llama"), told, place=place)
    place.close()
    for name, stored in expected.weights.items():
        assert torch.equal(found.weights[name].arrays["codes"], stored.arrays["codes"])
        assert torch.equal(half.get_parameter(name), wide.get_parameter(name))
    rest = before.keys() - expected.weights.keys()
    assert all(torch.equal(half.state_dict()[name], before[name]) for name in rest)


def meta(**shape) -> MaskedLM:
    with torch.device("meta"):
        return MaskedLM(MaskedLMConfig(body="llama", transform=False, tied=False, **shape), 126_464)


def test_eight_billion_values_are_offloaded_where_24_gb_are(monkeypatch):
    large = meta(hidden=4096, layers=32, heads=32, ffn=12_288, positions=4096)  # LLaDA-8B's shape
    found, card = sizes(large), 24 * 10**9
    assert 31e9 < found.whole < 33e9 and found.around < 4.3e9 and found.block < 0.9e9
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=card))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert offloads(None, large, cuda) and not offloads(None, small.model("gaussian"), cuda)
    assert not offloads(False, large, cuda) and offloads(True, large, cpu) and not offloads(None, large, cpu)
    large.block_by_block = False
    assert not offloads(None, large, cuda)
    with pytest.raises(UserError, match="calibration.offload: model masked_lm does not run block by block"):
        Streamed(large, cuda)
    rule, = (rule for rule in DiffusionGemmaConfig.rules if rule.setting == "calibration.offload")
    assert "legal: false" in (rule.problem(True, DiffusionGemmaConfig()) or "")
    assert rule.problem(None, DiffusionGemmaConfig()) is None
