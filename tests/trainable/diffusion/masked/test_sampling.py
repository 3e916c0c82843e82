"""Generation: laws, prompts, guides, and rows that do not depend on their neighbors."""

import pytest
import torch
from guides import Tokens
from masked_models import Joint, drawing, random_rows, sentences, tiny

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.masked import layout, looking
from trainable.diffusion.masked.proposing import draw, propose
from trainable.registry import MASKED_SAMPLERS

SETTINGS = [(name, {"ends": ends, **more}) for name in MASKED_SAMPLERS
            for ends in ("drawn", "joined", "ordered", "free")
            for more in ({}, {"block": 6}) if name != "remdm" or not more]


def generated(model, name="quota", n=24, length=12, steps=8, seed=0, told=None, scale=0.0, params=None,
              **kwargs):
    """Samples of one call; `params` are the sampler's."""
    sampling = drawing(model, name, steps, **(params or {}))
    sampling = sampling if told is None else sampling.under(told, scale)
    return sampling.generate(n, length, torch.Generator().manual_seed(seed), **kwargs)


def total_variation(found, law):
    share = (found[:, None] == law.rows).all(2).double().mean(0)
    return float((share - law.chances).abs().sum() + 1 - share.sum()) / 2


@pytest.mark.parametrize("ends", ["drawn", "free"])
@pytest.mark.parametrize("name, params",
                         [("ancestral", {}), ("quota", {"order": "random"}), ("quota", {"order": "entropy"}),
                          ("quota", {"order": "margin"}), ("entropy_bound", {"bound": 0.0}),
                          ("quota", {"order": "random", "block": 2})])
def test_one_token_a_pass_samples_the_law_of_the_model(name, params, ends):
    """Whatever the order, as long as it does not look at what was drawn. Ancestral steps are many,
    so that few coincide."""
    law = sentences(9, 6, 3)
    steps = 80 if name == "ancestral" else 99
    found = generated(law, name, params={"ends": ends, **params}, n=3000, length=6, steps=steps)
    assert total_variation(found.ids, law) < 0.04


@pytest.mark.parametrize("name, params", SETTINGS)
def test_rows_are_whole_and_do_not_depend_on_the_batch(name, params):
    model = tiny()
    whole = generated(model, name, params=params)
    assert layout.well_formed(whole.ids).all() and (whole.passes >= 1).all()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for part in (order, order[:5], torch.tensor([7])):
        again = generated(model, name, params=params, n=len(part), rows=part)
        assert torch.equal(again.ids, whole.ids[part]) and torch.equal(again.passes, whole.passes[part])
    assert len({tuple(row) for row in whole.ids.tolist()}) > 12
    assert not torch.equal(generated(model, name, params=params, seed=1).ids, whole.ids)


@pytest.mark.parametrize("name, params", [each for each in SETTINGS if each[1]["ends"] == "ordered"])
def test_guided_rows_do_not_depend_on_the_batch_either(name, params):
    """Told something each, beyond what they are told, and weighed each in its own way."""
    model = tiny(symbols=("a", "b"))
    with torch.no_grad():
        model.condition_embedding.weight[1:].normal_(std=2, generator=torch.Generator().manual_seed(0))
    told = torch.arange(24).remainder(3)[:, None, None].expand(24, 1, 12)
    weights = torch.randn(24, 12, 20, generator=torch.Generator().manual_seed(2))

    def text(part):
        guide = Tokens(lambda log_probs, state: log_probs + weights[part][state.rows])
        return generated(model, name, params=params, n=len(part), told=told[part], scale=1.5, guide=guide,
                         rows=part)
    whole = text(torch.arange(24))
    assert (whole.passes % 2 == 0).all() and layout.well_formed(whole.ids).all()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for part in (order, order[:5], torch.tensor([7])):
        again = text(part)
        assert torch.equal(again.ids, whole.ids[part]) and torch.equal(again.passes, whole.passes[part])


@pytest.mark.parametrize("name, params", SETTINGS)
def test_what_a_prompt_holds_is_kept_bit_for_bit(name, params):
    model, free = tiny(), -1
    prompt = torch.full((40, 12), free)
    prompt[:, 0] = START
    prompt[:10, 3:5] = torch.tensor([7, 8])  # words in the middle
    prompt[10:20, 8], prompt[10:20, 2] = END, 9  # a given length
    prompt[20:30, 9] = PAD  # a greatest length
    prompt[30:] = random_rows(10, 12)
    prompt[30:35, 1:4] = free  # a gap
    found = generated(model, name, params=params, n=40, prompt=prompt)
    given = prompt != free
    assert torch.equal(found.ids[given], prompt[given]) and layout.well_formed(found.ids).all()
    assert (found.ids[10:20, 9:] == PAD).all() and (found.ids[10:20, 1:8] != PAD).all()
    assert found.passes[35:].tolist() == [0] * 5  # nothing to fill in


