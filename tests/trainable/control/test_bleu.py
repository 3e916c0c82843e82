"""Sentence BLEU and ROUGE-L of infilling: the figures of sacrebleu 2.6.0 and of rouge-score, and where
they part from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from spaces.config import PluginRef
from trainable.control.infill import bleu4, rouge_l
from trainable.registry import TASKS

SACREBLEU = [  # BLEU(effective_order=True, tokenize="none").sentence_score(text, [reference]).score / 100
    ("a b c", "a b c", 1.0), ("a", "a", 1.0), ("a b", "a c", 0.5), ("a b c", "a b c d e", 0.513417),
    ("a b c d e f", "a b c d x f", 0.537285), ("x y z", "a b c", 0.0), ("b a", "a b", 0.707107),
    ("the the the the", "the cat", 0.159736), ("a b c d", "a b c d", 1.0), ("c a d", "a b c d e f", 0.145993),
]


@pytest.mark.parametrize(("text", "reference", "score"), SACREBLEU)
def test_bleu_is_that_of_sacrebleu(text, reference, score):
    assert bleu4(text.split(), reference.split()) == pytest.approx(score, abs=1e-6)


WORDS = st.lists(st.sampled_from("abcd"), min_size=4, max_size=9)


@given(WORDS, WORDS)
def test_of_four_words_and_more_it_is_nltks_with_the_same_smoothing(text, reference):
    expected = sentence_bleu([reference], text, smoothing_function=SmoothingFunction().method3)
    assert bleu4(text, reference) == pytest.approx(expected if set(text) & set(reference) else 0.0, abs=1e-9)


def test_no_words_score_nothing():
    assert bleu4([], ["a"]) == bleu4([], []) == bleu4(["a"], []) == rouge_l([], ["a"]) == 0.0


def test_a_gap_of_three_right_words_is_wholly_right():
    task = TASKS.build(PluginRef(name="infill"))
    target = {"left": ["it", "is"], "right": ["."], "reference": ["a", "cheap", "pub"]}
    found = task.score("it is a cheap pub .".split(), target)
    assert found == {"success": 1.0, "kept": 1.0, "bleu4": 1.0, "rouge_l": 1.0}


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9),
       st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_rouge_of_plain_words_is_rouge_scores(text, reference):
    expected = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(text))["rougeL"].fmeasure
    assert rouge_l(text, reference) == pytest.approx(expected)


def test_rouge_counts_signs_and_case_where_rouge_score_does_not():
    text, reference = "The café costs £ 5 !".split(), "the caf costs 5".split()
    assert RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(text))["rougeL"].fmeasure == 1.0
    assert rouge_l(text, reference) == pytest.approx(2 * (2 / 6) * (2 / 4) / (2 / 6 + 2 / 4))
