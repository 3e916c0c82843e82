"""Where quantizers act: finds the weights of each site in a denoiser, and makes the model see them quantized.

A quantized weight keeps its float master copy, which the optimizer trains, at
`parametrizations.weight.original`; reading `module.weight` gives the quantized values. Two silent traps
follow: writing into `module.weight` in place changes a temporary, and so peft's `merge` on such a layer
loses the adapter. Change masters through `quantized_state`; call `remove` before merging. Also, the order of
`model.parameters()` changes, and the module pickles only as a `state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.config import SITES, QuantizationConfig, Site
from trainable.models.backbone import Backbone
from trainable.models.parts import plain_name
from trainable.models.subnormal import flushed
from trainable.quantizers.base import Quantizer, shape_of
from trainable.registry import QUANTIZERS


class FakeQuant(nn.Module):
    """Parametrization of one weight by a quantizer. Its parameters are what the quantizer learns
    about the weight."""

    def __init__(self, quantizer: Quantizer, master: Tensor):
        super().__init__()
        self.trained = nn.ParameterDict()
        self.held: Tensor | None = None
        self._learn(quantizer, master)

    def _learn(self, quantizer: Quantizer, master: Tensor) -> None:
        self.quantizer = quantizer
        for name, value in quantizer.fit(master.detach()).items():
            if name in quantizer.frozen:
                self.register_buffer(name, value)
            else:
                self.trained[name] = nn.Parameter(value)

    @property
    def learned(self) -> dict[str, Tensor]:
        """What the quantizer knows about this weight; empty in most families."""
        return {**self.trained, **dict(self.named_buffers(recurse=False))}

    def exchange(self, quantizer: Quantizer, master: Tensor) -> None:
        """Take another quantizer, which learns anew of the weight. No optimizer may hold what the one before
        learned."""
        for name, _ in list(self.named_buffers(recurse=False)):
            delattr(self, name)
        self.trained.clear()
        self._learn(quantizer, master)

    def quantized(self, master: Tensor) -> Tensor:
        """[rows, cols] float master -> quantized values, computed now."""
        return (self.quantizer.fake_quantize(master, self.learned) if self.learned
                else self.quantizer.fake_quantize(master))

    def learns(self, master: Tensor) -> bool:
        """Whether a training step can change the quantized values."""
        return master.requires_grad or any(value.requires_grad for value in self.trained.values())

    def forward(self, master: Tensor) -> Tensor:
        """[rows, cols] float master -> quantized values; the held ones inside `frozen_weights`."""
        if self.held is None:
            return self.quantized(master)
        if self.training and self.learns(master) and torch.is_grad_enabled():
            raise RuntimeError("training step inside frozen_weights: the held weights would get no gradient")
        return self.held

    def extra_repr(self) -> str:
        return self.quantizer.label


class QuantizedWeight(NamedTuple):
    """A quantizer, the float master of one weight and what the quantizer learned about it;
    tensors share memory."""

    quantizer: Quantizer
    master: Tensor
    learned: dict[str, Tensor]

    def encode(self) -> dict[str, Tensor]:
        """The packed arrays of the weight as it is now."""
        return self.quantizer.encode(self.master, self.learned or None)


@dataclass(frozen=True)
class SiteReport:
    """What a quantizer did to one site. `rows` and `distinct_rows` speak of the embedding
    table, None elsewhere.

    `saturated` is the share of masters beyond the quantizer's fixed range, `largest` the greatest |master|:
    in families that clip gradients (`fixed`, `binary`), a saturated weight gets none and stays where it is.
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
        return 0 if self.rows is None or self.distinct_rows is None else self.rows - self.distinct_rows

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, `collapsed_rows` included."""
        return {**asdict(self), "collapsed_rows": self.collapsed_rows}


def site_weights(model: Backbone, site: Site) -> list[tuple[str, nn.Module]]:
    """(name, module) of every weight of a site, in model order; `model.get_submodule(name)` is the module.

    What plays the role is the backbone's to say. Where peft has wrapped a Linear, its base layer is meant
    and never the adapter.
    """
    return [(name, model.get_submodule(name)) for name in model.sites().get(site, ())]


def apply(model: Backbone, config: QuantizationConfig) -> dict[str, SiteReport]:
    """Put each site's quantizer on its weights, in place; returns a report for every site that has weights.

    `none` leaves a site as it is. Works before and after peft has wrapped layers, and must come before
    DistributedDataParallel and torch.compile. Masters stay the same parameter objects, so optimizers keep
    working. Raises UserError for an unknown quantizer or parameter or one that costs more than it saves,
    ValueError when a site has no weights or is quantized.
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
        for name, module in found[site]:
            quantizer.refuse_absurd(shape_of(_weight(module)), f"{site} weight {plain_name(name)}")
    reports: dict[str, SiteReport] = {}
    for site, weights in found.items():
        if not weights:
            continue
        if quantizers[site].name != "none":
            for _, module in weights:
                # unsafe skips a trial run of the quantizer; that it keeps shape and dtype,
                # the contract tests show.
                fake = FakeQuant(quantizers[site], _weight(module))
                parametrize.register_parametrization(module, "weight", fake, unsafe=True)
        reports[site] = _report(site, quantizers[site], [module for _, module in weights])
    return reports


