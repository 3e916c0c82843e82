"""Control tasks on real tokenized corpora: what the oracle says of text that people, or
the grammar, wrote."""

import pytest
import torch

from spaces.config import CorpusConfig, PluginRef
from trainable.control.lexicon import Lexicon
from trainable.control.parsing import parse_control
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.base import heldout_words
from trainable.metrics.controllability import mean_scores
from trainable.registry import TASKS


@pytest.fixture(scope="module")
def restaurant(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restaurant")
    source = PluginRef(name="restaurant", sentences=400, valid_sentences=100)
    build(CorpusConfig(source=source, max_length=44, min_count=0), folder)
    return TokenizedCorpus.open(folder)


def human(corpus, n=400):
    """Semantic scores of the held-out sentences themselves, and their targets."""
    task = TASKS.build(PluginRef(name="semantic"))
    targets = task.targets(corpus, n, torch.Generator().manual_seed(0))
    return mean_scores(task, heldout_words(corpus, [target["row"] for target in targets]), targets), targets


def test_the_grammar_oracle_agrees_with_every_gold_field(restaurant):
    scores, targets = human(restaurant, 200)
    assert scores["success"] == 1.0
    assert {target["field"] for target in targets} == {
        "name", "Type", "food", "price", "customer rating", "area", "family friendly", "near"}
    assert {target["oracle"] for target in targets} == {"grammar"}


def test_every_phrase_of_the_grammars_lexicon_is_read_back(restaurant):
    lexicon, task = Lexicon.of(restaurant), TASKS.build(PluginRef(name="semantic"))
    for field, values in lexicon.values.items():
        for value, phrases in values.items():
            for phrase in phrases:
                target = {"field": field, "value": value, "oracle": lexicon.oracle, "phrases": [phrase]}
                assert task.score(phrase, target)["success"] == 1.0, (field, value, phrase)


def test_a_control_may_be_written_for_each_field(restaurant):
    lexicon = Lexicon.of(restaurant)
    for field, values in lexicon.values.items():
        for value in values:
            assert parse_control(f"{field.upper()}={value}", lexicon)[1]["value"] == value


def test_ceilings_of_human_e2e_text(e2e):
    """Names are always said literally, prices often by other words: the ceiling for a natural
    model is below 1."""
    scores, _ = human(e2e)
    assert scores["name"] == 1.0 and scores["near"] > 0.95 and scores["Type"] > 0.9
    assert 0.4 < scores["price"] < 0.8 and 0.55 < scores["customer_rating"] < 0.9
    assert 0.8 < scores["success"] < 0.95
    assert "family_friendly" not in scores


def test_every_e2e_value_can_be_said_in_its_vocabulary(e2e):
    lexicon = Lexicon.of(e2e)
    assert set(lexicon.values) == {"name", "Type", "food", "price", "customer rating", "area", "near"}
    for values in lexicon.values.values():
        for phrases in values.values():
            assert e2e.UNK not in e2e.encode(phrases[0])
