"""One training run of a denoiser: the same loop for a base and for a trial, alone or under DDP.
Knows no Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spaces.config import OptimConfig, RuntimeConfig
from trainable.compat import lerp_all_
from trainable.control.conditions import Conditions
from trainable.diffusion.process import Process, Trainable
from trainable.quantization.sites import frozen_weights
from trainable.seeds import stream_seed
from trainable.training.adamw8bit import AdamW8bit
from trainable.training.batches import Batches, occupied
from trainable.training.muon import Muon
from trainable.training.optimizer import configured, learning_rate, load_state, set_rate

CHECK_EVERY = 50
"""Steps between looks at the loss: often enough to stop a diverged run early, rare enough to
cost no GPU sync."""


def compiles(runtime: RuntimeConfig, device: torch.device) -> bool:
    """Whether training steps are compiled: where asked for, on CUDA. A CPU would need a C++ compiler."""
    return runtime.compile and device.type == "cuda"


class _Objective(nn.Module):
    """The loss as a module's forward, which is what DDP and torch.compile wrap."""

    def __init__(self, model: nn.Module, process: Trainable):
        super().__init__()
        self.model, self.process = model, process

    def forward(self, ids: Tensor, generator: torch.Generator,
                condition: Tensor | None = None) -> dict[str, Tensor]:
        return self.process.loss(self.model, ids, generator, condition)


def clip(parameters: Iterable[Tensor], most: float) -> None:
    """`clip_grad_norm_`, which multiplies gradients even by 1. On a CPU, where to look at the norm costs
    nothing, those that are short enough are left alone."""
    with_gradient = [value for value in parameters if value.grad is not None]
    norm = nn.utils.get_total_norm([value.grad for value in with_gradient if value.grad is not None])
    if norm.device.type != "cpu" or not norm <= most:
        nn.utils.clip_grads_with_norm_(with_gradient, most, norm)


