"""What every control task owes: targets of held-out text that human text reaches, and a loss
that leads there."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from control_corpora import CORPORA, LENGTH

from spaces.config import GuidanceConfig, PluginRef
from spaces.errors import UserError
from trainable.control.base import TaskContext, TaskParams
from trainable.control.lexicon import Lexicon
from trainable.metrics.controllability import human_words, mean_scores
from trainable.models.prediction import Prediction
from trainable.registry import TASKS


@pytest.fixture(params=CORPORA)
def corpus(request):
    return CORPORA[request.param]


def task_of(name, corpus=None, **params):
    """A task, prepared on a corpus where one is given."""
    task = TASKS.build(PluginRef(name=name, **params))
    if corpus is not None:
        task.prepare(TaskContext(corpus, CACHES.setdefault(corpus.stats["corpus"], {})))
    return task


CACHES: dict = {}


def drawn(task, corpus, n=12, seed=0):
    return task.targets(corpus, n, torch.Generator().manual_seed(seed))


def random_prediction(batch, corpus, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, LENGTH, len(corpus.vocab), generator=generator, dtype=torch.float64) * 2
    return Prediction(torch.zeros(batch, LENGTH, 2), logits.log_softmax(-1).requires_grad_(True))


def certain(ids, corpus, confidence=0.999):
    """A posterior that is nearly sure of `ids` [L]."""
    ids, size = torch.tensor(ids.astype(np.int64))[None], len(corpus.vocab)
    p = torch.full((*ids.shape, size), (1 - confidence) / (size - 1), dtype=torch.float64)
    return Prediction(torch.zeros(1), p.scatter(-1, ids[..., None], confidence).log())


@pytest.mark.parametrize("name", list(TASKS))
class TestEveryTask:
    def test_targets_are_json_and_follow_the_generator_alone(self, name, corpus):
        task = task_of(name)
        assert drawn(task, corpus) == drawn(task, corpus) != drawn(task, corpus, seed=1)
        assert len(drawn(task, corpus)) == 12
        assert json.loads(json.dumps(drawn(task, corpus))) == drawn(task, corpus)

    def test_a_target_is_said_in_words(self, name, corpus):
        task = task_of(name)
        targets = drawn(task, corpus)
        said = [task.said(target) for target in targets]
        assert all(text and not set(text) & set('[]{}"=') for text in said)
        asked = [{key: value for key, value in target.items() if key != "row"} for target in targets]
        assert len(set(said)) == len({json.dumps(target) for target in asked})

    def test_a_lower_rung_asks_for_the_first_of_the_same_targets(self, name, corpus):
        task = task_of(name)
        assert drawn(task, corpus, n=5) == drawn(task, corpus)[:5]

    def test_human_text_scores_100_percent_under_the_same_oracle(self, name, corpus):
        task = task_of(name)
        targets = drawn(task, corpus, n=40)
        assert mean_scores(task, *human_words(corpus, targets))["success"] == 1.0
        assert all(task.score([], target)["success"] == 0.0 for target in targets)

    def test_unknown_words_never_help(self, name, corpus):
        """The text itself, with more and more of its words as UNK: no better than before, and
        nothing once all are."""
        task, noise = task_of(name), np.random.default_rng(0)
        for target in drawn(task, corpus, n=10):
            words = corpus.decode(corpus.ids("valid")[target["row"]])
            before = task.score(words, target)["success"]
            order = noise.permutation(len(words))
            for count in (1, len(words) // 2, len(words)):
                hidden = ["UNK" if i in order[:count] else word for i, word in enumerate(words)]
                after = task.score(hidden, target)["success"]
                assert after <= before
            assert after == 0.0
            if name == "infill":
                gap = ["UNK"] * len(target["reference"])
                found = task.score([*target["left"], *gap, *target["right"]], {**target, "reference": gap})
                assert found["kept"] == 1.0 and found["success"] == found["bleu4"] == 0.0

    def test_scores_are_shares_and_the_oracle_has_a_name(self, name, corpus):
        task = task_of(name)
        targets = drawn(task, corpus, n=20)
        others = [corpus.decode(corpus.ids("valid")[row]) for row in range(20)]
        for words, target in itertools.product(others, targets[:4]):
            assert 0 <= task.score(words, target)["success"] <= 1
        assert all(task.oracle(target) and " " not in task.oracle(target) for target in targets)

    def test_loss_is_one_differentiable_number_per_sentence(self, name, corpus):
        task = task_of(name, corpus)
        prediction = random_prediction(12, corpus)
        loss = task.loss(prediction, drawn(task, corpus), corpus)
        gradient, = torch.autograd.grad(loss.sum(), prediction.log_probs)
        assert loss.shape == (12,) and torch.isfinite(loss).all() and (loss >= 0).all()
        assert torch.isfinite(gradient).all() and sum(gradient[b].abs().sum() > 0 for b in range(12)) >= 9

    def test_each_sentence_has_a_loss_of_its_own(self, name, corpus):
        task = task_of(name, corpus)
        targets, prediction = drawn(task, corpus, 4), random_prediction(4, corpus)
        together = task.loss(prediction, targets, corpus)
        alone = [task.loss(Prediction(prediction.x0[b:b + 1], prediction.log_probs[b:b + 1]),
                           targets[b:b + 1], corpus)
                 for b in range(4)]
        assert together.tolist() == pytest.approx([value.item() for value in alone])

    def test_loss_is_lower_for_the_text_itself_than_for_texts_that_fail(self, name, corpus):
        task, ids = task_of(name, corpus), corpus.ids("valid")
        won = lost = 0
        for target in drawn(task, corpus, seed=3):
            own = task.loss(certain(ids[target["row"]], corpus), [target], corpus).item()
            for row in range(20):
                if task.score(corpus.decode(ids[row]), target)["success"] < 0.5:
                    other = task.loss(certain(ids[row], corpus), [target], corpus).item()
                    won, lost = won + (other > own + 0.2), lost + (other <= own)
        assert won >= 20 * lost and won > 20

    def test_a_lexicon_serves_in_place_of_the_corpus_in_the_loss(self, name, corpus):
        task = task_of(name, corpus)
        targets, prediction = drawn(task, corpus, 3), random_prediction(3, corpus)
        there, here = (task.loss(prediction, targets, face) for face in (corpus, Lexicon.of(corpus)))
        assert torch.equal(there, here)

    def test_the_code_tells_targets_apart(self, name, corpus):
        task = task_of(name)
        targets = [{key: value for key, value in target.items() if key != "row"}
                   for target in drawn(task, corpus, 30)]
        coded = {json.dumps(target, sort_keys=True): tuple(task.code(target)) for target in targets}
        assert all(code and all(isinstance(symbol, str) and symbol for symbol in code)
                   for code in coded.values())
        # these hold more than is asked for: phrases, the reference
        if name not in ("semantic", "infill", "compose"):
            assert len(set(coded.values())) == len(coded)

    def test_own_guidance_settings_win(self, name):
        task, given = task_of(name, strength=0.7, inner_steps=0), GuidanceConfig(strength=0.1, fluency=0.5)
        assert task.guidance(given) == GuidanceConfig(strength=0.7, fluency=0.5, inner_steps=0)
        assert issubclass(type(task).Params, TaskParams) and type(task).__doc__

    def test_a_missing_target_file_is_one_line(self, name, corpus, tmp_path):
        task = task_of(name, targets=str(tmp_path / "none.json"))
        for act in (lambda: task.check(LENGTH), lambda: drawn(task, corpus)):
            with pytest.raises(UserError, match="none.json: cannot be read") as error:
                act()
            assert "\n" not in str(error.value)

    def test_text_that_gives_no_target_is_told(self, name, corpus):
        empty = SimpleNamespace(**{**vars(corpus), "lengths": lambda split: np.array([], dtype=int)})
        with pytest.raises(UserError, match=f"control task '{name}'"):
            drawn(task_of(name), empty)
