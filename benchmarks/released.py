"""Training and guided sampling beside the released Diffusion-LM code, at the published shape:
`python -m benchmarks.released --code DIR`, DIR being the folder improved-diffusion of a checkout
(`benchmarks.released_code` says how it is run).

CPU seconds of one thread; each round runs everything once, in an order that changes; ratios are of one round:

* `training`: a step as its trainer takes it (loss, gradients, the norm that it logs, AdamW, averaged weights)
  beside one of `TrainingRun` under the settings of `spaces/e2e_paper.yaml`; dropout 0.1 in both. `equal` says
  how far apart losses and gradients are by equal weights, times and noise, without dropout. `ours_cut`: the
  texts cut to `CUT` positions, as many as `optim.padding: batch` leaves of E2E's; `ours_pairs`: half the
  seconds of a narrow and a wide step as `pairs` has them (`PAIR`). The other code has all positions.
* `guided_step`: of length control of one text of 64 positions, 200 steps in all: one look, then three updates
  of the latents, in both. Theirs pulls at the squared distance of the predicted latent to END's, ours at the
  log-probability of END and of words before it; theirs also computes gradients of all weights, which nothing
  reads. `ours_BODY`: the same here with the body's products by its codes, beside the released float32 code;
  `bodies` says how far the latents are from float32's behind the steps that are timed.
* `whole_text`: one text under length control from noise to words by each code's defaults, 200 steps there and
  50 here; `ours_20` has 20, `ours_bfloat16` 50 with that body. Weights are untrained and reach no target:
  cost is compared, success is NOT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, save
from benchmarks.released_code import POSITIONS, STEPS, VOCABULARY, WANTED, Released, Seconds, clocked, quiet
from spaces.config import GuidanceConfig, PluginRef, RuntimeConfig, SamplingConfig
from spaces.settings import OptimConfig
from trainable.control.generating import controlled
from trainable.control.guidance import GradientGuide
from trainable.control.length import Length
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokenized import SPECIALS
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.losses import published_loss
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantizers.base import shape_of
from trainable.registry import BODIES
from trainable.training.loop import TrainingRun

BODIES_OF_OURS = ("bfloat16", "int8_dynamic")
"""Formats of the body that guidance is timed with, too."""
BATCHES = ((32, 64), (2, 32))
"""Texts and positions of a training step."""
CUT = 44
"""Positions of 64 that batches of 32 E2E texts have under `optim.padding: batch`, 43.7 in the mean."""
PAIR = (31, 47)
"""The same of the narrow and of the wide batch of `optim.padding: pairs`, 30.5 and 46.3 in the mean
(`python -m benchmarks.padding --pace --space e2e --set trial.corpus.max_length=64 ...`)."""


class Ours:
    """The code here, with the released code's weights."""

    def __init__(self, weights: dict[str, Tensor]):
        self.process = Gaussian(GaussianConfig(timesteps=2000, schedule="sqrt", loss="mse"))
        vocabulary = [*SPECIALS, *(f"word{i}" for i in range(VOCABULARY - len(SPECIALS)))]
        self.model = DiffusionLM(DiffusionLMConfig(), self.process.params, vocabulary)
        self.model.load_state_dict(weights)
        self.lexicon = Lexicon(vocabulary, POSITIONS, {}, "words")
        self.task, self.target = Length(Length.Params()), {"length": WANTED}

    def coded(self, body: str) -> None:
        """From now on with the body's products by the codes of a format."""
        form = BODIES.build(PluginRef(name=body))
        for name, module in list(self.model.body.named_modules()):
            if isinstance(module, nn.Linear):
                weight = module.weight.detach()
                self.model.body.set_submodule(name, form.linear(form.encode(weight), shape_of(weight),
                                                                module.bias.detach()))

    def losses(self, ids: Tensor, t: Tensor, seed: int) -> dict[str, Tensor]:
        """As the released code's, by noise of a generator of this seed."""
        return published_loss(self.model, ids, t, self.process.schedule, torch.Generator().manual_seed(seed))

    def training(self, ids: Tensor, **settings: Any) -> Seconds:
        """Steps on the texts [B, L], under the published settings but for these of `OptimConfig`."""
        published = {"steps": 200000, "batch_size": len(ids), "lr": 1e-4, "warmup": 0, "final_lr": 0.0,
                     "clip": 0.0, "betas": (0.9, 0.999), "ema": 0.9999, "ema_warmup": False}
        run = TrainingRun(self.model, self.process, ids.numpy(), OptimConfig(**published | settings),
                          RuntimeConfig(), 0, torch.device("cpu"))
        return partial(clocked, lambda: run.advance(run.step + 1))

    def step(self, count: int) -> float:
        """Of the steps of a text behind its first, the median of so many."""
        sampler = PluginRef(name="ddim", eta=1.0)
        sampling = self.process.sampling(self.model, SamplingConfig(steps=STEPS, sampler=sampler))
        guide = Clocked(self.task, [self.target], GuidanceConfig(), self.lexicon, STEPS)
        guide.last = count
        with contextlib.suppress(EndedError):
            sampling.generate(1, POSITIONS, torch.Generator().manual_seed(0), guide)
        self.latents = guide.latents
        return statistics.median(b - a for a, b in zip(guide.ends, guide.ends[1:], strict=False))

    def text(self, steps: int) -> int:
        """From noise to words; in how many passes of the denoiser."""
        sampling = self.process.sampling(self.model, SamplingConfig(steps=steps))
        return int(controlled(sampling, self.task, [self.target], GuidanceConfig(), self.lexicon, POSITIONS,
                              torch.Generator().manual_seed(0)).passes)


