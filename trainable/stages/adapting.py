"""Where the adapters of a trial start: what their start needs is measured on calibration text,
then each layer is set.

Moments and gradients are those of the full-precision base. ApiQ goes block by block, each on what the
quantized blocks before it put out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.adapters.apiq import ApiQ, Call, output
from trainable.adapters.base import AdapterStart, Layer
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process
from trainable.diffusion.states import States
from trainable.models.backbone import Backbone
from trainable.models.lora import ADAPTER, magnitude_of, merged
from trainable.models.parts import block_name, plain_name
from trainable.quantization.post_training.statistics import SECOND_MOMENT, Statistics
from trainable.quantization.sites import FakeQuant, fake_of, master_of, refit
from trainable.quantizers.base import shape_of
from trainable.registry import ADAPTER_STARTS
from trainable.seeds import stream
from trainable.stages.calibrate import BATCH, calibration_states, text_rows


class Adapted(NamedTuple):
    """A Linear that carries an adapter."""

    name: str
    module: Any
    """peft's wrapper, a `LoraLayer`."""
    linear: nn.Linear
    fake: FakeQuant | None

    @property
    def master(self) -> Tensor:
        """What the optimizer would train; what the quantizer is given."""
        return master_of(self.linear)


def adapted_layers(model: Backbone) -> list[Adapted]:
    """In model order."""
    from peft.tuners.lora import LoraLayer

    found = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            linear: Any = module.get_base_layer()
            found.append(Adapted(name, module, linear, fake_of(linear)))
    return found


def start_adapters(model: Backbone, base: Backbone, process: Process, corpus: TokenizedCorpus,
                   config: TrialConfig) -> dict[str, float]:
    """Set masters and factors of every adapted layer of `model` as `lora.start` says; `base`
    is the model before.

    Returns numbers worth a column: `adapter_error` and `adapter_error_zero`, the relative error ||W
    - Q - L R|| / ||W|| over all adapted layers after and without the correction (0 / 0 reads 0), seconds, and
    `adapter_base_bits`, stored bits a value of those that have a quantizer. Raises `UserError` for a rank
    that a layer does not have, and where a start's budget cannot be met.
    """
    began = time.perf_counter()
    layers, rule = adapted_layers(model), ADAPTER_STARTS.build(config.lora.start)
    if not layers:
        return {}
    for layer in layers:
        rank = min(layer.linear.in_features, layer.linear.out_features)
        if rule.name != "zero" and config.lora.rank > rank:
            raise UserError(f"lora.rank: {config.lora.rank} is above the smaller dimension of "
                            f"{plain_name(layer.name)}; legal with lora.start {rule.name}: at most {rank}")
    zero = _error(layers, base)
    _set(rule, layers, model, base, process, corpus, config)
    set_magnitudes(layers)
    if isinstance(rule, ApiQ):
        _fit_blocks(rule, layers, model, base, process, corpus, config)
    return {"adapter_error": _error(layers, base), "adapter_error_zero": zero,
            "adapter_start_seconds": time.perf_counter() - began, **_base_bits(layers)}


@torch.no_grad()
def set_magnitudes(layers: Iterable[Adapted]) -> None:
    """Let DoRA's magnitudes be the lengths of the rows as they are: the layer then computes with Q + L R.
    Raises `UserError` for a row of zeros, which has no direction that a length could be given."""
    for layer in layers:
        magnitude = magnitude_of(layer.module)
        if magnitude is None:
            continue
        weight = layer.linear.weight + layer.module.get_delta_weight(ADAPTER)
        magnitude.copy_(torch.linalg.norm(weight, dim=1))
        if empty := int((magnitude == 0).sum()):
            raise UserError(f"lora.variant: dora gives rows of weights lengths, and {empty} of "
                            f"{plain_name(layer.name)} are zeros"
                            f"{f' under {layer.fake.quantizer.label}' if layer.fake else ''}; "
                            "legal: lora or rslora, or another quantizer")


def _base_bits(layers: list[Adapted]) -> dict[str, float]:
    found = [(layer.fake.quantizer.stored_bytes(shape_of(layer.master)), layer.master.numel())
             for layer in layers if layer.fake is not None]
    values = sum(count for _, count in found)
    return {"adapter_base_bits": 8 * sum(stored for stored, _ in found) / values} if values else {}


@torch.no_grad()
def _set(rule: AdapterStart, layers: list[Adapted], model: Backbone, base: Backbone, process: Process,
         corpus: TokenizedCorpus, config: TrialConfig) -> None:
    names = [plain_name(layer.name) for layer in layers]
    moments = _moments(base, names, process, corpus, config) if "moment" in rule.needs else {}
    fisher = _fisher(base, names, process, corpus, config) if "fisher" in rule.needs else {}
    seen = _seen(rule, base, names, process, corpus, config) if "seen" in rule.needs else {}
    given: list[tuple[Adapted, Layer]] = []
    for layer, name in zip(layers, names, strict=True):
        if rule.corrects and layer.fake is None:
            continue
        weight = base.get_parameter(f"{name}.weight").detach().to(layer.master.device, torch.float32)
        quantizer = layer.fake.quantizer if layer.fake else None
        given.append((layer, Layer(name, weight, quantizer.fake_quantize if quantizer else None,
                                   config.lora.rank, moments.get(name), fisher.get(name), quantizer,
                                   seen.get(name), layer.module.scaling[ADAPTER])))
    own = rule.quantizers([one for _, one in given])
    for layer, one in given:
        if layer.fake is not None and (other := own.get(one.name)) is not None:
            layer.fake.exchange(other, layer.master)
            one = replace(one, quantize=other.fake_quantize, quantizer=other)
        found = rule.start(one)
        if found is None:
            continue
        layer.master.copy_(found.master)
        if layer.fake is not None:
            refit(layer.fake, layer.master)
        root = layer.module.scaling[ADAPTER] ** 0.5  # the layer computes scaling B A x
        layer.module.lora_A[ADAPTER].weight.copy_(found.down / root)
        layer.module.lora_B[ADAPTER].weight.copy_(found.up / root)


