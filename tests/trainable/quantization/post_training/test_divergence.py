"""Distances between a base and its quantized model: KL, flips, stability lag, error over the steps."""

import math

import pytest
import torch

from trainable.quantization.post_training.divergence import (
    argmax_flips,
    commit_flips,
    error_by_step,
    mismatch_by_step,
    stability_lag,
    token_kl,
)


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


class TestTokenKl:
    def test_it_is_the_definition(self):
        base, other = logits(3, 5, 11), logits(3, 5, 11, seed=1)
        p, q = base.double().softmax(-1), other.double().softmax(-1)
        assert torch.allclose(token_kl(base, other), (p * (p / q).log()).sum(-1), rtol=1e-10)

    def test_positions_are_picked_in_order(self):
        base, other = logits(3, 5, 11), logits(3, 5, 11, seed=1)
        masked = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.5
        assert torch.equal(token_kl(base, other, masked), token_kl(base, other)[masked])

    def test_the_same_model_is_at_zero_and_shifts_do_not_count(self):
        base = logits(4, 7)
        assert (token_kl(base, base) == 0).all()
        assert (token_kl(base, base + 3.0) < 1e-10).all()
        assert (token_kl(base, logits(4, 7, seed=3)) > 0).all()

    def test_tokens_that_both_rule_out_do_not_count(self):
        base, other = logits(4, 7), logits(4, 7, seed=1)
        base[:, -1], other[:, -1] = -torch.inf, -torch.inf
        assert torch.allclose(token_kl(base, other), token_kl(base[:, :-1], other[:, :-1]))
        other[0, 0] = -torch.inf
        assert token_kl(base, other)[0] == math.inf
        base[0, 0] = -1e4  # a probability that underflows to 0 is none
        assert math.isfinite(token_kl(base, other)[0])
        assert math.isnan(token_kl(base * torch.nan, other)[0])  # and a model that gives no numbers shows

    def test_tiny_distances_are_seen(self):
        base = logits(1, 7)
        other = base.clone()
        other[0, 2] += 1e-4
        p = float(base.double().softmax(-1)[0, 2])
        assert float(token_kl(base, other)) == pytest.approx(p * (1 - p) * 1e-8 / 2, rel=2e-2)

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="logits of shape"):
            token_kl(logits(3, 5), logits(3, 6))


def test_flips_are_counted_where_asked():
    base, other = logits(2, 4, 6), logits(2, 4, 6)
    other[0, 1] = -other[0, 1]
    other[1, 3] = -other[1, 3]
    assert argmax_flips(base, other) == 2 / 8
    only = torch.zeros(2, 4, dtype=torch.bool)
    only[0, :2] = True
    assert argmax_flips(base, other, only) == 1 / 2
    assert math.isnan(argmax_flips(base, other, torch.zeros(2, 4, dtype=torch.bool)))
    tokens = base.argmax(-1)
    assert commit_flips(other, tokens, only) == 1 / 2 and commit_flips(base, tokens, only) == 0
    tokens[0, 0] = (tokens[0, 0] + 1) % 6  # sampled, not the most probable: the quantized model differs
    assert commit_flips(base, tokens, only) == 1 / 2


class TestStabilityLag:
    def test_a_worked_example(self):
        """One text of five positions over five steps; final tokens 1 2 3 4 5, commits at 0, 1, given, 2,
        4."""
        final, committed = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 1, -1, 2, 4]])
        predicted = torch.tensor([[[1, 9, 9, 9, 9]], [[1, 9, 9, 9, 9]], [[9, 2, 9, 9, 9]], [[9, 2, 9, 9, 9]],
                                  [[1, 2, 9, 9, 9]]])
        found = stability_lag(predicted, committed, final)
        # Position 0 doubts at steps 2 and 3 and is sure at 4; position 1 never doubts after step 1; position
        # 3 always does; the given position and the commit of the last step do not count.
        assert found.steps.tolist() == [3, 0, 2]
        assert found.disagree.tolist() == [2 / 4, 0.0, 1.0]
        assert found.never == pytest.approx(1 / 3)

    def test_predictions_before_the_commit_do_not_matter(self):
        generator = torch.Generator().manual_seed(0)
        predicted = torch.randint(4, (6, 3, 8), generator=generator)
        final = torch.randint(4, (3, 8), generator=generator)
        committed = torch.randint(-1, 6, (3, 8), generator=generator)
        before = torch.arange(6)[:, None, None] <= committed
        first = stability_lag(predicted, committed, final)
        second = stability_lag(torch.where(before, 99, predicted), committed, final)
        assert torch.equal(first.steps, second.steps) and torch.equal(first.disagree, second.disagree)

    def test_nothing_committed_gives_nothing(self):
        found = stability_lag(torch.zeros(3, 1, 4).long(), torch.full((1, 4), -1), torch.zeros(1, 4).long())
        assert found.steps.numel() == 0 and found.never == 0.0


def test_errors_are_those_of_each_step():
    base = logits(4, 3, 5)
    other = base.clone()
    for step in range(4):
        other[step] += step * 0.1
    found = error_by_step(base, other)
    expected = [float(15 * (step * 0.1) ** 2 / base[step].double().square().sum()) for step in range(4)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5) and found[0] == 0
    ids, changed = torch.zeros(3, 2, 4, dtype=torch.long), torch.zeros(3, 2, 4, dtype=torch.long)
    changed[1, 0, 0] = changed[2, :, :2] = 1
    assert mismatch_by_step(ids, changed).tolist() == [0.0, 1 / 8, 1 / 2]
