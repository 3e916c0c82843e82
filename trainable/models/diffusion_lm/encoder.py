"""BERT's encoder (Devlin et al., arXiv 1810.04805) as transformers computes it, number for number and name
for name, without what an import of transformers' own brings along: its code takes longer to load than a small
model to run. tests/trainable/models/diffusion_lm/test_encoder.py compares the two.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12
"""Of the norms, as in BERT."""


class SelfAttention(nn.Module):
    """Attention to both sides, by `heads` heads."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{hidden} channels do not split into {heads} heads")
        self.size = hidden // heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.rounded_attention: nn.Module | None = None
        """What computes probabilities and their product with the values instead, where they are rounded."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, hidden] -> the same shape."""
        query, key, value = (part(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        if self.rounded_attention is not None:
            rounded, _ = self.rounded_attention(self, query, key, value, None, scaling=self.size**-0.5)
            assert isinstance(rounded, Tensor)
            return rounded.flatten(2)
        found = F.scaled_dot_product_attention(query, key, value, scale=self.size**-0.5,
                                               dropout_p=self.dropout.p if self.training else 0.0)
        return found.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """Back to the stream: a Linear, dropout, and the norm of the sum."""

    def __init__(self, inputs: int, hidden: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(inputs, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        """[B, L, inputs] and the stream [B, L, hidden] -> the stream."""
        return self.LayerNorm(self.dropout(self.dense(x)) + stream)


class Attention(nn.Module):
    """Attention and its way back."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.self = SelfAttention(hidden, heads, dropout)
        self.output = Output(hidden, hidden, dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, L, hidden] -> the same shape."""
        return self.output(self.self(stream), stream)


class Intermediate(nn.Module):
    """The wide half of the feed-forward part."""

    def __init__(self, hidden: int, ffn: int):
        super().__init__()
        self.dense = nn.Linear(hidden, ffn)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, L, hidden] -> [B, L, ffn]."""
        return F.gelu(self.dense(stream))


class Layer(nn.Module):
    """One layer: attention, then the feed-forward part."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.attention = Attention(hidden, heads, dropout)
        self.intermediate = Intermediate(hidden, ffn)
        self.output = Output(ffn, hidden, dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, L, hidden] -> the same shape."""
        stream = self.attention(stream)
        return self.output(self.intermediate(stream), stream)


class Encoder(nn.Module):
    """`layers` layers; parameters have the names of transformers' `BertEncoder`."""

    def __init__(self, *, hidden: int, layers: int, heads: int, ffn: int, dropout: float = 0.1):
        super().__init__()
        self.hidden, self.heads, self.ffn, self.dropout = hidden, heads, ffn, dropout
        self.layer = nn.ModuleList([Layer(hidden, heads, ffn, dropout) for _ in range(layers)])

    def forward(self, stream: Tensor) -> Tensor:
        """[B, L, hidden] -> the last layer's state [B, L, hidden]."""
        for layer in self.layer:
            stream = layer(stream)
        return stream
