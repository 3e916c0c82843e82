"""transformers' DiffusionGemma as a backbone: a text on a canvas of random tokens, behind a prompt of one
START, guessed anew until it stays.

The published class (transformers 5.23, `models/diffusion_gemma`) computes; this file says which of its parts
play which role. Its own `generate` draws texts (`diffusion.canvas.sampling`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache

from spaces.config import Site
from spaces.errors import UserError
from trainable.models.backbone import Backbone
from trainable.models.diffusion_gemma.body import experts_by, make
from trainable.models.diffusion_gemma.config import DiffusionGemmaConfig
from trainable.models.parts import linear_names
from trainable.models.prediction import Prediction

NEVER = -1e4
"""Log-probability of what the prompt is not: finite, so that losses stay finite."""


class DiffusionGemma(Backbone):
    """The text part of a DiffusionGemma: a decoder over the whole canvas, its experts, its feedback.

    Rows of the table are the tokens in our order, without MASK, of which it knows nothing. The first position
    of a row (START) is its prompt, all others are the canvas. It is not told the time.
    """

    name = "diffusion_gemma"
    block_by_block = False  # the encoder asks for what the decoder's layers hold
    Params = DiffusionGemmaConfig
    params: DiffusionGemmaConfig

    def __init__(self, params: DiffusionGemmaConfig, vocabulary: int, seed: int = 0):
        super().__init__()
        self.params, self.vocabulary, self.symbols = params, vocabulary, {}
        made = make(params, vocabulary)
        decoder = made.model.decoder
        self.word_embedding, self.body, self.norm = decoder.embed_tokens, decoder.layers, decoder.norm
        self.feedback, self.rotary = decoder.self_conditioning, decoder.rotary_emb
        self.reader = made.model.encoder
        self._whole = (made,)  # in a tuple: its parts are those above
        if not self.word_embedding.weight.is_meta:
            self._initialize(torch.Generator().manual_seed(seed))

    @classmethod
    def from_config(cls, params: DiffusionGemmaConfig, process: Any, vocabulary: Sequence[str], *,
                    seed: int = 0, symbols: Sequence[str] = (), pretrained: bool = True) -> Self:
        """As the constructor, for a list of words. It is told nothing, so there are no symbols."""
        return cls(params, len(vocabulary), seed)

    def _initialize(self, generator: torch.Generator) -> None:
        """Matrices N(0, 1 / inputs), which keeps the size of what goes through; the table N(0, 1 / hidden),
        which its scale undoes; norms as they are."""
        with torch.no_grad():
            for value in self.parameters():
                if value.ndim > 1:
                    value.normal_(std=value.shape[-1] ** -0.5, generator=generator)

    @property
    def experts_by(self) -> str:
        """How its experts are multiplied, as transformers names it."""
        return experts_by(self.params)

    @property
    def whole(self) -> DiffusionGemmaForBlockDiffusion:
        """The class of transformers, over the parts of this model as they are now."""
        return self._whole[0]

    # ---- where things are ----

    def sites(self) -> dict[Site, list[str]]:
        """embedding: the token table, which the head shares. attention, ffn: of the layers. Experts (one
        array for all), routers and the feedback stay floats."""
        return {"embedding": ["word_embedding"],
                "attention": linear_names(self, {"body"}, re.compile(r"self_attn\.[qkvo]_proj$")),
                "ffn": linear_names(self, {"body"}, re.compile(r"mlp\.(?:gate|up|down)_proj$"))}

    def lora_targets(self) -> dict[str, str]:
        """Layers that see the whole row have no value matrix: their keys are their values."""
        return {"query": r"self_attn\.q_proj", "key": r"self_attn\.k_proj", "value": r"self_attn\.[kv]_proj",
                "output": r"self_attn\.o_proj", "ffn": r"mlp\.(?:gate|up|down)_proj"}

    def token_parameters(self) -> tuple[str, ...]:
        """The table."""
        return ("word_embedding.weight",)

    def as_transformers(self) -> tuple[Any, str]:
        """Refused: transformers keeps the weights twice, with a vision tower that is not here."""
        raise UserError("model diffusion_gemma is exported as an artifact alone; the checkpoint in base.path "
                        "is what transformers loads")

    # ---- computing ----

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] ids -> [B, L, hidden], scaled as the body reads them."""
        return self.word_embedding(ids)

    def predict(self, state: Tensor, t: Tensor, previous: Tensor | None = None, temperature: float = 1.0,
                condition: Tensor | None = None) -> Prediction:
        """Of rows [B, L]: the first token is the prompt and is itself, the others are as the head says.

        `previous` [B, L, V]: log-posteriors of an earlier guess, which the canvas is told; none: nothing.
        """
        whole = self.whole
        found = whole(
            input_ids=state[:, :1], decoder_input_ids=state[:, 1:],
            past_key_values=DynamicCache(config=whole.config.get_text_config(decoder=True)),
            self_conditioning_logits=None if previous is None else previous[:, 1:])
        guess = torch.log_softmax(found.logits.float() / temperature, dim=-1)
        own = F.one_hot(state[:, :1], self.vocabulary).bool()
        return Prediction(None, torch.cat([torch.where(own, 0.0, NEVER), guess], dim=1))


