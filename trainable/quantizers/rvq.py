"""Residual vector quantization: each stage quantizes what the stages before it left over."""

from __future__ import annotations

from pydantic import Field

from trainable.quantizers.vq import Vectors, VQParams


class RVQParams(VQParams):
    entries: int = Field(16, ge=2, le=4096, description="codewords in a codebook")
    stages: int = Field(2, ge=2, le=8, description="codebooks that are added up")
    width: int = Field(4, ge=0, le=64,
                       description="consecutive values that are one codeword; 0 = the whole row")


class ResidualVQ(Vectors):
    """The sum of one codeword from each of several codebooks, every stage fitted to the rest of
    the one before it."""

    name = "rvq"
    Params = RVQParams
    params: RVQParams
    idempotent = False  # stage by stage is not the nearest sum

    def __init__(self, params: RVQParams):
        super().__init__(params)
        self.width, self.stages = params.width, params.stages

    @classmethod
    def examples(cls) -> list[RVQParams]:
        return [RVQParams(), RVQParams(entries=8, stages=3, width=0)]

    @property
    def label(self) -> str:
        return f"rvq{self.params.stages}x{self.params.entries}_w{self.params.width or 'row'}"
