"""The parts together, as a calibration pass uses them: block after block, on inputs from rounded ones."""

import copy

import pytest
import torch
from calibration_problems import inputs
from torch import nn

from trainable.quantization.post_training.activations import ActivationParams, ActivationQuantizer
from trainable.quantization.post_training.chain import Chain
from trainable.quantization.post_training.divergence import token_kl
from trainable.quantization.post_training.gptq import GPTQ, GptqParams
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rotation import HadamardRotation, RotationParams
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.statistics import Calibration
from trainable.quantization.post_training.token_weights import CgqSurvey, Tokens

WIDTH, TOKENS = 32, 24


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(nn.functional.layer_norm(x, (WIDTH,)))))


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(Block(), Block(), Block(), nn.Linear(WIDTH, 50))


def states() -> tuple[torch.Tensor, torch.Tensor]:
    """States of one distribution: 80 to calibrate on and 40 to measure on."""
    drawn = inputs(120 * TOKENS, WIDTH, outliers=10.0).view(120, TOKENS, WIDTH)
    return drawn[:80], drawn[80:]


@torch.no_grad()
def calibrated(method, full: nn.Module, x: torch.Tensor, weights: torch.Tensor | None = None,
               activations: ActivationQuantizer | None = None) -> nn.Module:
    """A copy of the model with the Linears of its blocks quantized, one block's statistics at a time."""
    rounded = copy.deepcopy(full)
    for block in list(rounded)[:-1]:
        found = Calibration(method.needs)
        linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        hooks = [module.register_forward_pre_hook(
            lambda _, args, name=name, found=found: found.add(name, args[0], weights=weights))
            for name, module in linears.items()]
        block(x)
        for hook in hooks:
            hook.remove()
        for name, module in linears.items():
            done = quantize(method, module.weight, found.merged(name) if method.needs else None)
            found.drop(name)
            if activations is None:
                module.weight.copy_(done.effective)
            else:
                module.weight.copy_(done.weight)
                module.register_forward_pre_hook(
                    lambda _, args, maps=done.maps: activations.fake_quantize(fed(args[0], maps)))
        x = block(x)
    return rounded


def fed(x, maps):
    for each in maps:
        x = each.inputs(x)
    return x


@torch.no_grad()
def kl(full: nn.Module, rounded: nn.Module) -> float:
    x = states()[1]
    return float(token_kl(full(x), rounded(x)).mean())


@pytest.fixture(scope="module")
def full():
    return model()


def test_gptq_is_nearer_to_the_base_than_plain_rounding_on_new_states(full):
    x = states()[0]
    plain = kl(full, calibrated(RoundToNearest(GridParams(bits=3)), full, x))
    ours = kl(full, calibrated(GPTQ(GptqParams(bits=3)), full, x))
    assert 0 < ours < 0.6 * plain


def test_token_weights_of_a_state_reach_the_hessian(full):
    x = states()[0]
    masked, confidence = torch.rand(2, 80, TOKENS, generator=torch.Generator().manual_seed(0))
    weights = CgqSurvey(CgqSurvey.Params()).weights(Tokens(masked < 0.5, confidence))
    method = GPTQ(GptqParams(bits=3))
    plain, weighted = (calibrated(method, full, x, each) for each in (None, weights))
    assert not torch.equal(plain[0].up.weight, weighted[0].up.weight)
    assert kl(full, weighted) < 1.5 * kl(full, plain)


def test_four_bit_activations_gain_from_a_rotation(full):
    x = states()[0]
    rotation = HadamardRotation(RotationParams())
    four, sixteen = (ActivationQuantizer(ActivationParams(bits=bits)) for bits in (4, 16))
    plain = kl(full, calibrated(GPTQ(GptqParams()), full, x, activations=four))
    turned = kl(full, calibrated(Chain([rotation], GPTQ(GptqParams())), full, x, activations=four))
    assert 0 < turned < 0.95 * plain
    fine = Chain([rotation], GPTQ(GptqParams(bits=8)))
    assert kl(full, calibrated(fine, full, x, activations=sixteen)) < 0.01 * plain
