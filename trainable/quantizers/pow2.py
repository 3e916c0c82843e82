"""The `fixed` of QE-CDLM's released code (arXiv 2402.10107), named for what it computes: powers
of two, then a clip.

It is not fixed point: there is no 2^-f grid, and i and f act through the bound B alone. For |w| < 5 the
formats Q4i0f, Q8i0f, Q4i4f and Q8i8f are one and the same function. Kept for like-for-like comparison;
`fixed` is true fixed point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.quantizers.base import Grid, Learned, Part, Quantizer, finite32, straight_through
from trainable.quantizers.fixed import FormatParams

LOWEST_EXPONENT = -118
"""Powers below 2^-118 become 0, in training as in the file: zero, 126 exponents (-118 to 7) and
B then fit 7 bits."""

_ZERO, _SATURATED = 0, 127
_SIGN_BIT = 128


class Pow2Params(FormatParams):
    """i and f of the released form. They set the bound B alone."""


def nearest_power(values: Tensor) -> Tensor:
    """Float32 -> sign(v) 2^round(log2 |v|), exactly. Powers below 2^LOWEST_EXPONENT become 0,
    above 2^127 infinity.

    Works on the bits: a mantissa above sqrt(2) = 0x3504F3 / 2^23 + 1 carries into the exponent,
    then is cut off.
    """
    bits = values.contiguous().view(torch.int32) + (0x800000 - 0x3504F4)
    powers = bits.bitwise_and_(-0x800000).view(torch.float32)
    return torch.nn.functional.hardshrink(powers, 2.0 ** (LOWEST_EXPONENT - 1))


class PowerOfTwo(Quantizer):
    """Nearest power of two, then saturation at B = [2^(i-1) if i > 0] + [1 - 2^-f if f > 0]:
    the paper's released code.

    Stored in 8 bits, whatever i and f: sign, and a 7-bit code for zero, the exponents -118 to 7, or B itself.
    The gradient passes unchanged, even where the value saturates, as released.
    """

    name = "pow2"
    Params = Pow2Params
    params: Pow2Params
    idempotent = False  # B need not be a power of two: 8.9375 goes to 8 the second time

    def __init__(self, params: Pow2Params):
        super().__init__(params)
        whole = 2.0 ** (params.int_bits - 1) if params.int_bits else 0.0
        self.bound = whole + (1 - 2.0**-params.frac_bits if params.frac_bits else 0.0)

    @classmethod
    def examples(cls) -> list[Pow2Params]:
        formats = [(0, 8), (0, 4), (4, 0), (8, 0), (4, 4), (8, 8), (0, 1), (1, 0)]
        return [Pow2Params(int_bits=i, frac_bits=f) for i, f in formats]

    @property
    def label(self) -> str:
        return f"pow2_{self.params.form}"

    @property
    def grid(self) -> Grid:
        powers = sum(2.0**e < self.bound for e in range(LOWEST_EXPONENT, 8))
        return Grid(2 * (powers + 1) + 1, -self.bound, self.bound, None)

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        return straight_through(w, nearest_power(w.detach().float()).clamp_(-self.bound, self.bound))

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        values = nearest_power(finite32(w)).clamp_(-self.bound, self.bound).flatten()
        magnitude = values.abs()
        codes = (magnitude.view(torch.int32) >> 23) - 127 - LOWEST_EXPONENT + 1
        codes[magnitude == 0] = _ZERO
        codes[magnitude == self.bound] = _SATURATED
        return {"codes": (codes + _SIGN_BIT * (values < 0)).to(torch.uint8)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        codes = self.checked(packed, shape)["codes"]
        powers = [2.0**e for e in range(LOWEST_EXPONENT, LOWEST_EXPONENT + _SATURATED - 1)]
        half = torch.tensor([0.0, *powers, self.bound], device=codes.device)
        return torch.cat([half, -half])[codes.long()].view(shape)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, shape[0] * shape[1])}
