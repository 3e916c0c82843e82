"""The word-embedding table and its tied rounding head.

Diffusion-LM (arXiv 2205.14217, section 4.2) learns the table jointly and rounds with softmax over
`x0 @ table.T + bias`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.errors import UserError
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.packed_embedding import PackedTable

STORED_RMS = 0.5
"""RMS of the stored rows when `normalize_embeddings` is on: training drifts around it, quantizers
see this range."""


class RoundingHead(nn.Module):
    """Word logits of a latent, tied to the table. `softmax`: dot product + bias. `cosine`: scaled
    cosine, no bias."""

    def __init__(self, vocabulary: int, kind: str):
        super().__init__()
        self.kind = kind
        if kind == "softmax":
            self.bias = nn.Parameter(torch.zeros(vocabulary))
        else:
            self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, latent: Tensor, table: Tensor) -> Tensor:
        """[B, L, d] latents and the [V, d] table -> [B, L, V] logits."""
        if self.kind == "softmax":
            return F.linear(latent, table, self.bias)
        cosine = F.linear(F.normalize(latent, dim=-1), F.normalize(table, dim=-1))
        return cosine * self.log_scale.exp()

    def at(self, table: Tensor, temperature: float) -> Callable[[Tensor], Tensor]:
        """What gives the float logits of latents [B, L, d] over a temperature. The division is of the latents
        where it can be: they are fewer than words."""
        if self.kind != "softmax":
            return lambda latent: self(latent, table).float() / temperature
        bias = self.bias / temperature
        return lambda latent: F.linear(latent / temperature, table, bias).float()

    def on_codes(self, latent: Tensor, packed: PackedTable, factor: Tensor, length: Tensor) -> Tensor:
        """The same from a packed table, whose rows times `factor` [V] have these lengths [V]."""
        if self.kind == "softmax":
            return packed.dot(latent, factor) + self.bias
        return (packed.dot(F.normalize(latent, dim=-1), factor / length.clamp(min=1e-12))
                * self.log_scale.exp())


def normalize_rows(table: Tensor) -> Tensor:
    """Rows scaled to norm sqrt(d), so that a row has unit variance like the noise; zero rows stay zero."""
    return F.normalize(table, dim=-1, eps=1e-6) * table.shape[-1] ** 0.5


def nearest_rows(x0: Tensor, table: Tensor) -> Tensor:
    """Clamping (Diffusion-LM, section 4.3): every latent replaced by the row that is nearest in L2."""
    distance = table.pow(2).sum(-1) - 2 * x0 @ table.T
    return F.embedding(distance.argmin(-1), table)


def pretrained_rows(path: str, vocabulary: Sequence[str], dim: int, generator: torch.Generator) -> Tensor:
    """[V, dim] rows for `vocabulary` from a Hugging Face model (mean over a word's pieces),
    projected to `dim`.

    `path` is a folder or hub id that `transformers` can load. The projection keeps the `dim` leading
    principal directions of the picked rows (best rank-`dim` fit), then rows are scaled to unit RMS.
    Words without a piece get N(0, 1) rows. Raises `UserError` when the model cannot be read or is
    narrower than `dim`.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        source = AutoModel.from_pretrained(path).get_input_embeddings().weight.detach().float()
        pieces = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.pretrained_path: cannot load embeddings from {path!r}: {reason}") from None
    if source.shape[1] < dim:
        raise UserError(f"model.embedding_dim: {dim} is wider than the {source.shape[1]} of {path!r}")
    ids = [pieces(" " + word, add_special_tokens=False)["input_ids"] for word in vocabulary]
    known = torch.tensor([bool(row) for row in ids])
    rows = torch.stack([source[row].mean(0) if row else source.new_zeros(source.shape[1]) for row in ids])
    rows = rows - rows[known].mean(0)
    _, _, directions = torch.linalg.svd(rows[known], full_matrices=False)
    if directions.shape[0] < dim:
        raise UserError(f"model.embedding_dim: {dim} exceeds the {directions.shape[0]} words found "
                        f"in {path!r}")
    projected = rows @ directions[:dim].T
    projected = projected / projected[known].pow(2).mean().sqrt()
    noise = torch.randn(projected.shape, generator=generator)
    return torch.where(known[:, None], projected, noise)


def matrix_file(path: Path, rows: int, dim: int) -> Tensor:
    """[rows, dim] matrix from a .safetensors file whose only tensor has exactly that shape,
    else `UserError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.pretrained_path: cannot read {path}: {error}") from None
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if list(shapes.values()) != [(rows, dim)]:
        raise UserError(f"model.pretrained_path: {path} must hold one [{rows}, {dim}] tensor, found {shapes}")
    return next(iter(tensors.values())).float()


def initial_table(config: DiffusionLMConfig, vocabulary: Sequence[str], generator: torch.Generator) -> Tensor:
    """[V, d] starting table: N(0, 1) rows (Diffusion-LM) or pretrained rows."""
    shape = (len(vocabulary), config.embedding_dim)
    if config.embeddings == "learned":
        return torch.randn(shape, generator=generator)
    path = config.pretrained_path
    assert path is not None, "the settings' own rule"
    if path.endswith(".safetensors"):
        return matrix_file(Path(path), *shape)
    return pretrained_rows(path, vocabulary, config.embedding_dim, generator)
