"""The encoder is BERT's: names, numbers, gradients and dropout of transformers' own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from trainable.models.diffusion_lm.encoder import Encoder

SHAPES = {"tiny": (8, 1, 2, 16), "one head": (16, 2, 1, 8), "deep": (32, 4, 4, 128)}


def pair(shape, dropout=0.1):
    """Our encoder and transformers', each as its constructor draws it from the same seed."""
    hidden, layers, heads, ffn = SHAPES[shape]
    torch.manual_seed(3)
    ours = Encoder(hidden=hidden, layers=layers, heads=heads, ffn=ffn, dropout=dropout)
    torch.manual_seed(3)
    theirs = BertEncoder(BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ffn,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, attn_implementation="sdpa"))
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_have_the_names_the_order_and_the_start_of_berts(shape):
    ours, theirs = (list(model.named_parameters()) for model in pair(shape))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_gradients_are_berts_to_the_bit(shape, training):
    """In training the same dropout is drawn from the same seed."""
    found = []
    for model in pair(shape):
        model.train(training)
        x = torch.randn(3, 7, SHAPES[shape][0], generator=torch.Generator().manual_seed(0))
        x.requires_grad_()
        torch.manual_seed(5)
        state = model(x)
        state = state if torch.is_tensor(state) else state.last_hidden_state
        state.square().sum().backward()
        found.append([state, x.grad, *(value.grad for value in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_in_bfloat16_too():
    ours, theirs = (model.bfloat16().eval() for model in pair("deep"))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(ours(x), theirs(x).last_hidden_state)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="9 channels do not split into 2 heads"):
        Encoder(hidden=9, layers=1, heads=2, ffn=8)


def test_it_was_compared_with_transformers_5():
    assert transformers.__version__.startswith("5."), "read BertEncoder of this version again"


LARGE = ("transformers", "peft", "accelerate", "scipy", "sympy", "pandas", "datasets", "ray", "optuna",
         "torch._dynamo", "spacy", "nltk", "sklearn")


def test_jobs_import_none_of_the_large_libraries_before_they_need_them():
    """In a process of its own."""
    program = ("import sys, trainable.models.masked_lm.backbone, "
               f"trainable.workers.jobs; print(*[name for name in {LARGE} if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert found.stdout.split() == []
