"""Words of one pass drawn jointly, against enumeration of all rows."""

from itertools import product

import pytest
import torch
from masked_models import Joint, build, drawing, tiny

from trainable.corpora.tokenized import END, START
from trainable.diffusion.masked.chains import Chains
from trainable.diffusion.masked.couplings import SMOOTHING, Couplings
from trainable.diffusion.masked.looking import plain
from trainable.diffusion.masked.samplers.base import Answer

LENGTH, WORDS = 4, 3
ROWS = torch.tensor(list(product(range(WORDS), repeat=LENGTH)))


def chains(batch=1, seed=0):
    """The same chain `batch` times. The last candidate of the first position is none."""
    generator = torch.Generator().manual_seed(seed)
    own, pair = (2 * torch.randn(*shape, generator=generator)
                 for shape in ((1, LENGTH, WORDS), (1, LENGTH - 1, WORDS, WORDS)))
    own[0, 0, -1] = -torch.inf
    return own.expand(batch, -1, -1), pair.expand(batch, -1, -1, -1)


def law(own, pair):
    """[81] probability of each of `ROWS`, from the definition."""
    total = sum(own[j][ROWS[:, j]] for j in range(LENGTH))
    return (total + sum(pair[j][ROWS[:, j], ROWS[:, j + 1]] for j in range(LENGTH - 1))).double().softmax(0)


