"""Where quantizers act: finds the weights of each site in a denoiser, and makes the model see them quantized.

A quantized weight keeps its float master copy, which the optimizer trains, at `parametrizations.weight.original`;
reading `module.weight` gives the quantized values. Two silent traps follow: writing into `module.weight` in place changes
a temporary, and so peft's `merge` on such a layer loses the adapter. Change masters through `quantized_state`; call
`remove` before merging. Also, the order of `model.parameters()` changes, and the module pickles only as a `state_dict`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.config import SITES, QuantizationConfig, Site
from trainable.quantizers.base import Quantizer
from trainable.registry import QUANTIZERS

_PROJECTIONS = ("up", "time", "down")
_ATTENTION = re.compile(r"(^|\.)attention\.(self\.(query|key|value)|output\.dense)$")
_FFN = re.compile(r"(^|\.)(intermediate|(?<!attention\.)output)\.dense$")


class FakeQuant(nn.Module):
    """Parametrization of one weight by a quantizer. Holds no parameters of its own."""

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        self.quantizer = quantizer
        self.held: Tensor | None = None

    def forward(self, master: Tensor) -> Tensor:
        """[rows, cols] float master -> quantized values; the held ones inside `frozen_weights`."""
        if self.held is None:
            return self.quantizer.fake_quantize(master)
        if self.training and master.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("training step inside frozen_weights: the held weights would get no gradient")
        return self.held

    def extra_repr(self) -> str:
        return self.quantizer.label


@dataclass(frozen=True)
class SiteReport:
    """What a quantizer did to one site. `rows` and `distinct_rows` speak of the embedding table, None elsewhere.

    `saturated` is the share of masters beyond the quantizer's fixed range, `largest` the greatest |master|: in families
    that clip gradients (`fixed`, `binary`), a saturated weight gets none and stays where it is.
    """

    site: str
    quantizer: str
    matrices: int
    values: int
    bits_per_value: float
    rms_before: float
    rms_after: float
    largest: float
    saturated: float
    rows: int | None = None
    distinct_rows: int | None = None

    @property
    def collapsed_rows(self) -> int:
        """Rows of the table that another row equals: words that rounding can no longer tell apart."""
        return 0 if self.rows is None else self.rows - self.distinct_rows

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, `collapsed_rows` included."""
        return {**asdict(self), "collapsed_rows": self.collapsed_rows}


def plain_name(name: str) -> str:
    """A module's name as it is without peft: `base_layer` and the wrapping model's prefix removed."""
    return name.replace("base_model.model.", "").removesuffix(".base_layer")


def site_weights(model: nn.Module, site: Site) -> list[tuple[str, nn.Module]]:
    """(name, module) of every weight of a site, in model order; `model.get_submodule(name)` is the module.

    embedding: `word_embedding`, which the rounding head shares. projection: all Linear in `up`, `time`, `down`.
    attention: query, key, value and output of every layer of `body`. ffn: its feed-forward layers. Where peft has
    wrapped a Linear, its base layer is meant and never the adapter.
    """
    if site == "embedding":
        return [("word_embedding", model.word_embedding)]
    roots = _PROJECTIONS if site == "projection" else ("body",)
    pattern = {"attention": _ATTENTION, "ffn": _FFN}.get(site)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in roots and "lora_" not in name
        and (pattern is None or pattern.search(plain_name(name)))
    ]


