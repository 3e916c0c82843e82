"""SimVQ: a codebook that is frozen, seen through one linear map that is trained (arXiv 2411.02038)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers.base import Learned, finite32
from trainable.quantizers.codebook import k_means, sub_vectors
from trainable.quantizers.lut import as_stored
from trainable.quantizers.vq import Vectors, VQParams


class SimVQParams(VQParams):
    entries: int = Field(64, ge=2, le=4096, description="codewords in a codebook")
    width: int = Field(4, ge=0, le=64,
                       description="consecutive values that are one codeword; 0 = the whole row")


class SimVQ(Vectors):
    """Codewords C W with C frozen and the square map W trained: a step moves every codeword,
    so that none dies unused.

    C is the k-means of the parts and W starts as the identity (the paper draws C at random, for codes of
    activations). The product is stored, at the price of plain product quantization.
    """

    name = "simvq"
    Params = SimVQParams
    params: SimVQParams
    frozen = ("codewords",)

    def __init__(self, params: SimVQParams):
        super().__init__(params)
        self.width = params.width

    @classmethod
    def examples(cls) -> list[SimVQParams]:
        return [SimVQParams(entries=32), SimVQParams(entries=16, width=0)]

    @property
    def label(self) -> str:
        return f"simvq{self.params.entries}_w{self.params.width or 'row'}"

    @torch.no_grad()
    def fit(self, w: Tensor) -> dict[str, Tensor]:
        codewords = k_means(sub_vectors(finite32(w), self.width), self.params.entries)
        parts, _, width = codewords.shape
        return {"codewords": codewords, "map": torch.eye(width, device=w.device).repeat(parts, 1, 1)}

    def _book(self, learned: Learned) -> Tensor:
        return as_stored(learned["codewords"].float() @ learned["map"].float())[None]