class TrainingRun:
    """Optimizer steps with clipping, a learning-rate schedule, optional averaging of weights, bf16 autocast
    and torch.compile. `draw`: told each step's number before it is taken, for a model of which each step
    trains a part; what has no part in a step stays as it is. `rate`: the learning rate of
    a step, where it is not the schedule's. `between`: called at each step's end."""

    def __init__(self, model: nn.Module, process: Trainable, ids: np.ndarray, config: OptimConfig,
                 runtime: RuntimeConfig, seed: int, device: torch.device, rank: int = 0, world_size: int = 1,
                 conditions: Conditions | None = None, draw: Callable[[int], None] | None = None,
                 rate: Callable[[int], float] | None = None):
        self.draw, self.rate = draw, rate or partial(learning_rate, config=config)
        self.between: Callable[[], None] | None = None
        self.model, self.config, self.device, self.runtime = model, config, device, runtime
        self.step, self.seconds = 0, 0.0
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.average = ({name: value.detach().clone() for name, value in self.trained.items()}
                        if config.ema else {})
        self.optimizer = configured(self.trained.items(), config, model, world_size)
        self.batches = Batches(ids, config.batch_size, seed, rank, world_size,
                               pairs=config.padding == "pairs")
        self.seed, self.rank, self.world_size, self.conditions = seed, rank, world_size, conditions
        self.generator = torch.Generator(device)
        # words of narrow and of wide batches weigh alike, but where `clip` makes gradients equally long
        self.weighs = config.padding == "pairs" and (not isinstance(process, Process) or process.averages)
        if (isinstance(process, Process) and device.type == "cpu" and world_size == 1 and draw is None
                and runtime.precision == "fp32"):
            process = process.training(model, config.steps)
        objective: nn.Module = _Objective(model, process)
        if world_size > 1:
            # No buffer changes in training; those of a body held as codes are most of the model.
            objective = DistributedDataParallel(objective, broadcast_buffers=False,
                                                device_ids=[device.index] if device.type == "cuda" else None,
                                                find_unused_parameters=draw is not None)
        # Compiled outside of DDP: torch then cuts the graph at DDP's buckets, so that gradients travel while
        # others are computed. Inside, all would wait for the end (torch.compiler_faq, "Distributed code").
        self.objective = torch.compile(objective) if compiles(runtime, device) else objective

    def advance(self, until: int) -> dict[str, float]:
        """Train up to optimizer step `until`; returns means of the loss parts over the steps
        since the last call.

        Raises `FloatingPointError` when the loss is not finite.
        """
        self.model.train()
        started, count = time.perf_counter(), 0
        sums: dict[str, Tensor] = {}
        # a frozen body is quantized once, not at every step
        with frozen_weights(self.model, trainable=False):
            while self.step < until:
                parts = self._one_step()
                for name, value in parts.items():
                    sums[name] = (sums[name] if name in sums else 0.0) + value.detach()
                count += 1
                if self.step % CHECK_EVERY == 0 or self.step == until:
                    self._check(parts["loss"])
        self.seconds += time.perf_counter() - started
        return {f"train_{name}": float(value) / count for name, value in sums.items()}

    def _one_step(self) -> dict[str, Tensor]:
        if self.draw is not None:
            self.draw(self.step)
        set_rate(self.optimizer, self.rate(self.step))
        # Seeded per step and worker: a run that continues from a checkpoint draws what it would have drawn.
        self.generator.manual_seed(stream_seed(self.seed, self.step, self.rank))
        ids = self.batches.at(self.step)
        condition: tuple[Tensor, ...] = () if self.conditions is None else (self._condition(),)
        share = 1.0
        if self.config.padding != "full":
            positions = occupied(ids)
            if self.weighs:
                share = positions / ids.shape[1]
            ids, condition = ids[:, :positions], tuple(told[..., :positions] for told in condition)
        ids = ids.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.runtime.precision == "bf16"):
            parts = self.objective(ids, self.generator, *condition)
        for value in self.trained.values():
            value.grad = None
        (parts["loss"] * share if share != 1.0 else parts["loss"]).backward()
        if self.config.clip:
            clip(self.trained.values(), self.config.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        if self.between is not None:
            self.between()
        return parts

    def _condition(self) -> Tensor:
        """The condition of this step's batch, drawn apart from times and noise."""
        assert self.conditions is not None
        generator = torch.Generator().manual_seed(stream_seed("condition", self.seed, self.step, self.rank))
        return self.conditions.at(self.batches.rows(self.step), generator).to(self.device)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average:
            # The early average forgets its start quickly (Adam-style bias correction of the decay).
            early = (1 + self.step) / (10 + self.step) if self.config.ema_warmup else 1.0
            decay = min(self.config.ema, early)
            lerp_all_(list(self.average.values()), list(self.trained.values()), 1 - decay)

    def _check(self, loss: Tensor) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"training loss is {value} at step {self.step}")

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model holds the averaged weights inside this context (nothing changes when
        averaging is off)."""
        held = {name: value.detach().clone() for name, value in self.trained.items()} if self.average else {}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(held)

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for name, value in source.items():
            self.trained[name].copy_(value)

    def state(self) -> dict:
        """What `load_state` needs to continue exactly: tensors and plain numbers only."""
        return {"step": self.step, "seconds": self.seconds, "optimizer": self.optimizer.state_dict(),
                "trained": {name: value.detach() for name, value in self.trained.items()},
                "average": self.average}

    def load_state(self, state: dict) -> None:
        """Continue from `state()`. Raises ValueError for what is no state of such a run; nothing has
        changed then."""
        try:
            problem = self._misfit(state)
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            raise ValueError(f"not a state of this training: {problem}")
        self._copy(state["trained"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        load_state(self.optimizer, self.trained, state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _misfit(self, state: dict) -> str | None:
        """What is wrong with a state. Raises what comes of types that are others still."""
        for name, own in (("trained", self.trained), ("average", self.average)):
            found = state[name]
            if found.keys() != own.keys() or any(found[key].shape != own[key].shape for key in own):
                return f"{name} holds other weights"
            if not all(found[key].isfinite().all() for key in own):
                return f"{name} is not finite"
        groups, moments = state["optimizer"]["param_groups"], state["optimizer"]["state"]
        own_groups = self.optimizer.state_dict()["param_groups"]
        if len(groups) != 1 and [(len(group["params"]), group.keys()) for group in groups] != [
                (len(group["params"]), group.keys()) for group in own_groups]:
            return "other groups of the optimizer"
        known = [index for group in groups for index in group["params"]]
        if len(known) != len(self.trained) or moments and set(moments) != set(known):
            return "the optimizer is of other weights"
        if isinstance(self.optimizer, AdamW8bit | Muon):
            if problem := self.optimizer.misfit(moments):
                return problem
        else:
            sizes = sorted(value.numel() for value in self.trained.values())
            for moment in ("exp_avg", "exp_avg_sq"):
                if moments and sorted(entry[moment].numel() for entry in moments.values()) != sizes:
                    return f"{moment} of other weights"
        if type(state["step"]) is not int or not 0 <= state["step"] <= self.config.steps:
            return f"step {state['step']!r} of {self.config.steps}"
        return None if state["seconds"] >= 0 else "a time below 0"
