"""The masked language model: a bidirectional transformer that says what stands where a row is masked.

It is not told the time: with masks, the row itself shows how much is hidden, and an absorbing denoiser needs no more
(MDLM, arXiv 2406.07524, section 3.5; LLaDA, arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainable.models.masked_lm.bodies import ATTENTION, FFN, LAYERS, initialize, make_body
from trainable.models.masked_lm.config import MaskedLMParams


class MaskedLM(nn.Module):
    """Token table, body and head. Tokens are 0..V-1; MASK is one more row of the table, V unless said otherwise.

    The head has V outputs. MASK is never an answer: where it lies within the V (a pretrained vocabulary), its logit is
    -inf; where it is the row behind them, it has none.
    """

    def __init__(self, params: MaskedLMParams, vocabulary: int, seed: int = 0, symbols: Sequence[str] = (),
                 mask_id: int | None = None):
        """`vocabulary`: V. `symbols`: what a condition can say; none in a model that is told nothing."""
        super().__init__()
        self.config, self.vocabulary = params, vocabulary
        self.mask_id = vocabulary if mask_id is None else mask_id
        self.body = make_body(params, max(vocabulary, self.mask_id + 1))
        hidden = params.hidden
        if params.transform:
            self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
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
    def empty(cls, params: MaskedLMParams, vocabulary: int, symbols: Sequence[str] = (),
              mask_id: int | None = None) -> MaskedLM:
        """The model without weights, to be given them by `load_state_dict(..., assign=True)`: parameters are on "meta";
        what transformers computes and does not save (positions, rotary frequencies) is there."""
        with torch.device("meta"):
            model = cls(params, vocabulary, symbols=symbols, mask_id=mask_id)
        computed = make_body(params.model_copy(update={"layers": 1}), 1)
        for name, buffer in computed.named_buffers():
            owner, _, leaf = name.rpartition(".")
            setattr(model.body.get_submodule(owner), leaf, buffer)
        return model

    def _initialize(self, generator: torch.Generator) -> None:
        initialize(self, self.config.hidden, generator)
        with torch.no_grad():
            for name in ("feedback", "condition_embedding"):  # what is fed back or told begins by changing nothing
                if hasattr(self, name):
                    getattr(self, name).weight.zero_()

    @property
    def word_embedding(self) -> nn.Module:
        """The token table's module."""
        return self.body.get_input_embeddings()

    def table(self) -> Tensor:
        """[V, hidden] rows of the tokens as the model uses them (quantized where the site is), MASK's left out when it
        stands behind them."""
        return self.word_embedding.weight[:self.vocabulary]

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] ids, MASK among them -> [B, L, hidden]."""
        return self.word_embedding(ids)

    def hidden(self, ids: Tensor, soft: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """The body's last state [B, L, hidden] on rows `ids` [B, L].

        `soft` [B, L, hidden]: the expected embedding of an earlier guess (`expected`), for a model with
        self-conditioning; none: zeros. `condition` [B, K, L]: numbers of symbols, as `symbols` has them.
        """
        inputs = self.embed(ids)
        if self.config.self_conditioning:  # always through the layer, so that every step uses the same parameters
            inputs = inputs + self.feedback(torch.zeros_like(inputs) if soft is None else soft)
        if condition is not None:
            inputs = inputs + self.condition_embedding(condition).sum(1)
        hidden = self.body(inputs_embeds=inputs).last_hidden_state
        return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1) if self.config.shift else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] states -> [..., V] logits."""
        if self.config.transform:
            hidden = self.transform(hidden)
        logits = F.linear(hidden, self.table() if self.config.tied else self.head.weight, self.bias)
        if self.mask_id < self.vocabulary:
            logits[..., self.mask_id] = -torch.inf
        return logits

    def forward(self, ids: Tensor, at: Tensor | None = None, soft: Tensor | None = None,
                condition: Tensor | None = None) -> Tensor:
        """Logits at the positions asked for: [N, V] for the N positions that `at` [B, L] (bool) marks, in row order;
        [B, L, V] for all of them when there is no `at`. The head is the dear part where the vocabulary is large."""
        hidden = self.hidden(ids, soft, condition)
        return self.logits(hidden if at is None else hidden[at])

    def expected(self, probabilities: Tensor) -> Tensor:
        """[..., V] probabilities of tokens -> [..., hidden] their mean embedding."""
        table = self.table()
        return probabilities.to(table.dtype) @ table

    # ---- where things are ----

    def sites(self) -> dict[str, list[str]]:
        """Role -> names of the modules whose weights play it. The tied head is the embedding's."""
        kind = self.config.body
        layers = [f"body.{LAYERS[kind]}.{i}" for i in range(self.config.layers)]
        table = next(name for name, module in self.named_modules() if module is self.word_embedding)
        return {
            "embedding": [table],
            "projection": ["feedback"] if self.config.self_conditioning else [],
            "attention": [f"{layer}.{leaf}" for layer in layers for leaf in ATTENTION[kind].values()],
            "ffn": [f"{layer}.{leaf}" for layer in layers for leaf in FFN[kind]],
            "head": (["transform.0"] if self.config.transform else []) + ([] if self.config.tied else ["head"]),
        }

    def lora_targets(self) -> dict[str, list[str]]:
        """Role of a matrix -> module names: those of attention by their role (query, key, value or, in ModernBERT, qkv;
        output) and `ffn`."""
        kind = self.config.body
        layers = [f"body.{LAYERS[kind]}.{i}" for i in range(self.config.layers)]
        roles = {role: [f"{layer}.{leaf}" for layer in layers] for role, leaf in ATTENTION[kind].items()}
        return {**roles, "ffn": self.sites()["ffn"]}

    def token_parameters(self) -> list[str]:
        """Names of parameters whose first dimension is the vocabulary: what changes with the words."""
        table = self.sites()["embedding"][0]
        return [f"{table}.weight", "bias", *([] if self.config.tied else ["head.weight"])]
