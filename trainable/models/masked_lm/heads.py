"""The head of a masked LM as transformers' own classes have it, so that they give its logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from trainable.models.masked_lm.bodies import usual
from trainable.models.masked_lm.config import HEAD_EPS

if TYPE_CHECKING:
    from trainable.models.masked_lm.backbone import MaskedLM

NEVER = -1e4
"""Log-probability of what a token is not: finite, so that losses of a whole row stay finite."""
HEADS: Mapping[str, Mapping[str, str]] = {
    "bert": {"transform.0": "cls.predictions.transform.dense",
             "transform.2": "cls.predictions.transform.LayerNorm", "bias": "cls.predictions.bias"},
    "modernbert": {"transform.0": "head.dense", "transform.2": "head.norm", "bias": "decoder.bias"},
    "llama": {"head": "lm_head"},
}
"""By body: our name of a part behind it -> that of transformers' class."""


def has_head(model: MaskedLM) -> bool:
    """Whether the class of transformers for the body has a head that says the same: BERT's and ModernBERT's
    have a transform, whose norm adds what the body's norms add; Llama's has neither that nor a bias."""
    params = model.params
    if params.body == "llama":
        return not params.transform and not bool(model.bias.any())
    return params.transform and (params.norm_eps or HEAD_EPS) == usual(params, "norm_eps")


@torch.no_grad()
def with_head(model: MaskedLM) -> Any:
    """The transformers model for masked or causal LM of the body's class, in the model's dtype; only where
    `has_head`. It has a row for MASK, whose logit is `NEVER` where there is a bias."""
    params, table, count = model.params, model.word_embedding.weight, model.vocabulary
    config: Any = copy.deepcopy(model.body.config)
    config.vocab_size, config.tie_word_embeddings = len(table), params.tied
    if params.body == "modernbert":
        # released ones have no biases here; with them all norms have one, 0 in the body
        config.classifier_bias = bool(model.get_parameter("transform.0.bias").any())
        config.norm_bias = bool(model.get_parameter("transform.2.bias").any())
    with torch.random.fork_rng(devices=[]):
        made = _class_of(config)(config).to(table.dtype).eval()
    made.base_model.load_state_dict(model.body.state_dict(), strict=False)
    made.get_input_embeddings().weight.copy_(table)
    head = made.get_output_embeddings()
    if not params.tied:
        head.weight.zero_()[:count] = model.head.weight
    if head.bias is not None:
        head.bias.fill_(NEVER)[:count] = model.bias
        head.bias[model.mask_id] = NEVER
    if params.transform:
        for part in ("transform.0", "transform.2"):
            own = model.get_submodule(part).state_dict()
            theirs = made.get_submodule(HEADS[params.body][part])
            theirs.load_state_dict({name: own[name] for name in theirs.state_dict()})
    return made


def _class_of(config: Any) -> Any:
    import transformers

    names = {"bert": "BertForMaskedLM", "modernbert": "ModernBertForMaskedLM", "llama": "LlamaForCausalLM",
             "qwen2": "Qwen2ForCausalLM"}
    return getattr(transformers, names[config.model_type])