def apply(model: nn.Module, config: QuantizationConfig) -> dict[str, SiteReport]:
    """Put each site's quantizer on its weights, in place; returns a report for every site that has weights.

    `none` leaves a site as it is. Works before and after peft has wrapped layers, and must come before
    DistributedDataParallel and torch.compile. Masters stay the same parameter objects, so optimizers keep working.
    Raises UserError for an unknown quantizer or parameter, ValueError when a site has no weights or is quantized.
    """
    quantizers = {site: QUANTIZERS.build(config.at(site)) for site in SITES}
    found = {site: site_weights(model, site) for site in SITES}
    for site, quantizer in quantizers.items():
        if quantizer.name == "none":
            continue
        if not found[site]:
            raise ValueError(f"site {site!r} has no weights in this {type(model).__name__}")
        done = [name for name, module in found[site] if parametrize.is_parametrized(module, "weight")]
        if done:
            raise ValueError(f"site {site!r} is quantized already ({done[0]}): call remove first")
    reports = {}
    for site, weights in found.items():
        if not weights:
            continue
        if quantizers[site].name != "none":
            for _, module in weights:
                # unsafe skips a trial run of the quantizer; that it keeps shape and dtype, the contract tests show.
                parametrize.register_parametrization(module, "weight", FakeQuant(quantizers[site]), unsafe=True)
        reports[site] = _report(site, quantizers[site], [module for _, module in weights])
    return reports


def remove(model: nn.Module) -> None:
    """Take all quantizers off again; weights are the float masters."""
    for _, module, _ in list(_quantized(model)):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def quantized_state(model: nn.Module) -> dict[str, tuple[Quantizer, Tensor]]:
    """Module name -> (its quantizer, its master weight, detached, sharing memory). Export encodes from these."""
    return {name: (fake.quantizer, _master(module).detach()) for name, module, fake in _quantized(model)}


@contextmanager
def frozen_weights(model: nn.Module, trainable: bool = True) -> Iterator[None]:
    """Quantize each weight once, now, and use those values until the end: for sampling, where no weight changes.

    Inside, gradients reach activations (guidance) but not the quantized weights. With `trainable=False` only masters
    that do not require a gradient are held, which speeds up training on a frozen quantized body. Inside, masters must
    not change and the model must not move to another device. Acts on this model alone; may be nested.

    Not `torch.nn.utils.parametrize.cached`: that one is global to the process, keeps the autograd graph of its first
    use, and hands out stale values when another module is given the `id` of a deleted one.
    """
    held: list[FakeQuant] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            for _, module, fake in _quantized(model):
                master = _master(module)
                if fake.held is None and (trainable or not master.requires_grad):
                    fake.held = fake.quantizer.fake_quantize(master)
                    held.append(fake)
        yield
    finally:
        for fake in held:
            fake.held = None


@torch.no_grad()
def distinct_rows(table: Tensor) -> int:
    """How many different rows a [V, d] table has. Below V, a quantizer has collapsed words onto each other."""
    rows = (table.detach().float().cpu() + 0.0).numpy()  # + 0 so that -0 and 0 have the same bytes
    return len({row.tobytes() for row in rows})


def _quantized(model: nn.Module) -> Iterator[tuple[str, nn.Module, FakeQuant]]:
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            fake = module.parametrizations.weight[0]
            if isinstance(fake, FakeQuant):
                yield name, module, fake


def _master(module: nn.Module) -> Tensor:
    if parametrize.is_parametrized(module, "weight"):
        return module.parametrizations.weight.original
    return module.weight


@torch.no_grad()
def _report(site: Site, quantizer: Quantizer, modules: list[nn.Module]) -> SiteReport:
    values = stored = beyond = 0
    before = after = largest = 0.0
    distinct = rows = None
    for module in modules:
        master, weight = _master(module).float(), module.weight.float()
        values += master.numel()
        stored += quantizer.stored_bytes(tuple(master.shape))
        before += float(torch.linalg.vector_norm(master)) ** 2
        after += float(torch.linalg.vector_norm(weight)) ** 2
        largest = max(largest, float(torch.linalg.vector_norm(master, float("inf"))))
        if quantizer.grid.low is not None:
            beyond += int(((master < quantizer.grid.low) | (master > quantizer.grid.high)).sum())
        if site == "embedding":
            rows, distinct = len(weight), distinct_rows(weight)
    return SiteReport(site, quantizer.label, len(modules), values, 8 * stored / values,
                      (before / values) ** 0.5, (after / values) ** 0.5, largest, beyond / values, rows, distinct)