@torch.no_grad()
def _error(layers: list[Adapted], base: Backbone) -> float:
    off = whole = 0.0
    for layer in layers:
        weight = base.get_parameter(f"{plain_name(layer.name)}.weight").to(layer.linear.weight.device)
        a, b = (factor[ADAPTER].weight for factor in (layer.module.lora_A, layer.module.lora_B))
        used = merged(layer.linear.weight, a, b * layer.module.scaling[ADAPTER], magnitude_of(layer.module))
        off += float((weight - used).norm()) ** 2 / (len(a) if a.ndim == 3 else 1)
        whole += float(weight.norm()) ** 2
    return (off / whole) ** 0.5 if whole else 0.0


def _moments(base: Backbone, names: list[str], process: Process, corpus: TokenizedCorpus,
             config: TrialConfig) -> dict[str, Tensor]:
    """E[x x^T] of the inputs of Linears, over the calibration states."""
    found: dict[str, Statistics] = {}
    with _hooked(base, names, lambda name, x: found.setdefault(
            name, Statistics(x.shape[-1], (SECOND_MOMENT,), name, x.device)).add(x)):
        for batch in calibration_states(base, process, corpus, config).split(BATCH):
            base.predict(batch.state, batch.t, batch.previous)
    return {name: statistics.second_moment for name, statistics in found.items()}


def _fisher(base: Backbone, names: list[str], process: Process, corpus: TokenizedCorpus,
            config: TrialConfig) -> dict[str, Tensor]:
    """Mean squared gradients of the training loss by the weights, over calibration texts, a batch at
    a time (the empirical Fisher information of batches)."""
    weights = {name: base.get_parameter(f"{name}.weight") for name in names}
    wanted = {name: value.requires_grad for name, value in base.named_parameters()}
    rows = text_rows(corpus, min(config.calibration.texts, len(corpus.ids("train"))), config.calibration_seed)
    ids = torch.from_numpy(np.asarray(corpus.ids("train")[rows],
                                      dtype=np.int64)).to(next(iter(weights.values())).device)
    noise = stream("adapter", "fisher", config.calibration_seed, device=ids.device)
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    try:
        for name, value in base.named_parameters():
            value.requires_grad_(name.removesuffix(".weight") in weights)
        with torch.enable_grad():
            for batch in ids.split(8):
                loss = process.loss(base, batch, noise)["loss"]
                for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())),
                                          strict=True):
                    total[name] += gradient.square()
    finally:
        for name, value in base.named_parameters():
            value.requires_grad_(wanted[name])
    return {name: value / len(ids.split(8)) for name, value in total.items()}


def _seen(rule: AdapterStart, base: Backbone, names: list[str], process: Process, corpus: TokenizedCorpus,
          config: TrialConfig) -> dict[str, Tensor]:
    """What a start sees for itself, of the base on the calibration states."""
    batches = [{name: value for name, value in batch._asdict().items() if value is not None}
               for batch in calibration_states(base, process, corpus, config).split(BATCH)]
    return rule.see(base, names, batches, lambda batch: base.predict(batch["state"], batch["t"],
                                                                     batch.get("previous")), config.lora.rank)


@contextmanager
def _hooked(model: Backbone, names: list[str], see: Any) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_pre_hook(
        lambda _, args, name=name: see(name, args[0])) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fit_blocks(rule: ApiQ, layers: list[Adapted], model: Backbone, base: Backbone, process: Process,
                corpus: TokenizedCorpus, config: TrialConfig) -> None:
    """ApiQ over the blocks in model order."""
    states = calibration_states(base, process, corpus, config).split(rule.params.batch)
    training = model.training
    model.eval()
    try:
        for prefix, own in groupby(layers, lambda layer: block_name(plain_name(layer.name))):
            masters = [f"{layer.name.removeprefix(prefix + '.')}.base_layer.parametrizations.weight.original"
                       for layer in own if layer.fake is not None]
            if not masters:
                continue
            wanted = [output(found) for _, _, found in _calls(base, prefix, states)]
            rule.fit(model.get_submodule(prefix), masters,
                     [Call(args, named, right) for (args, named, _), right
                      in zip(_calls(model, prefix, states), wanted, strict=True)])
    finally:
        model.train(training)


@torch.no_grad()
def _calls(model: Backbone, name: str,
           states: list[States]) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    """What a block is given and gives, a batch of states each."""
    found: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _, args, named, out: found.append((args, named, out)), with_kwargs=True)
    try:
        for batch in states:
            model.predict(batch.state, batch.t, batch.previous)
    finally:
        handle.remove()
    return found