class EndedError(Exception):
    """Ends a generation."""


class Clocked(GradientGuide):
    """Notes when each step ends, to the one with the number `last`, and the latents [1, L, d] behind
    it."""

    last = 0

    def __call__(self, *arguments: Any) -> Tensor:
        x = super().__call__(*arguments)
        self.ends = [*getattr(self, "ends", []), time.process_time()]
        self.latents = x
        if len(self.ends) > self.last:
            raise EndedError
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="its folder improved-diffusion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=5,
                        help="rounds of whole texts, of minutes each; 0 keeps the figures of an earlier call")
    parser.add_argument("--name", default="released", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    released = Released(args.code)
    ours = Ours(released.named())
    path = RESULTS / f"{args.name}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    figures: dict[str, Any] = {"code": "XiangLi1999/Diffusion-LM, commit 759889d", "unit": "CPU seconds",
                               "equal": equal(ours, released), "passes_a_step": passes(ours, released)}
    for texts, positions in BATCHES:
        ids = torch.randint(len(SPECIALS), VOCABULARY, (texts, positions))
        arms = {"ours": ours.training(ids), **released.attending(released.training(ids))}
        if positions == POSITIONS:
            arms["ours_cut"] = ours.training(ids[:, :CUT])
            arms["ours_pairs"] = mean_of([ours.training(ids[:, :width]) for width in PAIR])
        figures[f"training {texts} x {positions}"] = beside(arms, args.rounds)
    figures |= guided(ours, released, args.rounds)
    if not args.texts and "whole_text" in earlier:
        figures["whole_text"] = earlier["whole_text"]
    save(args.name, figures)  # texts take long
    if args.texts:
        short = Ours(ours.model.state_dict())
        short.coded("bfloat16")
        arms = {"ours": partial(clocked, partial(ours.text, 50)),
                "ours_20": partial(clocked, partial(ours.text, 20)),
                "ours_bfloat16": partial(clocked, partial(short.text, 50)),
                "released_eager": released.attending(partial(clocked, released.text))["released_eager"]}
        figures["whole_text"] = {"success": "not compared: weights are untrained",
                                 **beside(arms, args.texts, warm=False)}
        save(args.name, figures)


def mean_of(steps: list[Seconds]) -> Seconds:
    """The mean of the seconds of these."""
    return lambda: statistics.fmean(step() for step in steps)


def guided(ours: Ours, released: Released, rounds: int) -> dict[str, Any]:
    """A guided step of both, and of ours with other bodies."""
    arms = {"ours": partial(ours.step, 3)}
    coded = {body: Ours(ours.model.state_dict()) for body in BODIES_OF_OURS}  # training has changed them
    for body, own in coded.items():
        own.coded(body)
        arms[f"ours_{body}"] = partial(own.step, 3)
    found = beside({**arms, **released.attending(partial(released.step, 3))}, rounds)
    apart = {body: float((own.latents - ours.latents).norm() / ours.latents.norm())
             for body, own in coded.items()}
    return {"guided_step": found, "bodies": {"latents behind 4 steps, distance over length": apart}}


def equal(ours: Ours, released: Released) -> dict[str, Any]:
    """Losses of four texts by both codes without dropout, and how far apart they and their gradients are."""
    ids, t = torch.randint(VOCABULARY, (4, POSITIONS)), torch.tensor([0, 1, 700, 1999])
    ours.model.eval()
    released.model.eval()
    torch.manual_seed(1)
    theirs, own = released.losses(ids, t), ours.losses(ids, t, 1)
    found = {"times": t.tolist(), "ours": own["loss"].tolist(), "released": theirs["loss"].tolist()}
    found |= {f"{name}, apart at most": float((own[name] / theirs[name] - 1).detach().abs().max())
              for name in ("loss", "mse")}
    theirs["loss"].mean().backward()
    own["loss"].mean().backward()
    with torch.no_grad():
        pairs = [(value.grad, released.named()[name].grad) for name, value in ours.model.named_parameters()]
        apart = sum(float((own - theirs).square().sum()) for own, theirs in pairs) ** 0.5
        found["gradients, distance over length"] = apart / sum(
            float(theirs.square().sum()) for _, theirs in pairs) ** 0.5
    return found


def passes(ours: Ours, released: Released) -> dict[str, float]:
    """How often either body is asked in a guided step."""
    found = {}
    for name, body, step in (("ours", ours.model.body, ours.step),
                             ("released", released.model.input_transformers, released.step)):
        count: list[None] = []
        hook = body.register_forward_hook(lambda *_, count=count: count.append(None))
        with quiet():
            step(1)
        hook.remove()
        found[name] = len(count) / 2
    return found


def beside(arms: dict[str, Seconds], rounds: int, warm: bool = True) -> dict[str, Any]:
    """Seconds of each by rounds, and the ratios of ours to the released code's in the same round. With `warm`
    a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1 if warm else 0, rounds):
        for name in sorted(arms, reverse=number % 2 == 0):
            with quiet():
                seconds = arms[name]()
            print(f"{name} {seconds:.3f} s" + " (not counted)" * (number < 0), flush=True)
            if number >= 0:
                found[name].append(seconds)
    pairs = [(own, other) for own in arms for other in arms if "ours" in own and "ours" not in other]
    return {**{name: spread(values) for name, values in found.items()},
            **{f"{own} / {other}": spread([a / b for a, b in zip(found[own], found[other], strict=True)])
               for own, other in pairs}}


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range."""
    return {"median": round(statistics.median(values), 4),
            "range": [round(min(values), 4), round(max(values), 4)]}


if __name__ == "__main__":
    main()
