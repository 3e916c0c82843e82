"""Weights as sums of sign matrices with scales for rows and columns, two bits a weight on average
(Quant-dLLM, 2510.03274).

W is cut into blocks of inputs, and each block is sum_k (r_k c_k^T) * B_k with B_k of -1 and 1. Scales and
signs are fitted in turn, each in closed form (least squares; the best of all 2^K sums for each weight), so
the weighted error never rises. Weights whose importance (w / U_jj)^2, U the factor of hessian.py, is more
than three deviations above the block's mean count `emphasis` times. Some share of the blocks, the most
important, takes one matrix more, and as many of the least important one less. Unlike in the paper, inputs of
later blocks make up for the error of earlier ones, as in GPTQ (`compensate: false` is the paper's). The paper
does not print its emphasis; 2 is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.grid import group_size
from trainable.quantization.post_training.hessian import inverse_factor
from trainable.quantization.post_training.statistics import SECOND_MOMENT, Statistics
from trainable.quantizers.base import Part, finite32
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits
from trainable.registry import Params

OUTLIER = 3.0
"""Standard deviations above the mean from which on a weight counts as important."""


class MultiBinaryParams(Params):
    bits: int = Field(2, ge=1, le=4, description="sign matrices of a block, on average")
    group: int = Field(
        0, ge=0, le=65536, description="inputs of a block, with scales of their own; 0 = the whole row")
    moved: float = Field(
        0.05, ge=0, le=0.5, description="share of blocks with one matrix more, and with one less")
    emphasis: float = Field(2.0, ge=1, description="factor of an important weight's error")
    rounds: int = Field(15, ge=0, le=200, description="rounds of refitting")
    compensate: bool = Field(True, description="later blocks make up for the error of earlier ones")
    damping: float = Field(
        0.01, ge=0, le=1, description="share of the Hessian's mean diagonal that is added to it")


class _Fit(NamedTuple):
    signs: Tensor
    """[K, out, size] of -1, 1."""
    rows: Tensor
    """[K, out]."""
    columns: Tensor
    """[K, size]."""

    @property
    def planes(self) -> Tensor:
        """The K summands without their signs, [K, out, size]."""
        return self.rows[:, :, None] * self.columns[:, None, :]

    @property
    def values(self) -> Tensor:
        """[out, size], summed in one order wherever it is computed."""
        planes = self.signs * self.planes
        total = planes[0]
        for plane in planes[1:]:
            total = total + plane
        return total


class MultiBinary(PostTraining):
    """Sums of scaled sign matrices, more of them where the weight matters more."""

    name = "quant_dllm"
    Params = MultiBinaryParams
    params: MultiBinaryParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = MultiBinaryParams
        return [make(), make(group=8, moved=0.25), make(group=16, compensate=False),
                make(bits=3, emphasis=1.0), make(bits=1, group=8)]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({SECOND_MOMENT})

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        if statistics is None:
            raise ValueError("quant_dllm encodes with statistics")
        params = self.params
        size = group_size(weight.shape[1], params.group)
        factor = inverse_factor(statistics.second_moment.to(weight.device), params.damping, statistics.name)
        upper = factor.upper.float()
        work = finite32(weight).clone()
        importance = (work / upper.diagonal()).square()
        orders = self._orders(importance.view(len(work), -1, size).sum((0, 2), dtype=torch.double))
        fits = []
        for number, order in enumerate(orders):
            here, rest = slice(number * size, (number + 1) * size), slice((number + 1) * size, None)
            block, matters = work[:, here], importance[:, here]
            outlying = matters > matters.mean() + OUTLIER * matters.std(correction=0)
            fits.append(_fit(block, torch.where(outlying, params.emphasis**2, 1.0), order, params.rounds))
            if params.compensate and rest.start < work.shape[1]:
                error = block - fits[-1].values
                error = torch.linalg.solve_triangular(upper[here, here], error, upper=True, left=False)
                work[:, rest] -= error @ upper[here, rest]
        signs = torch.cat([((fit.signs + 1) / 2).flatten() for fit in fits])
        return Encoded(pack_bits(signs.int(), 1), {
            "row_scale": torch.cat([fit.rows.flatten() for fit in fits]).bfloat16(),
            "column_scale": torch.cat([fit.columns.flatten() for fit in fits]).bfloat16(),
            "orders": torch.tensor(orders, dtype=torch.uint8, device=weight.device),
        }, {**factor.report, "moved_blocks": float(sum(order != params.bits for order in orders))})

    def _orders(self, importance: Tensor) -> list[int]:
        """Importance of each block -> number of sign matrices of each, on average `bits` exactly."""
        orders = [self.params.bits] * len(importance)
        moved = round(self.params.moved * len(orders)) if self.params.bits > 1 else 0
        ranked = importance.argsort(descending=True, stable=True).tolist()
        for high, low in list(zip(ranked, reversed(ranked), strict=True))[:min(moved, len(orders) // 2)]:
            orders[high] += 1
            orders[low] -= 1
        return orders

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        self.check(encoded, shape)
        out, size = shape[0], group_size(shape[1], self.params.group)
        orders = encoded.parameters["orders"].tolist()
        if sum(orders) != self.params.bits * len(orders):
            raise ValueError(f"{self.name} orders: expected {self.params.bits} on average, found {orders}")
        signs = unpack_bits(encoded.codes, 1, self.params.bits * math.prod(shape)).float() * 2 - 1
        rows, columns = (encoded.parameters[name].float() for name in ("row_scale", "column_scale"))
        parts = zip(signs.split([order * out * size for order in orders]),
                    rows.split([order * out for order in orders]),
                    columns.split([order * size for order in orders]), strict=True)
        return torch.cat([_Fit(sign.view(-1, out, size), row.view(-1, out), column.view(-1, size)).values
                          for sign, row, column in parts], 1)

    def layout(self, shape: Shape) -> dict[str, Part]:
        blocks = shape[1] // group_size(shape[1], self.params.group)
        bits = self.params.bits
        return {"codes": Part(torch.uint8, bits_bytes(bits * math.prod(shape), 1)),
                "row_scale": Part(torch.bfloat16, bits * blocks * shape[0]),
                "column_scale": Part(torch.bfloat16, bits * shape[1]), "orders": Part(torch.uint8, blocks)}


def _fit(block: Tensor, weights: Tensor, order: int, rounds: int) -> _Fit:
    """Block [out, size], weights of its squared errors, number of matrices -> their signs and scales, as
    stored."""
    signs, rows, columns = [], [], []
    rest = block
    for _ in range(order):  # greedy: each matrix fits what the ones before have left
        signs.append(_sign(rest))
        rows.append(rest.abs().mean(1))
        columns.append(torch.ones_like(rest[0]))
        rest = rest - signs[-1] * rows[-1][:, None]
    fit = _Fit(torch.stack(signs), torch.stack(rows), torch.stack(columns))
    for _ in range(rounds):
        before, fit = fit.signs, _best_signs(block, _refit(block, weights, fit))
        if torch.equal(fit.signs, before):
            break
    stored = _Fit(fit.signs, fit.rows.bfloat16().float(), fit.columns.bfloat16().float())
    return _best_signs(block, stored)


def _refit(block: Tensor, weights: Tensor, fit: _Fit) -> _Fit:
    """Least-squares scales of the rows, then of the columns, of one matrix after another."""
    rows, columns = fit.rows.clone(), fit.columns.clone()
    rest = block - fit.values
    for k, sign in enumerate(fit.signs):
        mine = rest + sign * rows[k][:, None] * columns[k]
        target = mine * sign * weights
        rows[k] = (target @ columns[k]) / (weights @ columns[k].square()).clamp(min=1e-30)
        columns[k] = (rows[k] @ target) / (rows[k].square() @ weights).clamp(min=1e-30)
        rest = mine - sign * rows[k][:, None] * columns[k]
    return _Fit(fit.signs, rows, columns)


def _best_signs(block: Tensor, fit: _Fit) -> _Fit:
    """Of the 2^K sums of signed planes, the nearest to each weight."""
    planes = fit.planes
    if len(planes) == 2:  # the larger plane follows the weight's sign, the smaller what is then left
        first, second = planes
        larger = first.abs() >= second.abs()
        big, small = torch.where(larger, first, second), torch.where(larger, second, first)
        sign_big = _sign(block * big)
        sign_small = _sign((block - sign_big * big) * small)
        signs = [torch.where(larger, sign_big, sign_small), torch.where(larger, sign_small, sign_big)]
        return _Fit(torch.stack(signs), fit.rows, fit.columns)
    choices = list(product((-1.0, 1.0), repeat=len(planes)))
    best, least = torch.zeros_like(block, dtype=torch.long), torch.full_like(block, torch.inf)
    for number, choice in enumerate(choices):
        distance = (torch.tensordot(torch.tensor(choice, device=block.device), planes, 1) - block).abs_()
        nearer = distance < least
        best, least = torch.where(nearer, number, best), torch.minimum(distance, least)
    bits = torch.arange(len(planes) - 1, -1, -1, device=block.device).view(-1, 1, 1)
    return _Fit(((best >> bits) & 1).float() * 2 - 1, fit.rows, fit.columns)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0)
