"""Vector quantization of rows: one codebook (VQ), one per part of the row (PQ), or several on each
other's rest (RVQ)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantizers.base import LARGEST, Learned, Part, QuantizerParams, WholeTensor, finite32, shape_of
from trainable.quantizers.codebook import committed, k_means, look_up, nearest, rows_of, sub_vectors
from trainable.quantizers.lut import as_stored
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

ROWS_PER_ENTRY = 4
"""Fewest rows of a weight for each codeword: below, the codebook takes more than 4 bits of every value."""


def _left_over(vectors: Tensor, chosen: Tensor) -> Tensor:
    """What a further codebook is to say, finite also where two values at the ends of float32 are apart
    by more than that."""
    return (vectors - chosen).clamp(-LARGEST, LARGEST)


class VQParams(QuantizerParams):
    entries: int = Field(64, ge=2, le=4096, description="codewords in a codebook")
    commitment: float = Field(0.25, ge=0, le=4,
                              description="weight of the commitment loss; 0 = without codebook losses")


class Vectors(WholeTensor):
    """Rows or pieces of rows as codewords. `width` values a piece (0 = the row), `stages` codebooks
    one on the other."""

    params: VQParams
    width, stages = 0, 1

    @property
    def code_bits(self) -> int:
        """Of one code."""
        return (self.params.entries - 1).bit_length()

    def _sizes(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Parts of a row, values of a part."""
        width = self.width or shape[1]
        return -(-shape[1] // width), width

    @torch.no_grad()
    def fit(self, w: Tensor) -> dict[str, Tensor]:
        rest, books = sub_vectors(finite32(w), self.width), []
        for stage in range(self.stages):
            book = k_means(rest, self.params.entries, seed=stage)
            books.append(book)
            stored = as_stored(book)
            rest = _left_over(rest, look_up(stored, nearest(rest, stored)))
        return {"codebook": torch.stack(books)}

    def _book(self, learned: Learned) -> Tensor:
        """[stages, parts, entries, width] as stored, differentiable."""
        return as_stored(learned["codebook"])

    def _search(self, w: Tensor, book: Tensor) -> Tensor:
        """[rows, cols] and the codebooks -> codes [stages, parts, rows]."""
        rest, codes = sub_vectors(w, self.width), []
        for stage in book.detach():
            codes.append(nearest(rest, stage))
            rest = _left_over(rest, look_up(stage, codes[-1]))
        return torch.stack(codes)

    def _values(self, book: Tensor, codes: Tensor, shape: tuple[int, int]) -> Tensor:
        vectors = look_up(book[0], codes[0])
        for stage in range(1, len(book)):
            vectors = vectors + look_up(book[stage], codes[stage])
        return rows_of(vectors, shape).clamp(-LARGEST, LARGEST)

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        values = w.detach().float()
        book = self._book(learned or self.fit(w))
        return committed(w, self._values(book, self._search(values, book), shape_of(w)),
                         self.params.commitment)

    @torch.no_grad()
    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        book = self._book(learned or self.fit(w))
        # row by row, so that a row can be read alone
        codes = self._search(finite32(w), book).permute(2, 1, 0)
        return {"codes": pack_bits(codes.flatten(), self.code_bits),
                "codebook": book.flatten().to(torch.bfloat16)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed, (parts, width) = self.checked(packed, shape), self._sizes(shape)
        codes = unpack_bits(packed["codes"], self.code_bits, self.stages * parts * shape[0]).long()
        if codes.numel() and int(codes.max()) >= self.params.entries:
            raise ValueError(f"{self.label} codes: expected below {self.params.entries}, "
                             f"found {int(codes.max())}")
        book = packed["codebook"].float().view(self.stages, parts, self.params.entries, width)
        return self._values(book, codes.view(shape[0], parts, self.stages).permute(2, 1, 0),
                            shape).contiguous()

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        parts, width = self._sizes(shape)
        return {"codes": Part(torch.uint8, bits_bytes(self.stages * parts * shape[0], self.code_bits)),
                "codebook": Part(torch.bfloat16, self.stages * parts * self.params.entries * width)}

    def refuse_absurd(self, shape: tuple[int, int], where: str) -> None:
        """Codebooks must be small beside the weight: `ROWS_PER_ENTRY` rows for each codeword,
        over all stages."""
        words, rows = self.stages * self.params.entries, shape[0]
        if words * ROWS_PER_ENTRY > rows:
            raise UserError(f"quantizer {self.label!r} on {where}: {words} codewords for {rows} rows cost "
                            f"{16 * words / rows:.1f} bits a value before any code; "
                            f"legal: at most {rows // ROWS_PER_ENTRY} codewords over all stages")


class VectorQuantizer(Vectors):
    """Each row is one of a few codewords: log2(entries) bits a row, and the codebook.

    The codebook starts as the k-means of the rows, is stored as bfloat16, and learns from the loss and from
    VQ-VAE's codebook and commitment losses (arXiv 1711.00937). The weight's own gradient passes unchanged.
    """

    name = "vq"
    Params = VQParams
    params: VQParams

    @classmethod
    def examples(cls) -> list[VQParams]:
        return [VQParams(entries=16), VQParams(entries=5, commitment=0.0), VQParams(gradient="rotation")]

    @property
    def label(self) -> str:
        return f"vq{self.params.entries}" + ("" if self.params.commitment else "_free")
