"""The masked language model: a bidirectional transformer that says what stands where a row is masked.

It is not told the time: with masks, the row itself shows how much is hidden, and an absorbing denoiser needs
no more (MDLM, arXiv 2406.07524, section 3.5; LLaDA, arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.config import Site
from trainable.models.backbone import Backbone
from trainable.models.masked_lm.bodies import NAMES, initialize, make_body, run_body, with_table
from trainable.models.masked_lm.config import HEAD_EPS, MaskedLMConfig
from trainable.models.masked_lm.heads import NEVER, has_head, with_head
from trainable.models.parts import linear_names
from trainable.models.prediction import Prediction, probabilities


class MaskedLM(Backbone):
    """A bidirectional transformer over tokens and MASK, its head over the tokens.

    Tokens are 0..V-1; MASK is one more row of the table, V unless said otherwise. MASK is never an answer:
    where it lies within the V (a pretrained vocabulary), its logit is -inf; where it is the row behind
    them, it has none.
    """

    name = "masked_lm"
    traceable = True
    Params = MaskedLMConfig
    params: MaskedLMConfig

    def __init__(self, params: MaskedLMConfig, vocabulary: int, seed: int = 0, symbols: Sequence[str] = (),
                 mask_id: int | None = None, shift: bool = False):
        """`vocabulary`: V. `symbols`: what a condition can say; none in a model that is told nothing.
        `shift`: as `params` has it, where that says something."""
        super().__init__()
        self.params, self.vocabulary = params, vocabulary
        self.shift = shift if params.shift is None else params.shift
        self.mask_id = vocabulary if mask_id is None else mask_id
        hidden = params.hidden
        self.word_embedding = nn.Embedding(max(vocabulary, self.mask_id + 1), hidden)
        self.body = make_body(params)
        if params.transform:
            self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(),
                                           nn.LayerNorm(hidden, eps=params.norm_eps or HEAD_EPS))
        if not params.tied:
            self.head = nn.Linear(hidden, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        if params.self_conditioning:
            self.feedback = nn.Linear(hidden, hidden, bias=False)
        self.symbols = {symbol: i for i, symbol in enumerate(symbols, 1)}
        if symbols:  # 0 says nothing, and so does every symbol before training
            self.condition_embedding = nn.Embedding(len(symbols) + 1, hidden, padding_idx=0)
        if not self.bias.is_meta:  # under torch.device("meta") weights will be assigned
            self._initialize(torch.Generator().manual_seed(seed))

    @classmethod
    def from_config(cls, params: MaskedLMConfig, process: Any, vocabulary: Sequence[str], *, seed: int = 0,
                    symbols: Sequence[str] = (), pretrained: bool = True) -> Self:
        """As the constructor, for a list of words."""
        return cls(params, len(vocabulary), seed, symbols, shift=bool(process.as_recipe.shift))

    def _initialize(self, generator: torch.Generator) -> None:
        initialize(self, self.params.hidden, generator)
        with torch.no_grad():
            # what is fed back or told begins by changing nothing
            for name in ("feedback", "condition_embedding"):
                if hasattr(self, name):
                    getattr(self, name).weight.zero_()

    # ---- where things are ----

    def sites(self) -> dict[Site, list[str]]:
        """embedding: the token table, which a tied head shares. projection: what is neither table nor
        body: the way of the last guess into the body, the layer before the head, an untied head. attention,
        ffn: the body's."""
        outside = {"feedback": self.params.self_conditioning, "transform.0": self.params.transform,
                   "head": not self.params.tied}
        names = NAMES[self.params.body]
        return {"embedding": ["word_embedding"],
                "projection": [name for name, there in outside.items() if there],
                "attention": linear_names(self, {"body"}, names.site("attention")),
                "ffn": linear_names(self, {"body"}, names.site("ffn"))}

    def lora_targets(self) -> dict[str, str]:
        """The body's names."""
        return NAMES[self.params.body].lora

    def token_parameters(self) -> tuple[str, ...]:
        """The table (its last row is MASK), the bias of the head, an untied head."""
        return ("word_embedding.weight", "bias", "head.weight")

    def symbol_parameters(self) -> tuple[str, ...]:
        """The condition's table."""
        return ("condition_embedding.weight",)

    def as_transformers(self) -> tuple[Any, str]:
        """The body with the token table, and with the head where `has_head`: its last state on ids is
        `hidden`, its logits are the model's, both without `shift`."""
        if not has_head(self):
            return with_table(self.body, self.word_embedding.weight), ""
        made = with_head(self)
        return made, f"{made.base_model_prefix}."

    # ---- computing ----

    def table(self) -> Tensor:
        """[V, hidden] rows of the tokens as the model uses them (quantized where the site is); MASK's
        is left out when it stands behind them."""
        return self.word_embedding.weight[:self.vocabulary]

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] ids, MASK among them -> [B, L, hidden]."""
        return self.word_embedding(ids)

    def hidden(self, ids: Tensor, t: Tensor | None = None, previous: Tensor | None = None,
               condition: Tensor | None = None) -> Tensor:
        """The body's last state [B, L, hidden] on rows `ids` [B, L]; the time is not read.

        `previous` [B, L, hidden]: the expected embedding of an earlier guess (`expected`), read where a row
        is masked, by a model with self-conditioning; none: zeros. `condition` [B, K, L]: ids of `symbols`.
        """
        if self.noise is not None:
            self.noise.show(*self.noise_of(ids, t))
        inputs = self.embed(ids)
        # always through the layer, so that every step uses the same parameters
        if self.params.self_conditioning:
            seen = (ids != self.mask_id)[..., None]
            inputs = inputs + self.feedback(torch.zeros_like(inputs) if previous is None
                                            else previous.masked_fill(seen, 0.0))
        if condition is not None:
            inputs = inputs + self.condition_embedding(condition).sum(1)
        hidden = run_body(self.body, inputs)
        return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1) if self.shift else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] states -> [..., V] logits."""
        if self.params.transform:
            hidden = self.transform(hidden)
        logits = F.linear(hidden, self.table() if self.params.tied else self.head.weight, self.bias)
        if self.mask_id < self.vocabulary:
            logits[..., self.mask_id] = -torch.inf
        return logits

    def forward(self, ids: Tensor, at: Tensor | None = None, previous: Tensor | None = None,
                condition: Tensor | None = None) -> Tensor:
        """Logits at the positions asked for: [N, V] for the N positions that `at` [B, L] (bool)
        marks, in row order; [B, L, V] for all of them when there is no `at`. The head is the dear part where
        the vocabulary is large."""
        hidden = self.hidden(ids, None, previous, condition)
        return self.logits(hidden if at is None else hidden[at])

    def noise_of(self, state: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        """The masked share of each row of ids, and where they are masked."""
        masked = state == self.mask_id
        return masked.float().mean(1), masked

    def first_choices(self, state: Tensor, t: Tensor, previous: Tensor | None = None) -> Tensor:
        """Of the head, before seen tokens are taken over."""
        return self.logits(self.hidden(state, t, previous)).argmax(-1)

    def expected(self, probabilities: Tensor) -> Tensor:
        """[..., V] probabilities of tokens -> [..., hidden] their mean embedding."""
        table = self.table()
        return probabilities.to(table.dtype) @ table

    def predict(self, state: Tensor, t: Tensor, previous: Tensor | None = None, temperature: float = 1.0,
                condition: Tensor | None = None) -> Prediction:
        """Of rows [B, L] with MASKs: a seen token is itself (SUBS, MDLM), a masked one is
        as the head says."""
        hidden = self.hidden(state, t, previous, condition)
        masked = state == self.mask_id
        own = F.one_hot(state.masked_fill(masked, 0), self.vocabulary)
        sure = torch.where(own.bool(), 0.0, NEVER)
        guess = torch.log_softmax(self.logits(hidden).float() / temperature, dim=-1)
        log_probs = torch.where(masked[..., None], guess, sure)
        return Prediction(self.expected(probabilities(log_probs)), log_probs, hidden)
