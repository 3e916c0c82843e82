"""What a backbone is: the network under a diffusion process, with names for the roles that its parts play.

A backbone is one folder here and one line in `trainable.registry.BACKBONES`;
tests/trainable/models/test_backbone_contract.py then runs it. Quantizers, adapters, transfer and export ask
it for roles and never know an architecture's own names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from spaces.config import Site, TrialConfig
from spaces.errors import UserError
from trainable import registry
from trainable.models.noise import Noise
from trainable.models.parts import Table, TableError
from trainable.models.prediction import Prediction


class Backbone(nn.Module, ABC):
    """A network that believes something of corrupted tokens. A subclass has `name`, a one-sentence
    docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]]
    params: registry.Params
    symbols: dict[str, int]
    """What a condition can say, by id; empty in a model that is told nothing."""
    stored: torch.dtype = torch.float32
    """Dtype of the weights that an export keeps as floats, where the model itself is in float32."""
    traceable: bool = False
    """Whether its functions run the same operations for all inputs of a shape, so that they can run as graphs
    (`trainable.models.traced`)."""
    block_by_block: ClassVar[bool] = True
    """Whether each block of `body` runs by a call of its own, and nothing reads its weights past that
    (`trainable.models.placement`)."""
    body: nn.Module
    """The part that a trial freezes, adapts and rounds at export; the rest always trains."""
    noise: Noise | None = None
    """Told of every state before `body` reads it, where layers depend on it."""

    @classmethod
    @abstractmethod
    def from_config(cls, params: Any, process: Any, vocabulary: Sequence[str], *, seed: int = 0,
                    symbols: Sequence[str] = (), pretrained: bool = True) -> Self:
        """A fresh network for the words of `vocabulary`, under a diffusion process with parameters `process`.

        Under `torch.device("meta")` nothing is drawn: weights will be assigned. `pretrained=False` reads no
        file for weights that are about to be overwritten.
        """

    @abstractmethod
    def sites(self) -> dict[Site, list[str]]:
        """Role -> names of the modules whose `weight` plays it, in model order; where an adapter has
        wrapped one, its base layer (`linear_names` finds them)."""

    @abstractmethod
    def lora_targets(self) -> dict[str, str]:
        """Role -> regular expression of the module names in `body` that an adapter may sit on."""

    @abstractmethod
    def token_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that hold one row for each word: what another vocabulary shares by
        word, not by place."""

    def symbol_parameters(self) -> tuple[str, ...]:
        """Names of the parameters with one row for each symbol of a condition."""
        return ()

    def packed_table(self, choice: Table, entry: dict[str, Any], parts: dict[str, Tensor],
                     device: torch.device) -> nn.Module | None:
        """A module that computes on the codes of the word table, where that is asked for and can be
        done; None = decode them. `entry` is the table's line in an artifact's packing, `parts` its stored
        arrays. Raises `TableError`."""
        if choice == "packed":
            raise TableError(f"model {self.name} cannot compute on the codes of its word table; "
                             "legal: decoded")
        return None

    def as_transformers(self) -> tuple[Any, str]:
        """The body with its token table as `transformers.AutoModel` has it, and what precedes the names of
        the body there. Raises `UserError` where transformers has no such architecture."""
        raise UserError(f"model {self.name} is no architecture of transformers")

    def finish_base(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once on a trained base before it is exported."""

    def start_trial(self, config: TrialConfig) -> None:  # noqa: B027 - most have nothing to do
        """Called on a trial's copy of the base before quantizers are put on."""

    def noise_of(self, state: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise level [B] in [0, 1] of a corrupted state [B, L, ...], and which of its positions [B, L] count
        as masked: see `Noise`. Told to `noise`, where there is one, whenever `body` runs. Raises `UserError`
        in a model that cannot say."""
        raise UserError(f"model {self.name} tells no layer how noisy its rows are: "
                        "calibration.intervals, lora.intervals and state_clip need that")

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] word ids -> [B, L, d] what the process corrupts or the body reads."""

    def first_choices(self, state: Tensor, t: Tensor, previous: Tensor | None = None) -> Tensor:
        """[B, L] ids of the words that the network finds most probable, at positions that are seen too."""
        return self.predict(state, t, previous).log_probs.argmax(-1)

    @abstractmethod
    def predict(self, state: Tensor, t: Tensor, previous: Tensor | None = None, temperature: float = 1.0,
                condition: Tensor | None = None) -> Prediction:
        """What the network believes of a corrupted state [B, L, ...] at times t [B] or [B, L].

        `previous`: its own last guess, for self-conditioning; `condition` [B, K, L] ids of `symbols`.
        """
