"""Rotations: Hadamard matrices, what rotating and folding leave unchanged, and what is refused."""

import math

import pytest
import torch
from calibration_problems import inputs, problem
from torch import nn

from spaces.errors import UserError
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.hadamard import hadamard_factors, kronecker, largest_block
from trainable.quantization.post_training.norm_folding import (
    fold_norm,
    remove_output_mean,
    remove_row_mean,
    rms_norm,
    rotate_outputs,
)
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rotation import HadamardRotation, Rotation, RotationParams
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.seeds import stream

WIDTHS = [1, 2, 4, 8, 12, 20, 24, 28, 36, 44, 48, 60, 64, 96, 104, 128, 160, 256, 384, 576]


def dense(factors) -> torch.Tensor:
    out = torch.ones(1, 1, dtype=torch.double)
    for factor in factors:
        out = torch.kron(out, factor)
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_matrices_are_orthogonal_with_entries_of_one_size(width):
    matrix = dense(hadamard_factors(width))
    assert torch.allclose(matrix @ matrix.T, torch.eye(width).double(), atol=1e-12)
    assert torch.allclose(matrix.abs(), torch.full((width, width), width**-0.5).double(), atol=1e-12)


@pytest.mark.parametrize("width", [768, 3072, 14336, 18944])
def test_widths_of_large_models_have_one(width):
    factors = hadamard_factors(width)
    assert math.prod(map(len, factors)) == width and max(map(len, factors)) <= 256


@pytest.mark.parametrize(("width", "block"), [(172, 4), (6, 2), (9, 1), (344, 8), (184, 8), (52, 4)])
def test_widths_without_one_have_blocks(width, block):
    assert hadamard_factors(width) is None and largest_block(width) == block


def test_kronecker_products_are_those_of_the_dense_matrix():
    factors = [hadamard_factors(4)[0], 3, hadamard_factors(12)[0]]
    matrix = dense([torch.eye(each).double() if isinstance(each, int) else each for each in factors])
    x = torch.randn(2, 5, 144, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(kronecker(x, factors), x @ matrix)
    assert torch.allclose(kronecker(x, factors, transpose=True), x @ matrix.T)
    with pytest.raises(ValueError, match="do not act on inputs of width 144"):
        kronecker(x, factors[:2])


@pytest.mark.parametrize("width", [16, 48, 172])
@pytest.mark.parametrize("signs", [False, True])
def test_a_rotation_keeps_lengths_and_can_be_undone(width, signs):
    rotation = Rotation.hadamard(width, generator=stream("test", 0) if signs else None)
    x = inputs(50, width)
    turned = rotation.inputs(x)
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-5)
    assert torch.allclose(rotation.inverse(turned), x, rtol=1e-4, atol=1e-5)
    assert (rotation.signs is not None) == signs