def test_rows_are_drawn_by_the_joint_law():
    n, (own, pair) = 20_000, chains()
    u = torch.rand(n, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = Chains(*chains(n)).draw(u)
    share = (drawn[:, None] == ROWS).all(2).double().mean(0)
    wanted = law(own[0], pair[0])
    assert float((share - wanted).abs().sum()) / 2 < 0.02 and not share[wanted == 0].any()


def test_marginals_are_sums_over_all_rows():
    own, pair = chains()
    wanted = law(own[0], pair[0])
    found = torch.stack([torch.zeros(WORDS).double().index_add(0, ROWS[:, j], wanted) for j in range(LENGTH)])
    assert torch.allclose(Chains(own, pair).marginals()[0], found, atol=1e-6)


def test_messages_are_exact_where_everything_is_steep():
    """A long row of pairs that forbid all but one candidate, against what candidates themselves prefer."""
    own = torch.full((1, 60, 3), -70.0)
    own[..., 0] = 0
    pair = torch.full((1, 59, 3, 3), -80.0)
    pair[..., 1, 1] = 80
    one = Chains(own, pair)
    assert torch.allclose(one.marginals()[0, :, 1], torch.ones(60).double())
    assert one.draw(torch.full((1, 60), 0.999).double()).tolist() == [[1] * 60]


def pairs_of_words():
    """Rows START v w x END of which v goes with w, and w with x: a sentence and another, word by word."""
    rows = torch.tensor([[START, 4, 6, 8, END], [START, 5, 7, 9, END], [START, 4, 6, 9, END]])
    return Joint(rows, torch.tensor([0.45, 0.45, 0.1]), 10)


def test_the_model_is_asked_once_for_what_words_have_to_do_with_each_other():
    model = pairs_of_words()
    blank = torch.full((5,), model.mask_id)
    found = Couplings(lambda ids: plain(model, ids), blank, reach=9)
    assert found.reach == 3 and found.places.tolist() == [1]
    left, right = torch.tensor([[4, 5]]), torch.tensor([[6, 7, 8]])
    # (chance of the second word when told, when not) of each pair
    for distance, expected in ((1, [[(1, 0.55), (0, 0.45), (0, 0)], [(0, 0.55), (1, 0.45), (0, 0)]]),
                               (2, [[(0, 0), (0, 0), (0.45 / 0.55, 0.45)], [(0, 0), (0, 0), (0, 0.45)]]),
                               (0, [[(1, 1)] * 3] * 2), (4, [[(1, 1)] * 3] * 2)):
        told, untold = (torch.tensor(expected) + SMOOTHING).unbind(-1)
        ratio = found.between(left, right, torch.tensor([distance])).exp()
        assert torch.allclose(ratio[0], (told / untold).to(ratio), rtol=1e-4, atol=1e-4)
    asked = model.asked
    found.between(left, right, torch.tensor([1]))
    assert model.asked == asked == 1 + 2  # the blank row, and one for each word
    found.between(torch.tensor([[5, 9]]), right, torch.tensor([1]))
    assert model.asked == asked + 1


@torch.no_grad()
def test_couplings_pool_what_is_said_at_several_places():
    model, length = tiny(), 12
    blank = torch.full((length,), model.mask_id)
    blank[0] = START
    found = Couplings(lambda ids: plain(model, ids), blank, reach=2)
    places, alone = found.places.tolist(), plain(model, blank[None])[0].exp() + SMOOTHING
    assert len(places) == 4 and 0 < places[0] and places[-1] + 2 < length
    v, w, distance = 7, 9, 2
    together = apart = 0.0
    for place in places:
        row = blank.clone()
        row[place] = v
        told = plain(model, row[None])[0, place + distance, w].exp() + SMOOTHING
        together += float((alone[place, v] - SMOOTHING) * told)
        apart += float((alone[place, v] - SMOOTHING) * alone[place + distance, w])
    ratio = found.between(torch.tensor([[v]]), torch.tensor([[w]]), torch.tensor([distance])).exp()
    assert float(ratio) == pytest.approx(together / apart, rel=1e-4)


def answered(sampler, log_probs, at, temperature, model=None, number=1):
    """What a sampler proposes for posteriors [B, L, V] of rows of which nothing is known."""
    model = model or tiny()
    blank = torch.full((at.shape[1],), model.mask_id)
    blank[0] = START
    return sampler.propose(Answer(log_probs[at], at, torch.arange(len(at)) * 977, number, temperature,
                                  lambda ids: plain(model, ids), blank))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_pass_draws_posteriors_times_couplings(temperature):
    """At positions 3, 4 and 6, of which only the first two are neighbors, among three tokens each."""
    n, model = 20_000, tiny()
    log_probs = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    at = torch.zeros(1, 12, dtype=torch.bool)
    at[0, [3, 4, 6]] = True
    sampler = build("chain", candidates=3, reach=1)
    found = answered(sampler, log_probs.expand(n, -1, -1), at.expand(n, -1), temperature, model)
    drawn = found.values.view(n, 3)
    tokens = log_probs[0, [3, 4, 6]].topk(3).indices.sort(1).values
    pair = sampler._couplings.between(tokens[0], tokens[1], torch.tensor(1))
    rows = torch.cartesian_prod(*(torch.arange(3),) * 3)
    total = sum(log_probs[0, place, tokens[j][rows[:, j]]] for j, place in enumerate((3, 4, 6)))
    joint = total + pair[rows[:, 0], rows[:, 1]]
    wanted = (joint / temperature).double().softmax(0)
    share = (drawn[:, None] == torch.stack([tokens[j][rows[:, j]] for j in range(3)], 1)).all(2)
    assert float((share.double().mean(0) - wanted).abs().sum()) / 2 < 0.02
    # how sure the law is has no temperature
    first = torch.zeros(3).double().index_add(0, rows[:, 0], joint.double().softmax(0))
    assert torch.allclose(found.sureness.view(n, 3)[:, 0].double(),
                          first[(drawn[:, :1] == tokens[0]).int().argmax(1)], atol=1e-5)
    assert torch.allclose(found.scores.view(n, 3)[:, 0].double(), -torch.special.entr(first).sum().expand(n),
                          atol=1e-5)


def test_words_of_one_pass_fit_each_other():
    """Two passes: one for END and one for three words, which are two sentences put together where words
    are drawn one by one."""
    model = pairs_of_words()

    def wrong(name, **params):
        found = drawing(model, name, 2, **params).sample(400, 5, torch.Generator().manual_seed(0))
        return float(1 - (found[:, None] == model.rows).all(2).any(1).double().mean())
    assert wrong("quota") > 0.4 and wrong("chain", ends="drawn") < 0.02
    assert all(wrong("chain", ends="drawn", **more) < 0.02 for more in ({"top_p": 0.9}, {"candidates": 2}))


def test_a_nucleus_leaves_out_what_is_unlikely():
    log_probs = torch.tensor([0.6, 0.3, 0.1]).log().expand(500, 2, 3).contiguous()
    at = torch.tensor([[False, True]]).expand(500, 2)
    model = tiny(3)
    for top_p, tokens in ((0.6, {0}), (0.7, {0, 1}), (1.0, {0, 1, 2})):
        found = answered(build("chain", top_p=top_p), log_probs, at, 1.0, model).values
        assert set(found.tolist()) == tokens
    assert set(answered(build("chain"), log_probs, at, 0.0, model).values.tolist()) <= {0, 1}


def test_what_is_asked_once_is_shared_and_not_counted():
    model = tiny()
    sampling = drawing(model, "chain", 6)
    fresh = sampling.traced(12)
    sampling.sample(50, 12, torch.Generator().manual_seed(0))
    again = sampling.traced(12)
    assert fresh.flops == again.flops and torch.equal(fresh.passes, again.passes)
    told = tiny(symbols=("a",))
    sampling = drawing(told, "chain", 6)
    assert sampling.under(torch.zeros(4, 1, 12, dtype=torch.long), 0.0).sampler is sampling.sampler
