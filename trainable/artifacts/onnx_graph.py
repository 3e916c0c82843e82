"""An artifact's network as an ONNX graph: one forward pass, for runtimes that know no torch."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.errors import UserError
from spaces.shell import extra_command
from trainable.artifacts.huggingface import plain
from trainable.models.backbone import Backbone
from trainable.storage.folders import whole_folder

GRAPH = "model.onnx"
NEEDS = ("onnx", "onnxscript")
EXAMPLE = (2, 5)
"""Sentences and positions of the example that is traced; both may differ later."""


def export_onnx(artifact: Path, out: Path) -> Path:
    """Write `out`/model.onnx (whole or not at all; `out` must not be there): float32, opset 20, batch and
    length free.

    Masked models: `ids` int64 [B, L], MASK among them, to `logits` [B, L, V]. Gaussian ones: `latents`
    [B, L, d] and `times` int64 [B] to `output` [B, L, d], the clean latents under `mse` and the head's query
    under `ce`, and `logits` [B, L, V]. A model with self-conditioning also reads `previous`: its own last
    guess, zeros at first. Raises `UserError` where the exporter is not installed, or cannot give the network.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)}: not installed; run: {extra_command('onnx')}")
    loaded = plain(artifact)
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    process = loaded.config.diffusion.name
    if process not in GRAPHS:
        raise UserError(f"{artifact}: a model of diffusion {process} is no graph; legal: {', '.join(GRAPHS)}")
    graph = GRAPHS[process](loaded.model).eval()
    inputs = graph.example(*EXAMPLE)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2)
    shapes = {name: {0: batch} if value.dim() == 1 else {0: batch, 1: length}
              for name, value in inputs.items()}
    with whole_folder(out) as folder, quiet(), torch.no_grad():
        try:
            torch.onnx.export(graph, (), str(folder / GRAPH), kwargs=inputs, input_names=list(inputs),
                              output_names=graph.outputs, dynamic_shapes=shapes, dynamo=True, verbose=False,
                              opset_version=20, external_data=False)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise UserError(f"{artifact}: torch.onnx cannot write a model {loaded.model.name}: "
                            f"{reason}") from error
    return out


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class MaskedGraph(nn.Module):
    """Ids to logits."""

    outputs = ["logits"]

    def __init__(self, model: Backbone):
        super().__init__()
        self.model = model

    def example(self, batch: int, length: int) -> dict[str, Tensor]:
        """Inputs by name."""
        found, params = {"ids": torch.zeros(batch, length, dtype=torch.long)}, self.model.params
        if getattr(params, "self_conditioning", False):
            found["previous"] = self.model.embed(found["ids"])
        return found

    def forward(self, ids: Tensor, previous: Tensor | None = None) -> Tensor:
        """As the model's own."""
        logits: Tensor = self.model(ids, None, previous)
        return logits


class GaussianGraph(nn.Module):
    """Latents and times to what the network says and the logits of words."""

    outputs = ["output", "logits"]

    def __init__(self, model: Backbone):
        super().__init__()
        self.model = model

    def example(self, batch: int, length: int) -> dict[str, Tensor]:
        """Inputs by name."""
        latents = self.model.embed(torch.zeros(batch, length, dtype=torch.long))
        found = {"latents": latents, "times": torch.ones(batch, dtype=torch.long)}
        if getattr(self.model.params, "self_conditioning", False):
            found["previous"] = latents.clone()
        return found

    def forward(self, latents: Tensor, times: Tensor,
                previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the model's own."""
        model: Any = self.model
        output = model(latents, times, previous)
        return output, model.logits(output)


GRAPHS: dict[str, type[MaskedGraph] | type[GaussianGraph]] = {
    "masked": MaskedGraph, "gaussian": GaussianGraph}
"""By process."""