@torch.no_grad()
def refit(fake: FakeQuant, master: Tensor) -> None:
    """Let a weight's quantizer learn anew from a master that was changed, in place."""
    for name, value in fake.quantizer.fit(master.detach()).items():
        fake.learned[name].copy_(value)


def remove(model: nn.Module) -> None:
    """Take all quantizers off again; weights are the float masters."""
    for _, module, _ in list(_quantized(model)):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def quantized_state(model: nn.Module) -> dict[str, QuantizedWeight]:
    """Module name -> its quantizer, its master weight and what was learned about it, detached.
    Export encodes these."""
    return {name: QuantizedWeight(fake.quantizer, master_of(module).detach(),
                                  {key: value.detach() for key, value in fake.learned.items()})
            for name, module, fake in _quantized(model)}


@contextmanager
def frozen_weights(model: nn.Module, trainable: bool = True) -> Iterator[None]:
    """Quantize each weight once, now, and use those values until the end: for sampling, where
    no weight changes.

    Inside, gradients reach activations (guidance) but not the quantized weights. With `trainable=False` only
    weights of which neither master nor learned scales train are held, which speeds up training on a frozen
    quantized body. Inside, masters must not change and the model must not move to another device. Acts on
    this model alone; may be nested.

    Not `torch.nn.utils.parametrize.cached`: that one is global to the process, keeps the autograd graph of
    its first use, and hands out stale values when another module is given the `id` of a deleted one.
    """
    held: list[FakeQuant] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            for _, module, fake in _quantized(model):
                master = master_of(module)
                if fake.held is None and (trainable or not fake.learns(master)):
                    fake.held = fake.quantized(master)
                    held.append(fake)
        yield
    finally:
        for fake in held:
            fake.held = None


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Inside, the model is measured or sampled from: eval mode, no gradients, quantized weights computed
    once; subnormal numbers are 0. Its mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), frozen_weights(model), flushed():
            yield
    finally:
        model.train(training)


@torch.no_grad()
def distinct_rows(table: Tensor) -> int:
    """How many different rows a [V, d] table has. Below V, a quantizer has collapsed words
    onto each other."""
    rows = (table.detach().float().cpu() + 0.0).numpy()  # + 0 so that -0 and 0 have the same bytes
    return len({row.tobytes() for row in rows})


def _quantized(model: nn.Module) -> Iterator[tuple[str, nn.Module, FakeQuant]]:
    for name, module in model.named_modules():
        fake = fake_of(module)
        if fake is not None:
            yield name, module, fake


def fake_of(module: nn.Module) -> FakeQuant | None:
    """The quantizer on a module's weight, where there is one."""
    found = _parametrized(module)[0] if parametrize.is_parametrized(module, "weight") else None
    return found if isinstance(found, FakeQuant) else None


def master_of(module: nn.Module) -> Tensor:
    """The float weight [rows, cols] under a module's quantizer, or its weight where it has none."""
    if parametrize.is_parametrized(module, "weight"):
        master = _parametrized(module).original
        assert isinstance(master, Tensor)
        return master
    return _weight(module)


def _parametrized(module: nn.Module) -> parametrize.ParametrizationList:
    """What makes the weight of a module on which `parametrize` is."""
    parametrizations = module.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    found = parametrizations["weight"]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _weight(module: nn.Module) -> Tensor:
    """The weight that the module computes with."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def _report(site: Site, quantizer: Quantizer, modules: list[nn.Module]) -> SiteReport:
    values = stored = beyond = 0
    low, high = quantizer.grid.low, quantizer.grid.high
    before = after = largest = 0.0
    distinct = rows = None
    for module in modules:
        master, weight = master_of(module).float(), _weight(module).float()
        values += master.numel()
        stored += _stored(module, quantizer)
        before += float(torch.linalg.vector_norm(master)) ** 2
        after += float(torch.linalg.vector_norm(weight)) ** 2
        largest = max(largest, float(torch.linalg.vector_norm(master, float("inf"))))
        if low is not None and high is not None:
            beyond += int(((master < low) | (master > high)).sum())
        if site == "embedding":
            rows, distinct = len(weight), distinct_rows(weight)
    return SiteReport(site, quantizer.label, len(modules), values, 8 * stored / values,
                      (before / values) ** 0.5, (after / values) ** 0.5, largest, beyond / values,
                      rows, distinct)


def _stored(module: nn.Module, quantizer: Quantizer) -> int:
    """Bytes of a packed weight; where the family's size depends on the values, they are packed to see."""
    if not quantizer.adaptive:
        return quantizer.stored_bytes(shape_of(_weight(module)))
    return sum(value.numel() * value.element_size() for value in quantizer.encode(master_of(module)).values())