def test_random_signs_come_from_the_seed_alone():
    first, again, other = (HadamardRotation(RotationParams(signs="random", seed=seed)).rotation(64).signs
                           for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and set(first.tolist()) == {-1.0, 1.0}


def test_an_outlier_is_spread_over_all_channels():
    x = torch.zeros(1, 64)
    x[0, 17] = 8.0
    assert torch.allclose(Rotation.hadamard(64).inputs(x).abs(), torch.ones(1, 64), rtol=1e-6)
    weight, _, _ = problem(16, 64)
    weight[:, 3] = 2.0
    plain, turned = (quantize(method, weight).effective for method in (
        RoundToNearest(GridParams(bits=3)), HadamardRotation(RotationParams(bits=3))))
    assert (turned - weight).norm() < 0.7 * (plain - weight).norm()


def test_widths_that_cannot_be_rotated_are_refused_in_one_line():
    with pytest.raises(UserError, match="rotation of 9 channels: .*; legal: widths divisible by 4$"):
        Rotation.hadamard(9)
    with pytest.raises(UserError, match=r"rotation of 344 channels: .* legal: blocks: true \(blocks of 8\)$"):
        quantize(HadamardRotation(RotationParams(blocks=False)), torch.randn(2, 344))
    with pytest.raises(UserError, match="rotation of 3 heads of 16 channels"):
        Rotation.heads(3, 16)


class PreNorm:
    """A pre-norm transformer of two blocks as plain tensors, [MASK] last in the vocabulary, head not tied."""

    vocabulary, width, heads, ffn = 40, 32, 4, 64

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, size=None):
            return torch.randn(*shape, generator=generator) * (size or shape[-1] ** -0.5)

        d, f = self.width, self.ffn
        self.table, self.places = draw(self.vocabulary + 1, d, size=1.0), draw(16, d, size=0.5)
        self.linears = {}
        for block in range(2):
            shapes = {**{name: (d, d) for name in "qkvo"}, "f1": (f, d), "f2": (d, f)}
            for name, shape in shapes.items():
                self.linears[f"{name}{block}"] = (draw(*shape), draw(shape[0], size=0.3))
        self.linears["head"] = (draw(self.vocabulary, d), draw(self.vocabulary, size=0.3))
        self.norms = {name: (1 + draw(d, size=0.5), draw(d, size=0.5)) for name in self.READERS}
        self.rms, self.online = False, None

    READERS = {"a0": ("q0", "k0", "v0"), "m0": ("f10",), "a1": ("q1", "k1", "v1"), "m1": ("f11",),
               "end": ("head",)}
    WRITERS = ("o0", "f20", "o1", "f21")

    def norm(self, x, name):
        if self.rms:
            return rms_norm(x, 1e-5)
        return nn.functional.layer_norm(x, (self.width,), *self.norms[name], eps=1e-5)

    def linear(self, x, name):
        return nn.functional.linear(x, *self.linears[name])

    def __call__(self, ids):
        x = self.table[ids] + self.places[: ids.shape[1]]
        for block in "01":
            read = self.norm(x, f"a{block}")
            q, k, v = (self.linear(read, each + block).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                       for each in "qkv")
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
            x = x + self.linear(mixed if self.online is None else self.online.inputs(mixed), f"o{block}")
            inner = nn.functional.gelu(self.linear(self.norm(x, f"m{block}"), f"f1{block}"))
            x = x + self.linear(inner, f"f2{block}")
        return self.linear(self.norm(x, "end"), "head")

    def fold(self, center: bool = True):
        for name, readers in self.READERS.items():
            for reader in readers:
                self.linears[reader] = fold_norm(*self.linears[reader], *self.norms[name])
        if center:
            self.table, self.places = remove_row_mean(self.table), remove_row_mean(self.places)
            for writer in self.WRITERS:
                self.linears[writer] = remove_output_mean(*self.linears[writer])
        self.rms = True

    def rotate(self, rotation: Rotation):
        self.table, self.places = rotation.inputs(self.table), rotation.inputs(self.places)
        for writer in self.WRITERS:
            self.linears[writer] = rotate_outputs(*self.linears[writer], rotation)
        for readers in self.READERS.values():
            for reader in readers:
                weight, bias = self.linears[reader]
                self.linears[reader] = (rotation.weight(weight), bias)

    def rotate_heads(self, online: bool = True):
        within, across = Rotation.heads(self.heads, self.width // self.heads)
        for block in "01":
            self.linears[f"v{block}"] = rotate_outputs(*self.linears[f"v{block}"], within)
            weight, bias = self.linears[f"o{block}"]
            self.linears[f"o{block}"] = (across.weight(within.weight(weight)), bias)
        self.online = across if online else None


@pytest.fixture
def texts():
    ids = torch.randint(40, (3, 16), generator=torch.Generator().manual_seed(1))
    order = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)).argsort(1).argsort(1)
    return [torch.where(order < share * 16, 40, ids) for share in (1.0, 0.75, 0.5, 0.25, 0.0)]


def change(model: PreNorm, expected: list[torch.Tensor], texts: list[torch.Tensor]) -> float:
    return max(float((model(ids) - logits).norm() / logits.norm())
               for ids, logits in zip(texts, expected, strict=True))


@pytest.mark.parametrize("signs", [False, True])
def test_a_folded_and_rotated_model_gives_the_same_logits_at_every_masked_share(texts, signs):
    model = PreNorm()
    expected = [model(ids) for ids in texts]
    model.fold()
    assert change(model, expected, texts) <= 1e-5
    model.rotate(Rotation.hadamard(32, generator=stream("test", 1) if signs else None))
    assert change(model, expected, texts) <= 1e-5
    model.rotate_heads()
    assert change(model, expected, texts) <= 1e-5


def test_what_must_not_be_forgotten(texts):
    model = PreNorm()
    expected = [model(ids) for ids in texts]
    model.fold(center=False)
    assert change(model, expected, texts) > 0.01  # the mean over channels
    model = PreNorm()
    model.rotate_heads(online=False)
    assert change(model, expected, texts) > 0.1  # the half across heads, computed online


def test_linears_without_bias_fold_too():
    weight, x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), inputs(20, 8)
    scale, shift = torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)
    folded, bias = fold_norm(weight, None, scale, shift)
    assert torch.allclose(x @ folded.T + bias, (x * scale + shift) @ weight.T, rtol=1e-4, atol=1e-4)
    assert fold_norm(weight, None, scale)[1] is None
    centered, none = remove_output_mean(weight, None)
    assert none is None and centered.mean(0).abs().max() < 1e-6
    assert rotate_outputs(weight.T, None, Rotation.hadamard(8))[1] is None
