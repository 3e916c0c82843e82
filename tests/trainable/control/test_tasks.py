"""Control tasks: losses against brute force, scores by hand, targets from held-out text, and what
people may write."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.control.length import word_log_prob
from trainable.control.lexicon import Lexicon, contains
from trainable.control.parsing import parse_control
from trainable.control.semantic import log_alive
from trainable.models.prediction import Prediction
from trainable.registry import TASKS

START, END, UNK, PAD = range(4)
ROWS = [
    ("The Mill serves Italian food".split(),
     {"name": "The Mill", "food": "Italian", "family friendly": "yes"}),
    ("The Mill is by the riverside , it is not for families".split(),
     {"name": "The Mill", "family friendly": "no"}),
    ("Aroma is a coffee shop".split(), {"name": "Aroma", "Type": "coffee shop"}),
    ("Aroma sells fast food".split(), {"name": "Aroma", "food": "fast food"}),
]


def corpus_of(rows=ROWS, kind="e2e", length=16, words=None):
    """The face of `TokenizedCorpus` that control looks at; train and valid are the same rows."""
    words = words or sorted({word for sentence, _ in rows for word in sentence})
    vocab = ["START", "END", "UNK", "PAD", *words]
    index = {word: i for i, word in enumerate(vocab)}
    encode = lambda sentence: [index.get(word, UNK) for word in sentence]  # noqa: E731
    ids = np.full((len(rows), length), PAD, dtype=np.int32)
    for row, (sentence, _) in zip(ids, rows, strict=True):
        row[:len(sentence) + 2] = [START, *encode(sentence), END]
    return SimpleNamespace(
        vocab=vocab, tokens=None, encode=encode, stats={"corpus": kind}, ids=lambda split: ids,
        lengths=lambda split: np.array([len(sentence) for sentence, _ in rows]),
        rows=lambda split, indices: [{"text": " ".join(rows[i][0]), "fields": rows[i][1]} for i in indices],
        decode=lambda row: [vocab[i] for i in itertools.takewhile(lambda i: i != END, row[1:])])


def task_of(name, **params):
    return TASKS.build(PluginRef(name=name, **params))


def random_prediction(batch, length, vocabulary, seed=0, dtype=torch.float64):
    logits = torch.randn(batch, length, vocabulary, generator=torch.Generator().manual_seed(seed),
                         dtype=dtype) * 2
    return Prediction(torch.zeros(batch, length, 2), logits.log_softmax(-1).requires_grad_(True))


def certain(ids, vocabulary, confidence=0.999):
    """A posterior that is nearly sure of `ids` [B, L]."""
    ids = torch.tensor(ids)
    p = torch.full((*ids.shape, vocabulary), (1 - confidence) / (vocabulary - 1), dtype=torch.float64)
    return Prediction(torch.zeros(1), p.scatter(-1, ids[..., None], confidence).log())


# ---- length ----

def test_length_loss_by_hand():
    prediction = random_prediction(2, 7, 9)
    p = prediction.log_probs.detach().exp().numpy()
    loss = task_of("length").loss(prediction, [{"length": 3}, {"length": 5}], None)
    for b, length in enumerate((3, 5)):
        word = 1 - p[b, :, START] - p[b, :, END] - p[b, :, PAD] - p[b, :, UNK]
        expected = -math.log(p[b, length + 1, END]) - np.log(word[1:length + 1]).mean()
        assert loss[b].item() == pytest.approx(expected)


def test_word_log_prob_stays_finite_where_one_minus_p_would_not():
    logits = torch.zeros(1, 1, 6)
    logits[0, 0, END] = 60.0
    words, inside = torch.tensor([0.0] * 4 + [1.0] * 2), torch.tensor([[True]])
    value = word_log_prob(Prediction(None, logits.log_softmax(-1)), words, inside)
    assert value.item() == pytest.approx(math.log(2) - 60, rel=1e-5)


def test_length_that_does_not_fit_is_a_bug():
    with pytest.raises(ValueError, match="7 positions"):
        task_of("length").loss(random_prediction(1, 7, 9), [{"length": 6}], None)


@pytest.mark.parametrize(("count", "success", "exact"),
                         [(10, 1, 1), (12, 1, 0), (8, 1, 0), (13, 0, 0), (7, 0, 0), (0, 0, 0)])
def test_length_score_by_hand(count, success, exact):
    score = task_of("length").score(["word"] * count, {"length": 10})
    assert (score["success"], score["exact"], score["off"]) == (success, exact, abs(count - 10))


def test_length_tolerance_is_a_parameter():
    assert task_of("length", tolerance=0).score(["word"] * 9, {"length": 10})["success"] == 0.0


def test_lengths_come_from_the_held_out_text():
    targets = task_of("length").targets(corpus_of(), 200, torch.Generator().manual_seed(0))
    assert {target["length"] for target in targets} == {len(sentence) for sentence, _ in ROWS}


# ---- semantic ----

def expected_occurrences(p, phrase, position_of_end=END):
    """Brute force over all sentences of independent positions: mean number of times `phrase`
    stands before END."""
    length, total = p.shape[0], 0.0
    for ids in itertools.product(range(p.shape[1]), repeat=length - 2):
        probability = np.prod([p[1 + i, word] for i, word in enumerate(ids)])
        alive = list(itertools.takewhile(lambda word: word != position_of_end, ids))
        hits = sum(alive[i:i + len(phrase)] == phrase for i in range(len(alive) - len(phrase) + 1))
        total += probability * hits
    return total


@pytest.mark.parametrize("phrase", [["a"], ["a", "b"], ["b", "b", "a"]])
def test_semantic_loss_against_brute_force(phrase):
    prediction = random_prediction(1, 6, 6, seed=5)
    encode = lambda words: [{"a": 4, "b": 5}[word] for word in words]  # noqa: E731
    target = {"phrases": [phrase]}
    loss = task_of("semantic").loss(prediction, [target], SimpleNamespace(encode=encode)).item()
    p = prediction.log_probs.detach().exp()[0].numpy()
    exact = -math.log(expected_occurrences(p, encode(phrase)))
    assert loss == pytest.approx(exact, rel=1e-6)


def test_phrases_add_up_and_a_sure_phrase_asks_for_nothing_more():
    encode = lambda words: [{"a": 4, "b": 5, "c": 6}[word] for word in words]  # noqa: E731
    face, task = SimpleNamespace(encode=encode), task_of("semantic")
    prediction = random_prediction(1, 6, 7, seed=1)
    count = lambda *phrases: math.exp(  # noqa: E731
        -task.loss(prediction, [{"phrases": list(phrases)}], face).item())
    assert count(["a", "b"], ["c", "c"]) == pytest.approx(count(["a", "b"]) + count(["c", "c"]))
    twice = certain([[START, 4, 4, END, PAD, PAD]], 7)
    assert task.loss(twice, [{"phrases": [["a"]]}], face).item() == 0.0


def test_a_phrase_after_the_end_does_not_count():
    encode = lambda words: [4 for _ in words]  # noqa: E731
    face, target = SimpleNamespace(encode=encode), [{"phrases": [["a"]]}]
    inside, outside = certain([[START, 4, END, 5, 5, PAD]], 6), certain([[START, 5, END, 4, 4, PAD]], 6)
    task = task_of("semantic")
    assert task.loss(inside, target, face).item() < 0.01 < 5 < task.loss(outside, target, face).item()


def test_log_alive_is_finite_where_end_is_certain():
    log_probs = certain([[START, END, END, END]], 6, confidence=1.0).log_probs
    assert log_alive(log_probs)[0].tolist() == pytest.approx([0, *(math.log(1e-6) * i for i in (1, 2, 3))])


def test_a_phrase_longer_than_the_sentence_is_a_bug():
    target = {"phrases": [["a"] * 5]}
    with pytest.raises(ValueError, match="6 positions"):
        task_of("semantic").loss(random_prediction(1, 6, 6), [target],
                                 SimpleNamespace(encode=lambda words: [4] * 5))


def test_yes_and_no_are_no_targets_without_a_grammar():
    targets = task_of("semantic").targets(corpus_of(), 300, torch.Generator().manual_seed(0))
    assert {(target["field"], target["value"]) for target in targets} == {
        ("name", "The Mill"), ("name", "Aroma"), ("food", "Italian"), ("food", "fast food"),
        ("Type", "coffee shop")}
    assert {target["oracle"] for target in targets} == {"words"}


def test_values_outside_the_vocabulary_are_no_targets():
    corpus = corpus_of(words=["The", "Mill", "Aroma", "fast", "is", "shop"])
    targets = task_of("semantic").targets(corpus, 100, torch.Generator().manual_seed(0))
    assert {target["value"] for target in targets} == {"The Mill", "Aroma"}


def test_fields_can_be_chosen():
    targets = task_of("semantic", fields=["food"]).targets(corpus_of(), 30, torch.Generator().manual_seed(0))
    assert {target["field"] for target in targets} == {"food"}


@pytest.mark.parametrize("rows", [[(["plain", "text"], None)] * 3, []])
def test_text_without_fields_is_refused(rows):
    with pytest.raises(UserError, match="semantic.*no usable fields"):
        task_of("semantic").targets(corpus_of(rows=rows, words=["plain", "text"]), 4, torch.Generator())


@pytest.mark.parametrize(("text", "value", "success"), [
    ("Aroma is a coffee shop", "coffee shop", 1), ("Aroma is a Coffee Shop", "coffee shop", 1),
    ("a coffee in a shop", "coffee shop", 0), ("shop coffee", "coffee shop", 0),
    ("a northern place", "no", 0), ("slow and lowly", "low", 0), ("coffee", "coffee shop", 0),
])
def test_words_oracle_by_hand(text, value, success):
    target = {"field": "Type", "value": value, "oracle": "words", "phrases": [value.split()]}
    assert task_of("semantic").score(text.split(), target) == {"success": success, "Type": success}


def test_grammar_oracle_reads_what_is_said_not_what_is_spelled():
    task = task_of("semantic")
    score = lambda text, value: task.score(  # noqa: E731
        text.split(),
        {"field": "family friendly", "value": value, "oracle": "grammar", "phrases": []})["success"]
    assert score("The Old Mill is not family friendly .", "no") == 1.0
    assert score("The Old Mill is not family friendly .", "yes") == 0.0
    assert score("The Old Mill is family friendly .", "yes") == 1.0


def test_grammar_corpus_says_yes_and_no_by_phrases_that_its_oracle_reads():
    rows = [("The Old Mill is not family friendly".split(), {"family friendly": "no"}),
            ("children are welcome , adults only".split(), {"family friendly": "yes"})]
    task, corpus = task_of("semantic"), corpus_of(rows, kind="restaurant")
    targets = task.targets(corpus, 30, torch.Generator().manual_seed(0))
    assert ({(target["value"], target["oracle"]) for target in targets}
            == {("no", "grammar"), ("yes", "grammar")})
    for target in targets:
        assert target["phrases"]
        assert all(task.score(phrase, target)["success"] == 1.0 for phrase in target["phrases"])


def test_contains_is_a_run_of_whole_words():
    assert (contains(["a", "B", "c"], ["b", "C"]) and not contains(["a", "b"], ["b", "c"])
            and not contains([], ["a"]))


# ---- what people write ----

@pytest.mark.parametrize(("text", "field", "value"), [
    ("food=Italian", "food", "Italian"), ("Food = italian", "food", "Italian"),
    ("name=the mill", "name", "The Mill"), ("type=coffee  shop", "Type", "coffee shop"),
])
def test_semantic_controls(text, field, value):
    task, target = parse_control(text, corpus_of())
    assert task.name == "semantic"
    assert target == {"field": field, "value": value, "oracle": "words", "phrases": [value.split()]}


def test_length_control():
    task, target = parse_control("length=14", corpus_of(length=16))
    assert task.name == "length" and target == {"length": 14}


@pytest.mark.parametrize("text",
                         ["length=15", "length=0", "length=-3", "length=ten", "length=1.5", "length=²"])
def test_length_out_of_range(text):
    with pytest.raises(UserError, match="from 1 to 14"):
        parse_control(text, corpus_of(length=16))


@pytest.mark.parametrize("text", ["length", "length=", "=14", "", "food:Italian"])
def test_no_key_and_value(text):
    with pytest.raises(UserError, match="KEY=VALUE.*length, .*name|unknown key"):
        parse_control(text, corpus_of())


def test_unknown_key_lists_the_fields():
    with pytest.raises(UserError, match="did you mean 'food'.*legal keys: length, .*Type"):
        parse_control("fod=Italian", corpus_of())


def test_unknown_value_lists_the_values():
    with pytest.raises(UserError, match="did you mean 'Italian'.*legal: Italian, fast food"):
        parse_control("food=Italien", corpus_of())


def test_value_outside_the_vocabulary_lists_those_inside():
    with pytest.raises(UserError, match="no words for it; legal: fast food"):
        parse_control("food=Italian", corpus_of(words=["fast", "food", "Aroma"]))


def test_values_that_are_not_said_are_no_keys():
    with pytest.raises(UserError, match="unknown key"):
        parse_control("family_friendly=yes", corpus_of())


def test_a_field_of_two_words_may_be_written_with_any_sign():
    rows = [(["rated", "high"], {"customer rating": "high"})]
    for text in ("customer rating=high", "customer_rating=high", "Customer-Rating=HIGH"):
        assert parse_control(text, corpus_of(rows))[1]["field"] == "customer rating"


def test_lexicon_travels_as_json():
    lexicon = Lexicon.of(corpus_of())
    again = Lexicon.from_json(json.loads(json.dumps(lexicon.to_json())))
    assert again == lexicon and Lexicon.of(again) is again
    assert again.encode(["food", "nowhere"]) == [lexicon.vocab.index("food"), UNK]
    assert again.decode([START, *again.encode(["fast", "food"]), PAD, END, 5]) == ["fast", "food"]
    assert parse_control("food=Italian", again)[1] == parse_control("food=Italian", corpus_of())[1]
