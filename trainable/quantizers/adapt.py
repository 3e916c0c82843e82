"""AdaPT's dynamic fixed point (arXiv 2107.13490): word length and fraction length follow the values."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainable.quantizers.base import Learned, Part, QuantizerParams, WholeTensor, check_size, finite32
from trainable.quantizers.gradients import straight_through
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

BINS = 16
LOOKED_AT = 8192
"""Values that the histograms are taken over, evenly spread over the tensor: bounds the cost of
a training step."""


class AdaPTParams(QuantizerParams):
    least_bits: int = Field(3, ge=2, le=16, description="shortest word, the sign included")
    most_bits: int = Field(8, ge=2, le=16, description="longest word")
    divergence: float = Field(0.05, gt=0,
                              le=10, description="largest Kullback-Leibler divergence in nats between the "
                                                 "histograms of the floats and of the words")

    @model_validator(mode="after")
    def _ordered(self) -> AdaPTParams:
        if self.least_bits > self.most_bits:
            raise ValueError(f"least_bits {self.least_bits} exceeds most_bits {self.most_bits}")
        return self


class AdaPT(WholeTensor):
    """Fixed point whose word is the shortest that keeps the histogram of the values, chosen
    anew at every step.

    The fraction length is the largest at which max|w| fits. The word length is the least between `least_bits`
    and `most_bits` with KL(float || fixed) at most `divergence` over 16 bins. The paper chooses at
    intervals and lengthens words again when gradients lose diversity; here the choice is a function of
    the weights alone, so that a trial that is resumed or exported finds the same format. The gradient
    passes inside the range.
    """

    name = "adapt"
    Params = AdaPTParams
    params: AdaPTParams
    idempotent = False
    adaptive = True

    @classmethod
    def examples(cls) -> list[AdaPTParams]:
        return [AdaPTParams(), AdaPTParams(least_bits=4, most_bits=4), AdaPTParams(divergence=0.3)]

    @property
    def label(self) -> str:
        return f"adapt{self.params.least_bits}-{self.params.most_bits}_kl{self.params.divergence:g}"

    def format(self, w: Tensor) -> tuple[int, int]:
        """(word length with its sign, fraction length) for these values."""
        return self._fitting(w, self._word(w))

    def _fitting(self, w: Tensor, word: int) -> tuple[int, int]:
        largest = float(w.abs().max())
        # |w| < 2^i for the least whole i; what is left of the word is fraction.
        whole = math.frexp(largest)[1] if largest > 0 else 0
        return word, max(-120, min(120, word - 1 - whole))

    def _word(self, w: Tensor) -> int:
        flat = w.flatten()[:: max(1, w.numel() // LOOKED_AT)]
        largest = float(flat.abs().max())
        if largest == 0 or self.params.least_bits == self.params.most_bits:
            return self.params.least_bits
        whole = self._bins(flat / largest)
        for word in range(self.params.least_bits, self.params.most_bits):
            coarse = self._bins(_rounded(flat, *self._fitting(w, word)) / largest)
            if float((whole * (whole / coarse).log()).sum()) <= self.params.divergence:
                return word
        return self.params.most_bits

    def _bins(self, shares: Tensor) -> Tensor:
        """[n] in [-1, 1] -> a histogram of `BINS` bins, one added to each so that the
        divergence is finite."""
        place = ((shares.clamp(-1, 1) + 1) * (BINS / 2)).long().clamp_(max=BINS - 1)
        counts = torch.bincount(place, minlength=BINS).double() + 1
        return counts / counts.sum()

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        values = w.detach().float()
        word, fraction = self.format(values)
        low, high = (-(1 << word - 1)) * 2.0**-fraction, ((1 << word - 1) - 1) * 2.0**-fraction
        return straight_through(w, _rounded(values, word, fraction), low, high)

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        values = finite32(w)
        word, fraction = self.format(values)
        levels = _rounded(values, word, fraction) * 2.0**fraction
        return {"codes": pack_bits((levels.flatten() + (1 << word - 1)).int(), word),
                "format": torch.tensor([word, fraction + 128], dtype=torch.uint8, device=w.device)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        levels, scale = self._levels(packed, shape)
        return levels.float() * scale

    def integer_rows(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        levels, scale = self._levels(packed, shape)
        if int(packed["format"][0]) > 8:
            return None
        return levels.to(torch.int8), torch.full((shape[0], 1), scale, device=levels.device)

    def _levels(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, float]:
        """Whole numbers [rows, cols] and the step that they are multiples of. Raises ValueError
        as `decode` does."""
        for name, least in (("format", 2), ("codes", 1)):
            if name not in packed or packed[name].dtype != torch.uint8 or packed[name].numel() < least:
                raise ValueError(f"{self.label}: expected {name}, at least {least} bytes")
        check_size(packed["format"], 2, f"{self.label} format")
        word, fraction = int(packed["format"][0]), int(packed["format"][1]) - 128
        if not self.params.least_bits <= word <= self.params.most_bits:
            raise ValueError(f"{self.label}: expected words of {self.params.least_bits} to "
                             f"{self.params.most_bits} bits, found {word}")
        values = math.prod(shape)
        check_size(packed["codes"], bits_bytes(values, word), f"{self.label} codes, shape {shape}")
        codes = unpack_bits(packed["codes"], word, values)
        return (codes - (1 << word - 1)).view(shape), 2.0**-fraction

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), self.params.most_bits)),
                "format": Part(torch.uint8, 2)}


def _rounded(values: Tensor, word: int, fraction: int) -> Tensor:
    """Fixed point of that word and fraction length, half to even, saturating, without -0."""
    steps = (values * 2.0**fraction).round_().clamp_(-(1 << word - 1), (1 << word - 1) - 1)
    return steps.mul_(2.0**-fraction).add_(0.0)
