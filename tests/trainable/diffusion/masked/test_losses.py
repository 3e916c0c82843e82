"""Recipes of masked diffusion against their formulas written out again, and the golden cases."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from masked_models import random_rows as rows
from masked_models import sentences, tiny

from spaces.errors import UserError
from trainable.corpora.tokenized import START
from trainable.diffusion.masked.config import RECIPES, LossNorm, MaskedConfig
from trainable.diffusion.masked.corruption import State, exact_mask, lowest, maskable
from trainable.diffusion.masked.losses import cart_weights, masked_loss, normalize, token_weights
from trainable.diffusion.masked.process import Masked
from trainable.diffusion.masked.schedule import Schedule


def state_of(ids, masked, t, mask_id=20):
    return State(torch.where(masked, mask_id, ids), masked, t)


def test_uniform_weight_on_a_fixed_mask_is_the_plain_masked_lm_loss_bit_for_bit():
    model, ids = tiny(), rows()
    masked = exact_mask(torch.full((6,), 3), maskable(ids), torch.Generator().manual_seed(0))
    params = MaskedConfig(recipe="uniform")
    state, free = state_of(ids, masked, torch.full((6,), 0.4)), maskable(ids)
    weights = normalize(token_weights(state, free, params, Schedule()), masked, free, "masked")
    ours = masked_loss(model, ids, state, weights)["loss"]
    logits = model(state.ids, at=masked)
    each = F.cross_entropy(logits, ids[masked], reduction="none")
    assert torch.equal(ours, (each * (torch.ones(18) / 18)).sum())
    labels = ids.masked_fill(~masked, -100)
    plain = F.cross_entropy(model(state.ids).flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(ours.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)


def written_out(recipe, ids, masked, t, nll):
    """The loss of each published program in float64, from its own description. M tokens of a row
    can be masked."""
    batch, total = len(ids), ids.shape[1] - 1
    nll = nll * masked
    if recipe == "mdlm":  # 1/t, divided by all tokens
        return (nll / t[:, None]).sum() / (batch * total)
    if recipe == "llada":  # 1/p_mask, divided by each row's length, mean over rows
        return (nll / t[:, None] / total).sum() / batch
    if recipe == "dllm":
        return (nll / (t[:, None] + 1e-6)).sum() / (batch * total)
    if recipe == "uniform":
        return nll.sum() / masked.sum()
    weights = torch.zeros_like(nll)
    for b in range(batch):
        for i in range(ids.shape[1]):
            for j in range(ids.shape[1]):
                if masked[b, i] and not masked[b, j]:
                    weights[b, i] += 0.5 * 0.3 * 0.7 ** (abs(i - j) - 1)
    return (nll * weights).sum() / (batch * total)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_recipe_is_the_sum_that_its_program_computes(recipe):
    model, ids = tiny(shift=recipe == "dream"), rows()
    process = Masked(MaskedConfig(recipe=recipe))
    parts = process.loss(model, ids, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)  # the same draws again
    if RECIPES[recipe].times == "antithetic":
        u = (torch.rand((), generator=g) + torch.arange(6) / 6) % 1
    else:
        u = torch.rand(6, generator=g)
    t = 0.999 * u + 0.001
    masked = (torch.rand(ids.shape, generator=g) < t[:, None]) & (torch.arange(9) > 0)
    logits = model(torch.where(masked, 20, ids)).double()
    nll = -logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    assert float(parts["loss"].detach()) == pytest.approx(
        float(written_out(recipe, ids, masked, t.double(), nll).detach()), rel=1e-5)
    assert float(parts["ce"]) == pytest.approx(float((nll * masked).sum().detach() / masked.sum()), rel=1e-5)


def test_cart_says_nothing_of_a_row_without_seen_tokens_and_divides_by_counts():
    masked = torch.tensor([[True] * 5, [False, True, True, True, False]])
    weights = cart_weights(masked)
    assert (weights[0] == 0).all()
    near, middle = 0.15 * (1 + 0.7**2), 0.15 * 2 * 0.7
    assert weights[1].tolist() == pytest.approx([0, near, middle, near, 0])
    model, ids = tiny(shift=True), rows(2, 5)
    params = MaskedConfig(recipe="dream")
    everything = state_of(ids, maskable(ids), torch.ones(2))
    hidden_start = State(torch.full_like(ids, 20), torch.ones_like(masked), torch.ones(2))
    for state in (everything, hidden_start):
        weights = normalize(token_weights(state, state.masked, params, Schedule()), state.masked,
                            state.masked, "token")
        assert math.isfinite(float(masked_loss(model, ids, state, weights)["loss"].detach()))


def test_row_mean_is_the_bound_of_exact_counts():
    """With k of M masked exactly, the weight M/k is the mean over the masked ones: `row_mean` and
    `nelbo` are one."""
    model, ids = tiny(), rows()
    losses = [Masked(MaskedConfig(recipe="llada", masking="exact", loss_weight=weight))
              .loss(model, ids, torch.Generator().manual_seed(2))["loss"].detach()
              for weight in ("nelbo", "row_mean")]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)


@pytest.mark.parametrize("masking", ["bernoulli", "exact"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bounds_weight_gives_the_true_entropy_under_every_schedule(masking, schedule):
    """For a model that knows the law of its rows, the loss of a row is -log p of it, whatever path
    of shares is taken."""
    law = sentences(12, 6, 4)
    chosen = torch.multinomial(law.chances, 40_000, replacement=True,
                               generator=torch.Generator().manual_seed(1))
    process = Masked(MaskedConfig(recipe="mdlm", masking=masking, schedule=schedule, loss_norm="batch",
                                  epsilon=1e-4))
    found = float(process.loss(law, law.rows[chosen], torch.Generator().manual_seed(0))["loss"])
    entropy = float(-(law.chances * law.chances.log()).sum())
    assert found == pytest.approx(entropy, rel=0.03)


def test_masks_have_exact_counts_and_leave_start_and_prompt():
    ids = rows()
    ids[:, :3] = torch.tensor([7, 8, START])
    free = maskable(ids)
    assert free.tolist() == [[False] * 3 + [True] * 6] * 6
    assert maskable(torch.tensor([[5, 6]])).all()  # a row without START: all of it
    counts = torch.tensor([0, 1, 2, 5, 6, 9])
    masked = exact_mask(counts, free, torch.Generator().manual_seed(0))
    assert masked.sum(1).tolist() == [0, 1, 2, 5, 6, 6] and not (masked & ~free).any()
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0]])
    assert (lowest(scores, torch.tensor([2]), torch.ones(1, 4, dtype=torch.bool)).tolist()
            == [[False, True, False, True]])
    process = Masked(MaskedConfig(masking="exact"))
    state = process.state(tiny(), ids, torch.full((6,), 0.5), torch.Generator().manual_seed(0))
    assert state.masked.sum(1).tolist() == [3] * 6 and ((state.ids == 20) == state.masked).all()
    for level, hidden in ((0, 0), (50, 3), (99, 6)):
        corrupted = process.corrupt(tiny(), ids, torch.full((6,), level), torch.Generator().manual_seed(0))
        assert ((corrupted == 20).sum(1) == hidden).all()


def test_a_recipe_refuses_a_backbone_with_other_logits():
    with pytest.raises(UserError, match="diffusion.recipe dream needs model.shift: true"):
        Masked(MaskedConfig(recipe="dream")).loss(tiny(), rows(), torch.Generator())
    with pytest.raises(UserError, match="mdlm needs model.shift: false"):
        Masked(MaskedConfig(recipe="mdlm")).loss(tiny(shift=True), rows(), torch.Generator())


def test_self_conditioning_sees_its_first_guess_in_half_of_the_batches():
    model, ids = tiny(self_conditioning=True), rows()
    with torch.no_grad():
        model.feedback.weight.copy_(torch.eye(16))
    passes = []
    model.body.register_forward_hook(lambda *_: passes.append(1))
    process, generator = Masked(MaskedConfig()), torch.Generator().manual_seed(0)
    for _ in range(60):
        parts = process.loss(model, ids, generator)
    assert 75 <= len(passes) <= 105
    parts["loss"].backward()
    # DDP wants every parameter used in each step
    assert all(value.grad is not None for value in model.parameters())


def test_with_everything_masked_training_finds_the_entropy_of_words():
    """Independent words: the best that can be known of a row of masks is the frequency of each word."""
    chances = torch.tensor([0.4, 0.3, 0.2, 0.1])
    ids = 4 + torch.multinomial(chances, 200 * 8, True,
                                generator=torch.Generator().manual_seed(0)).view(200, 8)
    ids[:, 0] = START
    model = tiny(8).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    masked = maskable(ids)
    state = state_of(ids, masked, torch.ones(200), 8)
    weights = normalize(token_weights(state, masked, MaskedConfig(recipe="mdlm"), Schedule()), masked,
                        masked, "token")
    for _ in range(60):
        loss = masked_loss(model, ids, state, weights)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = float(-(chances * chances.log()).sum())
    assert float(loss.detach()) == pytest.approx(entropy, rel=0.02)


@pytest.mark.parametrize("norm", get_args(LossNorm))
def test_a_process_says_whether_a_word_counts_more_among_fewer(norm):
    def share(length):
        everything = torch.ones(2, length)
        return normalize(everything, everything.bool(), everything.bool(), norm)[0, 0]

    process = Masked(MaskedConfig(loss_norm=norm))
    assert process.averages == bool(share(4) > share(8))