def test_rows_that_are_finished_leave_the_batch():
    law = sentences(12, 6, 4)
    found = generated(law, params={"order": "random"}, n=200, length=6, steps=99)
    assert law.asked == int(found.passes.sum()) < 200 * int(found.passes.max())


def test_ancestral_steps_in_which_nothing_is_filled_cost_no_pass():
    found = generated(tiny(), "ancestral", steps=200)
    words = (found.ids >= 4).sum(1) + (found.ids == 2).sum(1)
    assert (found.passes <= words + 1).all()


def test_blocks_are_filled_from_left_to_right_and_one_block_is_none():
    model, seen = tiny(), []

    def watch(log_probs, state):
        seen.append(state)
        return log_probs
    generated(model, params={"order": "random", "block": 3, "ends": "free"}, guide=Tokens(watch))
    for state in seen:
        first = state.masked.int().argmax(1)
        behind = torch.arange(12) >= ((first // 3 + 1) * 3)[:, None]
        filled = behind & ~state.masked & ~layout.is_mark(state.ids)
        assert not filled.any()
    for name in ("ancestral", "quota", "threshold"):
        plain, one = (generated(model, name, params={"block": block, "ends": "free"}) for block in (None, 12))
        assert torch.equal(plain.ids, one.ids)
    with pytest.raises(
            UserError,
            match=r"block: 5 does not divide rows of 12 positions; what does: \[1, 2, 3, 4, 6, 12\]"):
        generated(model, params={"block": 5})


def test_no_more_passes_than_steps():
    for name in MASKED_SAMPLERS:
        found = generated(tiny(), name, steps=5, n=60)
        assert int(found.passes.max()) <= 5


def test_a_guide_that_changes_nothing_equals_plain_sampling_and_sees_sure_tokens():
    model = tiny()
    for name in MASKED_SAMPLERS:
        def same(log_probs, state):
            seen = ~state.masked
            assert log_probs.shape == (*state.ids.shape, 20)
            assert (log_probs[seen].gather(1, state.ids[seen][:, None]) == 0).all()
            assert (log_probs[seen].exp().sum(1) == 1).all() and len(state.rows) == len(state.ids)
            assert torch.allclose(log_probs[state.masked].exp().sum(1), torch.ones(int(state.masked.sum())),
                                  atol=1e-5)
            return log_probs
        assert torch.equal(generated(model, name).ids, generated(model, name, guide=Tokens(same)).ids)


def test_a_guide_reweights_and_knows_which_rows_it_sees():
    model, wanted = tiny(), torch.arange(24) % 2 == 0

    def only_five(log_probs, state):
        words = torch.full_like(log_probs, -torch.inf)
        words[..., [END, PAD, 5]] = 0.0
        return torch.where(wanted[state.rows][:, None, None], log_probs + words, log_probs)
    found = generated(model, guide=Tokens(only_five)).ids
    words = found >= 4
    assert (found[wanted][words[wanted]] == 5).all() and (found[~wanted][words[~wanted]] != 5).any()
    with pytest.raises(ValueError, match="all tokens of a position were forbidden"):
        generated(model, guide=Tokens(lambda log_probs, state: log_probs - torch.inf))


def test_guidance_without_a_classifier_is_a_power_of_told_over_untold():
    model = tiny(symbols=("a", "b"))
    with torch.no_grad():
        model.condition_embedding.weight[1:].normal_(std=2, generator=torch.Generator().manual_seed(0))
    told = torch.full((24, 1, 12), 1)
    plain, one = generated(model), generated(model, told=told)
    assert not torch.equal(plain.ids, one.ids)
    untold = generated(model, told=torch.zeros_like(told))
    assert torch.equal(untold.ids, plain.ids) and torch.equal(untold.passes, plain.passes)
    far = generated(model, told=told, scale=1.5)
    assert not torch.equal(far.ids, one.ids) and (far.passes % 2 == 0).all()
    ids = random_rows(3, 12)
    at = torch.zeros(3, 12, dtype=torch.bool)
    at[:, 4] = True
    rows = looking.Rows(ids, at, ~at, *(torch.arange(3) for _ in range(4)), at.float(), torch.arange(3),
                        None, told[:3])
    conditional, free = (model(ids, at, condition=c).log_softmax(-1) for c in (told[:3], None))
    for scale in (0.0, 1.0, 2.5):
        expected = conditional.exp() ** (1 + scale) / free.exp() ** scale
        found = looking._posterior(model, rows, at, scale).exp()
        assert torch.allclose(found, expected / expected.sum(1, keepdim=True), atol=1e-5)


def test_temperature_changes_what_is_drawn_and_not_how_sure_the_model_is():
    log_probs = torch.tensor([0.6, 0.3, 0.1]).log().expand(30_000, 3)
    u = torch.rand(30_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.bincount(draw(log_probs, u, 0.5), minlength=3) / 30_000
    assert torch.allclose(share, torch.tensor([0.36, 0.09, 0.01]) / 0.46, atol=0.01)
    assert (draw(log_probs, u, 0.0) == 0).all()
    assert (draw(log_probs, u, 1.0, top_p=0.6) == 0).all() and (draw(log_probs, u, 1.0, top_p=0.7) < 2).all()
    never = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    for value in (0.0, 1 - 2**-53):
        assert draw(never, torch.full((2,), value, dtype=torch.float64)).tolist() == [0, 1]
    found = propose(log_probs[:5], u[:5], 0.01, 1.0, "confidence")
    assert torch.allclose(found.scores, torch.full((5,), 0.6))
    entropy = -(torch.tensor([0.6, 0.3, 0.1]) * torch.tensor([0.6, 0.3, 0.1]).log()).sum()
    assert torch.allclose(propose(log_probs[:5], u[:5], 0.01, 1.0, "entropy").scores, -entropy.expand(5))
    assert torch.allclose(propose(log_probs[:5], u[:5], 0.01, 1.0, "margin").scores, torch.full((5,), 0.3))


def test_draws_are_the_same_in_chunks(monkeypatch):
    log_probs = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    u = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = propose(log_probs, u, 0.7, 0.9, "margin")
    monkeypatch.setattr("trainable.diffusion.masked.proposing.CHUNK", 21)
    assert all(torch.equal(a, b)
               for a, b in zip(whole, propose(log_probs, u, 0.7, 0.9, "margin"), strict=True))


def test_self_conditioning_feeds_the_last_guess():
    model = tiny(self_conditioning=True)
    with torch.no_grad():
        model.feedback.weight.copy_(torch.eye(16) * 2)
    fed = []
    model.feedback.register_forward_hook(lambda module, inputs, output: fed.append(float(
        inputs[0].detach().abs().sum())))
    generated(model, params={"order": "random"}, steps=4)
    assert fed[0] == 0 and all(value > 0 for value in fed[1:])


def test_rows_of_another_form_are_sampled_without_marks():
    law = Joint(torch.tensor([[4, 5, 6], [5, 5, 5]]), torch.tensor([0.25, 0.75]), 8)
    found = drawing(law, order="random", structured=False).sample(3000, 3, torch.Generator().manual_seed(0))
    assert total_variation(found, law) < 0.03


def test_what_cannot_be_written_is_refused_in_one_line():
    sampling = drawing(tiny())
    with pytest.raises(UserError, match="99 positions asked for; the model has 24"):
        sampling.sample(1, 99, torch.Generator())
    with pytest.raises(UserError, match="a prompt of 13 tokens is longer than the 12 positions"):
        sampling.sample(1, 12, torch.Generator(), prompt=torch.zeros(13, dtype=torch.long))
    with pytest.raises(UserError, match="row 1 of the prompt keeps"):
        sampling.sample(2, 4, torch.Generator(),
                        prompt=torch.tensor([[START, -1, -1, -1], [START, END, 7, -1]]))


def test_a_short_prompt_is_continued_and_the_mode_restored():
    model = tiny(dropout=0.5).train()
    found = drawing(model).sample(5, 12, torch.Generator().manual_seed(0), prompt=torch.tensor([START, 7, 8]))
    assert model.training and found[:, :3].tolist() == [[START, 7, 8]] * 5 and layout.well_formed(found).all()


def test_operations_are_those_of_the_passes_that_a_text_takes():
    """Of rows that are whole but for one position: one pass of the body, and one row of the head."""
    model = tiny()
    few, many = (drawing(model, "quota", steps).traced(12).flops for steps in (2, 12))
    # one layer: six matrices, two attention products
    body = 2 * 12 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 12 * 12 * 16
    assert body * 2 < few < body * 2 + 2 * 12 * 2 * 16 * 20 + 1 and few * 2 < many < few * 6


def test_the_pass_that_draws_end_fills_the_first_words_too():
    """Where it is asked to: END is the same, and a pass is saved."""
    model = tiny()
    drawn, joined = (generated(model, params={"ends": ends}, n=60, steps=99) for ends in ("drawn", "joined"))
    words = (drawn.ids >= 4).sum(1) + (drawn.ids == 2).sum(1)
    assert torch.equal((drawn.ids == END).int().argmax(1), (joined.ids == END).int().argmax(1))
    assert torch.equal(drawn.passes, words + 1) and torch.equal(joined.passes, words.clamp(min=1))
    assert not torch.equal(drawn.ids, joined.ids)


@pytest.mark.parametrize("ends", ["drawn", "joined"])
def test_a_row_whose_end_is_given_takes_as_many_passes_beside_one_whose_end_is_not(ends):
    model = tiny()
    prompt = torch.full((2, 12), -1)
    prompt[0, 10] = END
    both = generated(model, params={"ends": ends}, n=2, prompt=prompt, steps=4)
    alone = generated(model, params={"ends": ends}, n=1, prompt=prompt[:1], steps=4)
    assert torch.equal(both.ids[:1], alone.ids) and torch.equal(both.passes[:1], alone.passes)
