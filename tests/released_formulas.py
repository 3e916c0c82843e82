"""Diffusion-LM's formulas as they were released (XiangLi1999/Diffusion-LM, commit 759889d,
gaussian_diffusion.py), written out again in float64 numpy: `python tests/released_formulas.py` writes the
numbers to which the code here is held. Shares no line with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "trainable" / "diffusion" / "gaussian" / "released.json"
CURVES = {"sqrt": lambda u: 1 - math.sqrt(u + 0.0001),
          "cosine": lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2}
X_T, X_0 = 0.7, -0.3


def cumulative(name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """betas and the cumulative products of 1 - beta."""
    curve = CURVES[name]
    betas = np.array([min(1 - curve((i + 1) / steps) / curve(i / steps), 0.999) for i in range(steps)])
    return betas, np.cumprod(1 - betas)


def step(betas: np.ndarray, product: np.ndarray, t: int) -> dict[str, float]:
    """From t to t - 1: mean and both deviations of `p_sample`, mean and deviation of `ddim_sample`."""
    before, now, beta = product[t - 1], product[t], betas[t]
    mean = (beta * math.sqrt(before) / (1 - now) * X_0
            + (1 - before) * math.sqrt(1 - beta) / (1 - now) * X_T)
    small = beta * (1 - before) / (1 - now)
    found = {"t": t, "mean": mean, "small": math.sqrt(small), "large": math.sqrt(beta)}
    epsilon = (math.sqrt(1 / now) * X_T - X_0) / math.sqrt(1 / now - 1)
    for eta in (0.0, 1.0):
        sigma = eta * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before)
        found[f"ddim{eta:g}"] = X_0 * math.sqrt(before) + math.sqrt(1 - before - sigma**2) * epsilon
        found[f"sigma{eta:g}"] = sigma
    return found


def loss(product: np.ndarray) -> dict[str, Any]:
    """`training_losses_e2e` of a denoiser that halves its input, on three texts at three times."""
    noise = np.random.default_rng(7)
    table, ids = noise.normal(size=(6, 4)), noise.integers(0, 6, (3, 5))
    first, second = noise.normal(size=(3, 5, 4)), noise.normal(size=(3, 5, 4))
    times = np.array([0, 1, 150])
    mean = table[ids]
    start = mean + math.sqrt(1 - product[0]) * first
    signal = product[times][:, None, None]
    noisy = np.sqrt(signal) * start + np.sqrt(1 - signal) * second
    output = 0.5 * noisy
    target = np.where((times == 0)[:, None, None], mean, start)
    logits = start @ table.T
    picked = np.take_along_axis(logits, ids[..., None], -1)[..., 0]
    nll = np.log(np.exp(logits).sum(-1)) - picked
    prior = (math.sqrt(product[-1]) * start) ** 2
    terms = {"mse": ((output - target) ** 2).mean((1, 2)), "rounding": nll.mean(1),
             "prior": prior.mean((1, 2))}
    given = {"table": table, "ids": ids, "times": times, "first": first, "second": second}
    return {name: value.tolist() for name, value in {**given, **terms, "loss": sum(terms.values())}.items()}


def released() -> dict[str, Any]:
    """All numbers."""
    schedules = []
    for name, steps, times in (("sqrt", 2000, [1, 2, 700, 1999]), ("sqrt", 200, [1, 50, 199]),
                               ("cosine", 2000, [1, 1000, 1999])):
        betas, product = cumulative(name, steps)
        schedules.append({"name": name, "timesteps": steps, "first": product[0], "last": product[-1],
                          "middle": product[steps // 2], "steps": [step(betas, product, t) for t in times]})
    return {"schedules": schedules, "loss": loss(cumulative("sqrt", 200)[1])}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(released(), indent=1) + "\n")
