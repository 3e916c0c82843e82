"""The masked LM: what its logits depend on, where they are computed, how it starts."""

import pytest
import torch
from masked_models import random_rows, tiny
from pydantic import ValidationError

from trainable.diffusion.masked.config import MaskedConfig
from trainable.models.masked_lm.backbone import NEVER, MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig

BODIES = ("bert", "modernbert", "llama")
EXTRAS = dict(tied=False, transform=True, self_conditioning=True)


def hidden_rows(count=3, length=9):
    ids = random_rows(count, length)
    ids[:, 2:6:2] = 20
    return ids


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("extras", [{}, EXTRAS])
def test_every_position_sees_both_sides_and_rows_do_not_see_each_other(body, extras):
    """Attention modules of transformers may keep `is_causal`; what counts is the mask, so the
    logits are asked."""
    model, ids = tiny(body=body, **extras), hidden_rows()
    changed = ids.clone()
    changed[0, -1], changed[0, 1] = 9, 10
    before, after = model(ids).detach(), model(changed).detach()
    assert (before[0] - after[0]).abs().amax(1).min() > 1e-4
    assert torch.allclose(before[1:], after[1:], atol=1e-6)
    assert torch.allclose(model(ids[[2, 0, 1]]), before[[2, 0, 1]], atol=1e-5)


@pytest.mark.parametrize("body", BODIES)
def test_logits_are_computed_where_they_are_asked_for(body):
    model, ids = tiny(body=body), hidden_rows()
    at = ids == 20
    rows = []
    model.register_forward_hook(lambda module, inputs, output: rows.append(output.shape))
    few, everything = model(ids, at), model(ids)
    assert rows == [(int(at.sum()), 20), (3, 9, 20)] and torch.allclose(few, everything[at], atol=1e-5)


def test_shifted_logits_come_from_the_state_to_the_left():
    plain, shifted = tiny(), tiny(shift=True)
    shifted.load_state_dict(plain.state_dict())
    ids, words = hidden_rows(), ["w"] * 20
    dream = MaskedConfig(recipe="dream")
    assert MaskedLM.from_config(plain.params, dream, words).shift and not MaskedLM(plain.params, 20).shift
    assert not MaskedLM.from_config(MaskedLMConfig(shift=False, layers=1), dream, words).shift
    assert (torch.equal(shifted(ids)[:, 1:], plain(ids)[:, :-1])
            and torch.equal(shifted(ids)[:, 0], plain(ids)[:, 0]))


def test_mask_is_never_an_answer():
    behind, within = tiny(20), MaskedLM(tiny().params, 20, mask_id=6).eval()
    assert behind.word_embedding.weight.shape[0] == 21 and behind(hidden_rows()).shape[-1] == 20
    assert within.word_embedding.weight.shape[0] == 20
    logits = within(random_rows())
    assert (logits[..., 6] == -torch.inf).all() and torch.isfinite(logits[..., :6]).all()


def test_a_prediction_copies_what_is_seen():
    model, ids = tiny(), hidden_rows()
    with torch.no_grad():
        said, cold = (model.predict(ids, torch.zeros(3), temperature=value) for value in (1.0, 0.1))
    seen = ids != 20
    log_probs = said.log_probs
    assert (log_probs[seen].argmax(-1) == ids[seen]).all() and float(log_probs[seen].min()) == NEVER
    assert torch.allclose(log_probs[~seen], model(ids, ~seen).log_softmax(-1), atol=1e-5)
    assert torch.allclose(said.x0[seen], model.embed(ids)[seen], atol=1e-5)
    assert torch.allclose(said.x0[~seen], log_probs[~seen].exp() @ model.table(), atol=1e-5)
    assert float(cold.log_probs[~seen].max(-1).values.min()) > float(log_probs[~seen].max(-1).values.min())


def test_a_guess_is_read_where_a_row_is_masked_and_starts_by_changing_nothing():
    model, ids = tiny(self_conditioning=True), hidden_rows()
    guess = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(ids), model(ids, previous=guess))
    with torch.no_grad():
        model.feedback.weight.copy_(torch.eye(16))
    other = torch.where((ids == 20)[..., None], guess, -5.0)
    assert not torch.allclose(model(ids), model(ids, previous=guess))
    assert torch.equal(model(ids, previous=other), model(ids, previous=guess))


def test_a_condition_adds_to_what_is_read_and_starts_by_saying_nothing():
    model, ids = tiny(symbols=("a", "b")), hidden_rows()
    told = torch.full((3, 1, 9), 2)
    assert model.symbols == {"a": 1, "b": 2} and torch.equal(model(ids), model(ids, condition=told))
    with torch.no_grad():
        model.condition_embedding.weight[2] = 1.0
    assert not torch.equal(model(ids), model(ids, condition=told))
    assert torch.equal(model(ids), model(ids, condition=torch.zeros_like(told)))


def test_a_narrow_body_starts_with_the_scale_of_a_wide_one():
    """The spread of activations of the first layer does not depend on the width: N(0, 0.02) would
    give 4 times less."""
    spreads = []
    for hidden in (48, 768):
        model = MaskedLM(MaskedLMConfig(hidden=hidden, layers=1, heads=4, ffn=64, positions=16), 50, seed=3)
        inside = model.body.encoder.layer[0].intermediate.dense(torch.nn.functional.layer_norm(
            torch.randn(200, hidden, generator=torch.Generator().manual_seed(0)), (hidden,)))
        spreads.append(float(inside.std().detach()))
    assert (spreads[0] == pytest.approx(spreads[1], rel=0.1)
            and spreads[1] == pytest.approx(0.02 * 768**0.5, rel=0.1))


def test_the_size_is_that_of_the_parts():
    model = MaskedLM(MaskedLMConfig(hidden=64, layers=2, heads=4, ffn=256, positions=32), 824)
    layer = 4 * (64 * 64 + 64) + 2 * 64 * 256 + 256 + 64 + 4 * 64
    assert sum(p.numel() for p in model.parameters()) == 825 * 64 + 824 + (32 + 1) * 64 + 2 * 64 + 2 * layer


@pytest.mark.parametrize(("settings", "message"), [
    ({"hidden": 10, "heads": 4}, "hidden=10 is not a multiple of heads=4"),
    ({"body": "llama", "hidden": 12, "heads": 4}, "even hidden / heads"),
    ({"kv_heads": 2}, "is for body llama"), ({"body": "llama", "kv_heads": 5}, "must divide heads=12"),
    ({"body": "llama", "dropout": 0.1}, "no dropout"), ({"body": "gpt"}, "bert"),
])
def test_a_shape_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        MaskedLMConfig(**settings)
