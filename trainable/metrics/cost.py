"""What the adaptation costs: parameters that learn, seconds of training."""

from __future__ import annotations

from trainable.metrics.base import Measurable, Metric


class TrainableParams(Metric):
    """Parameters that the trial trains, counted from the model."""

    name, unit, direction = "trainable_params", "", "minimize"
    cheap = True
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`trainable_params`, `trainable_params_share` of all parameters. Tensors that are shared count once.

        The counts that the training run took (`facts`) win over counting here, because the model that is
        measured may be an averaged or merged copy in which nothing is left to train.
        """
        parameters = list(m.model.parameters())
        trained = m.facts.get("trainable_params", sum(p.numel() for p in parameters if p.requires_grad))
        total = m.facts.get("total_params", sum(p.numel() for p in parameters))
        return {"trainable_params": float(trained), "trainable_params_share": trained / total}


class TrainSeconds(Metric):
    """Seconds of training up to this rung, measuring not counted."""

    name, unit, direction = "train_seconds", "s", "minimize"
    cheap = True
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`train_seconds`, as the training loop clocked it."""
        return {"train_seconds": float(m.facts["train_seconds"])}
