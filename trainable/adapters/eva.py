"""EVA: the adapter reads the directions in which a layer's inputs vary most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from spaces.errors import UserError
from trainable import registry
from trainable.adapters.base import AdapterStart, Layer, Start
from trainable.compat import hooks_as_before

PASSES = 50
"""Over the calibration states, after which directions that still turn are given up: those in which inputs do
not vary at all never come to rest."""


class EVA(AdapterStart):
    """EVA (2410.07170), by peft: R is the leading principal directions of the layer's inputs, L = 0. Every
    layer keeps the rank that was asked for (rho = 1)."""

    name = "eva"
    needs = ("seen",)
    corrects = False

    class Params(registry.Params):
        """peft's, without its shifting of ranks from layer to layer."""

        tau: float = Field(0.99, ge=0, lt=1, description="cosine of directions before and after a batch at "
                                                         "which they have settled")
        whiten: bool = Field(False, description="divide each direction by the root of its singular value")

    params: Params

    def see(self, model: nn.Module, names: Sequence[str], batches: Sequence[Mapping[str, Tensor]],
            run: Callable[[Mapping[str, Tensor]], Any], rank: int) -> dict[str, Tensor]:
        """Directions [rank, in] by layer: incremental principal components of its inputs over the batches,
        again and again until they settle. Raises `UserError` where they do not."""
        from peft import LoraConfig
        from peft.tuners.lora.config import EvaConfig
        from peft.tuners.lora.eva import get_eva_state_dict

        enough = [batch for batch in batches if batch["state"].shape[:2].numel() >= rank]
        if not enough:
            raise UserError(f"lora.start: eva finds {rank} directions among more tokens than "
                            f"calibration.texts={len(batches[0]['state'])} have; legal: more of them")
        left = [PASSES * len(enough)]

        def forward(_: nn.Module, batch: Mapping[str, Tensor]) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise UserError(f"lora.start: eva: {rank} directions of a layer's inputs did not settle in "
                                f"{PASSES} passes over the calibration states; legal: a lower lora.rank or "
                                "tau, or more calibration.texts")
            run(batch)

        settings = LoraConfig(r=rank, target_modules=list(names), init_lora_weights="eva",
                              eva_config=EvaConfig(rho=1.0, tau=self.params.tau, whiten=self.params.whiten))
        with hooks_as_before([model.get_submodule(name) for name in names]):
            found: dict[str, Tensor] = get_eva_state_dict(
                model, enough, settings, forward, prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None,
                gather_distributed_inputs=False, show_progress_bar=False)
        return found

    def start(self, layer: Layer) -> Start:
        """L = 0 and R so that the layer's first factor, whatever it is scaled by, is the directions."""
        assert layer.seen is not None
        up = torch.zeros(len(layer.weight), layer.rank, dtype=layer.weight.dtype, device=layer.weight.device)
        return Start(layer.weight, up, layer.seen.to(layer.weight) * layer.scaling**0.5)
