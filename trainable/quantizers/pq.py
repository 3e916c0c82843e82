"""Product quantization: a codebook for each part of the row (Jegou et al., TPAMI 2011)."""

from __future__ import annotations

from pydantic import Field

from trainable.quantizers.vq import Vectors, VQParams


class PQParams(VQParams):
    entries: int = Field(16, ge=2, le=4096, description="codewords in a codebook")
    width: int = Field(4, ge=2, le=64, description="consecutive values that are one codeword")


class ProductQuantizer(Vectors):
    """Rows cut into parts of `width` values, each part with a codebook of its own: log2(entries)
    bits a part."""

    name = "pq"
    Params = PQParams
    params: PQParams

    def __init__(self, params: PQParams):
        super().__init__(params)
        self.width = params.width

    @classmethod
    def examples(cls) -> list[PQParams]:
        return [PQParams(), PQParams(entries=8, width=2), PQParams(entries=16, width=2, commitment=0.0)]

    @property
    def label(self) -> str:
        return f"pq{self.params.entries}_w{self.params.width}" + ("" if self.params.commitment else "_free")
