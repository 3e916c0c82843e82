"""Controllers of syntactic tasks: counts against brute force, heads that learn, and accuracy
by noise level."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spaces.config import PluginRef, SamplingConfig
from trainable.control import controllers
from trainable.control.accuracy import ranking_accuracy
from trainable.control.base import TaskContext
from trainable.control.heads import Annotated, fit, trunk
from trainable.control.oracles.base import Reading
from trainable.control.syntax import EDGE, INDEX, TAGS, PhraseBatch, Syntax
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import TASKS

START, END, UNK, PAD = range(4)
WORDS = ["the", "a", "pub", "inn", "is", "has", "cheap", "old"]
VOCAB = ["START", "END", "UNK", "PAD", *WORDS]
TAG = {"the": "DET", "a": "DET", "pub": "NOUN", "inn": "NOUN", "is": "AUX", "has": "VERB", "cheap": "ADJ",
       "old": "ADJ"}
LENGTH = 9


class ToyOracle:
    """Tags by a dictionary; a DET with the NOUN behind it, adjectives between, is an NP."""

    name, full_name, sample = "toy", "toy", 400

    def read(self, words):
        tags = tuple(TAG.get(word, "X") for word in words)
        spans = []
        for i, j in itertools.combinations(range(len(tags)), 2):
            if tags[i] == "DET" and tags[j] == "NOUN" and all(tag == "ADJ" for tag in tags[i + 1:j]):
                spans.append((i, j, "NP"))
        return Reading(tags, tuple(spans), True)


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    pick = lambda *words: words[rng.integers(len(words))]  # noqa: E731
    phrase = lambda: [pick("the", "a"), *([pick("cheap", "old")] if rng.random() < 0.5 else []),  # noqa: E731
                      pick("pub", "inn")]
    return [[*phrase(), *(["is", pick("cheap", "old")] if rng.random() < 0.5 else ["has", *phrase()])]
            for _ in range(n)]


def corpus_of(rows):
    ids = np.full((len(rows), LENGTH), PAD, dtype=np.int32)
    for place, row in zip(ids, rows, strict=True):
        place[:len(row) + 2] = [START, *(VOCAB.index(word) for word in row), END]
    def encode(words):
        return [VOCAB.index(word) if word in VOCAB else UNK for word in words]

    return SimpleNamespace(
        vocab=VOCAB, stats={"corpus": "toy"}, tokens=None, encode=encode, word_ids=encode,
        ids=lambda split: ids, lengths=lambda split: np.array([len(row) for row in rows]),
        decode=lambda row: [VOCAB[i]
                            for i in itertools.takewhile(lambda i: i != END, row) if i not in (START, PAD)],
        rows=lambda split, indices: [{"text": " ".join(rows[i])} for i in indices])


CORPUS = corpus_of(texts(300))
SYNTAX = Syntax.count(CORPUS, ToyOracle())


# ---- counts ----

def test_tags_by_word_are_shares():
    table = SYNTAX.tag_given_word
    assert table.sum(1).tolist() == pytest.approx([1, 1, 0 if table[UNK].sum() == 0 else 1, 0, *[1] * 8])
    assert all(table[VOCAB.index(word), INDEX[tag]] == 1 for word, tag in TAG.items())
    assert table[START, INDEX[EDGE]] == table[END, INDEX[EDGE]] == 1


def test_words_that_stand_with_two_tags_share_them():
    class Undecided(ToyOracle):
        def read(self, words):
            found = super().read(words)
            return found._replace(tags=tuple("VERB" if word == "is" and "old" in words else tag
                                             for word, tag in zip(words, found.tags, strict=True)))
    shares = Syntax.count(CORPUS, Undecided()).tag_given_word[VOCAB.index("is")]
    rows = [row for row in texts(300) if "is" in row]
    assert shares[INDEX["VERB"]] == pytest.approx(sum("old" in row for row in rows) / len(rows))


def test_tag_probabilities_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2, 4, len(VOCAB), generator=generator, dtype=torch.float64).log_softmax(-1)
    found, p = SYNTAX.log_tags(log_probs).exp(), log_probs.exp()
    for b, i, tag in itertools.product(range(2), range(4), ("DET", "NOUN", "ADJ")):
        expected = sum(p[b, i, VOCAB.index(word)] for word in WORDS if TAG[word] == tag)
        assert found[b, i, INDEX[tag]] == pytest.approx(float(expected), rel=1e-6)


def test_phrase_probability_by_brute_force():
    """p(NP over words 0..1) = sum over tag rows with both neighbors of their probability times the share
    that were NPs."""
    generator = torch.Generator().manual_seed(1)
    log_tags = torch.randn(1, LENGTH, len(TAGS), generator=generator, dtype=torch.float64).log_softmax(-1)
    found = PhraseBatch(SYNTAX, [[(0, 1, "NP")]], torch.device("cpu")).log_prob(log_tags)
    seen, hits = {}, {}
    for row in texts(300):
        tags = (EDGE, *(TAG[word] for word in row), EDGE)
        spans = ToyOracle().read(row).spans
        for i in range(len(row) - 1):
            window = tags[i:i + 4]
            seen[window] = seen.get(window, 0) + 1
            hits[window] = hits.get(window, 0) + ((i, i + 1, "NP") in spans)
    total = sum(hits[w] / seen[w] * np.prod([float(log_tags[0, k, INDEX[tag]].exp())
                                             for k, tag in enumerate(w)])
                for w in seen if hits[w])
    assert found.exp().item() == pytest.approx(total, rel=1e-6)


def test_phrases_that_text_never_shows_are_left_out():
    wanted = PhraseBatch(SYNTAX, [[(0, 5, "NP")], [(0, 1, "VP"), (2, 3, "NP")]], torch.device("cpu"))
    assert wanted.count == 1 and wanted.sentences.tolist() == [1]


def test_several_spans_are_scored_as_each_alone():
    log_tags = torch.randn(3, LENGTH, len(TAGS), generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    spans = [[(0, 1, "NP"), (3, 5, "NP")], [], [(3, 4, "NP")]]
    together = PhraseBatch(SYNTAX, spans, torch.device("cpu"))
    alone = [PhraseBatch(SYNTAX, [[span]], torch.device("cpu")).log_prob(log_tags[b:b + 1]).item()
             for b, row in enumerate(spans) for span in row]
    assert together.log_prob(log_tags).tolist() == pytest.approx(alone, rel=1e-5)
    assert together.sentences.tolist() == [0, 0, 2]


# ---- heads ----

@pytest.fixture(scope="module")
def model():
    shape = DiffusionLMConfig(embedding_dim=8, hidden=24, layers=1, heads=2, ffn=32, time_dim=8,
                              positions=LENGTH, dropout=0.0, normalize_embeddings=True)
    return DiffusionLM(shape, GaussianConfig(timesteps=50, loss="ce"), VOCAB, seed=0)


PROCESS = Gaussian(GaussianConfig(timesteps=50, loss="ce"))


@pytest.fixture(scope="module")
def heads(model):
    return fit(model, PROCESS, Annotated(CORPUS, ToyOracle()), steps=150)


def test_heads_learn_tags_and_spans_of_clear_latents(model, heads):
    fresh = corpus_of(texts(64, seed=9))
    data = Annotated(fresh, ToyOracle())
    hidden = trunk(model, PROCESS, data.ids, torch.zeros(64, dtype=torch.long),
                   torch.Generator().manual_seed(0), False)
    used = data.tags != -100
    assert (heads.log_tags(hidden).argmax(-1) == data.tags)[used].double().mean() > 0.95
    sentence, first, last, truth = data.targets(torch.arange(64), heads.labels)
    said = heads.spans(hidden, sentence, first, last) > 0
    assert (said == truth.bool()).double().mean() > 0.97
    assert said[truth.bool()].double().mean() > 0.8


def test_fitting_leaves_the_model_alone_and_is_repeatable(model, heads):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    again = fit(model, PROCESS, Annotated(CORPUS, ToyOracle()), steps=150)
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["pos", "spans", "tree"])
def test_a_trained_controller_reaches_the_latent_through_the_denoiser(model, name, monkeypatch):
    monkeypatch.setattr(controllers, "fit", functools.partial(fit, steps=10))
    task = TASKS.build(PluginRef(name=name, controller="trained", oracle="textblob"))
    context = TaskContext(CORPUS, {}, model, PROCESS)
    task.prepare(context)
    targets = task.targets(CORPUS, 4, torch.Generator().manual_seed(0))
    x = torch.randn(4, LENGTH, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    loss = task.loss(model.predict(x, torch.full((4,), 20)), targets, CORPUS)
    gradient, = torch.autograd.grad(loss.sum(), x)
    assert loss.shape == (4,) and (loss > 0).all() and gradient.abs().sum((1, 2)).min() > 0
    other = TASKS.build(PluginRef(name="pos", controller="trained", oracle="textblob"))
    other.prepare(context)
    assert other.heads is task.heads  # one fit serves all tasks of a measurement


# ---- accuracy by noise level ----

def test_ranking_is_sure_of_clear_latents_and_blind_in_noise(model):
    """A denoiser that takes a latent for its nearest word: at t = 0 it sees everything,
    at the end nothing."""
    table = model.table().detach()

    def nearest(x, t, x0_prev):
        distance = ((x[:, :, None] - table) ** 2).sum(-1)
        from trainable.models.prediction import Prediction
        return Prediction(x, torch.log_softmax(-distance, -1))

    process = PROCESS.sampling(model, SamplingConfig(steps=10))
    process.predict = nearest
    task = TASKS.build(PluginRef(name="length", tolerance=0))
    targets = task.targets(CORPUS, 150, torch.Generator().manual_seed(0))
    clear, blind = ranking_accuracy(task, process, CORPUS, targets, [0, 49], torch.Generator().manual_seed(0))
    assert clear > 0.97 and 0.35 < blind < 0.65
