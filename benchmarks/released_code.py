"""The released Diffusion-LM code (XiangLi1999/Diffusion-LM, commit 759889d) at the published shape, for
`benchmarks.released`. Its functions are imported from a checkout and run as they are; none of it is copied.
What that takes on a CPU today:

* Empty modules in the place of wandb, mpi4py and blobfile, which no measured function calls, and of its
  `transformer_utils`, of which only its other architectures are built. A process group of one.
* The encoder is that of the installed transformers. Its attention `eager` is the arithmetic of the release;
  `sdpa` is a kernel that there was not yet. The defaults of `BertConfig` are those of bert-base-uncased.
* Its loss asks DDP for the model inside, and its trainer makes a DDP on a GPU alone: the model's `module` is
  the model itself, which costs nothing.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainable.corpora.special import END, PAD, START

VOCABULARY, DIM, POSITIONS, STEPS, WANTED = 821, 16, 64, 200, 20
"""Words known, width of a latent, positions of a text, steps of a guided one, words that it is asked for."""
ATTENTION = ("eager", "sdpa")
STAND_INS = {"wandb": (), "blobfile": (), "mpi4py": ("MPI",),
             "improved_diffusion.transformer_utils": ("BertAttention", "trans_nd", "layer_norm")}
"""Modules that are not here, and what is imported from them."""
PARTS = {"input_up_proj": "up", "time_embed": "time", "position_embeddings": "position_embedding",
         "LayerNorm": "norm", "input_transformers": "body", "output_down_proj": "down",
         "word_embedding": "word_embedding", "lm_head": "rounding"}
"""Of the released model, and their names here."""
Seconds = Callable[[], float]
"""Does a thing once and says the CPU seconds that it took."""


class Released:
    """The released code."""

    def __init__(self, code: Path):
        from transformers import BertConfig
        from transformers.models.bert import modeling_bert  # noqa: F401 - asks which packages are installed

        for name, parts in STAND_INS.items():
            vars(sys.modules.setdefault(name, ModuleType(name))).update(dict.fromkeys(parts))
        sys.path[:0] = [str(code), str(code / "scripts")]
        import infill_util
        from improved_diffusion import (
            logger,
            resample,
            script_util,
            test_util,
            train_util,
        )
        self.configs = {attention: BertConfig(attn_implementation=attention) for attention in ATTENTION}
        self.loop, self.uniform = train_util.TrainLoop, resample.UniformSampler
        self.langevin, self.rounded = infill_util.langevin_fn_length, test_util.denoised_fn_round
        settings = {**script_util.model_and_diffusion_defaults(), "model_arch": "transformer", "dropout": 0.1,
                    "in_channel": DIM, "out_channel": DIM, "training_mode": "e2e", "vocab_size": VOCABULARY,
                    "noise_schedule": "sqrt", "predict_xstart": True, "diffusion_steps": 2000}
        with tempfile.TemporaryDirectory() as folder, quiet():
            logger.configure(folder, [])
            BertConfig().save_pretrained(folder)
            make = partial(script_util.create_model_and_diffusion, **settings | {"config_name": folder})
            self.model, self.diffusion = make()
            _, self.sampling = make(diffusion_steps=STEPS, sigma_small=True)
        vars(self.model)["module"] = self.model
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    def attending(self, seconds: Seconds) -> dict[str, Seconds]:
        """The same by either attention."""
        def by(attention: str) -> float:
            for module in self.model.input_transformers.modules():
                if hasattr(module, "config"):
                    module.config = self.configs[attention]
            return seconds()
        return {f"released_{attention}": partial(by, attention) for attention in ATTENTION}

    def named(self) -> dict[str, Tensor]:
        """Its weights by our names. The rounding head shares its rows with the table."""
        split = ((name.partition("."), value) for name, value in self.model.named_parameters())
        return {f"{PARTS[part]}.{rest}": value for (part, _, rest), value in split}

    def losses(self, ids: Tensor, t: Tensor) -> dict[str, Tensor]:
        """`loss` and `mse` [B] of texts [B, L] at times [B], by noise of the global generator."""
        found: dict[str, Tensor] = self.diffusion.training_losses(self.model, latents(ids), t,
                                                                  {"input_ids": ids})
        return found

    def training(self, ids: Tensor) -> Seconds:
        """Steps on the texts [B, L]."""
        loop = self.loop(model=self.model, diffusion=self.diffusion, data=None, batch_size=len(ids),
                         microbatch=-1, lr=1e-4, ema_rate="0.9999", log_interval=50, save_interval=50000,
                         resume_checkpoint="", lr_anneal_steps=200000,
                         schedule_sampler=self.uniform(self.diffusion))
        self.model.train()
        return partial(clocked, lambda: loop.run_step(latents(ids), {"input_ids": ids}))

    def guided(self) -> Iterator[Tensor]:
        """The latents [1, L, d] after each step of a text."""
        self.model.eval()
        ids = torch.full((1, POSITIONS), PAD)
        ids[0, 0], ids[0, WANTED + 1] = START, END
        table = nn.Embedding.from_pretrained(self.model.word_embedding.weight.detach().clone())
        guide = partial(self.langevin, 0.01, self.sampling, ids == PAD, self.model, table(ids), 0.1)
        rounded = partial(self.rounded, SimpleNamespace(model_arch="transformer"), table)
        for found in self.sampling.ddim_sample_loop_progressive(
                self.model, (1, POSITIONS, DIM), denoised_fn=rounded, clip_denoised=False, model_kwargs={},
                langevin_fn=guide, eta=1.0):
            yield found["sample"]

    def step(self, count: int) -> float:
        """Of the steps of a text behind its first, the median of so many."""
        steps = self.guided()
        next(steps)
        return statistics.median(clocked(partial(next, steps)) for _ in range(count))

    def text(self) -> None:
        """From noise to words."""
        *_, last = self.guided()
        self.model.get_logits(last).topk(1)


def latents(ids: Tensor) -> Tensor:
    """What the released loss is given beside ids [B, L], and reads no more than the size of."""
    return torch.zeros(*ids.shape, DIM)


def clocked(step: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    step()
    return time.process_time() - began


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The released code prints at every step."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
