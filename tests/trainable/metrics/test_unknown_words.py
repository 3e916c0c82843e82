"""UNK never helps a score: what it costs the perplexity, what it counts in control and diversity,
and its own share."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from spaces.config import CorpusConfig, OptimConfig, PluginRef, TeacherConfig
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.diversity import distinct_n
from trainable.metrics.perplexity import pooled_perplexity
from trainable.registry import METRICS, TASKS
from trainable.scoring.teacher import Teacher, train_teacher, unknown_nats

CONFIG = TeacherConfig(hidden=16, layers=1, heads=2,
                       optim=OptimConfig(steps=150, batch_size=32, lr=1e-2, warmup=10))


@pytest.fixture(scope="module")
def hidden(tmp_path_factory) -> TokenizedCorpus:
    """A corpus of which 60 % of the words are UNK, always the same three of five."""
    folder, noise = tmp_path_factory.mktemp("hidden"), np.random.default_rng(0)
    lines = [f"<unk> {noise.choice(['a', 'b', 'c'])} <unk> {noise.choice(['d', 'e'])} <unk>"
             for _ in range(400)]
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    source = PluginRef(name="lines", path=str(folder / "a.txt"), valid_path=str(folder / "a.txt"))
    build(CorpusConfig(source=source, max_length=10, min_count=0), folder / "out")
    return TokenizedCorpus.open(folder / "out")


@pytest.fixture(scope="module")
def teacher(hidden, tmp_path_factory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher")
    list(train_teacher(CONFIG, hidden, folder))
    return Teacher.load(folder, hidden)


def test_a_text_of_unknown_words_that_the_teacher_finds_certain_is_not_likely(hidden, teacher):
    """Such a text had a perplexity near 1: every third word is all but certain to be UNK."""
    text = ["UNK", "a", "UNK", "d", "UNK"]
    sums, counts = teacher.nll([text] * 2)
    raw = sums - 3 * math.log(len(hidden.vocab))
    assert math.exp(raw[0] / counts[0]) < 1.6, "what the teacher alone says"
    assert pooled_perplexity(sums, counts)[0] > 4.0
    assert hidden.stats["unk_rate"]["train"] == 0.6


def test_the_charge_is_log_v_each_and_words_outside_the_vocabulary_are_charged_too(hidden, teacher):
    charged = unknown_nats(hidden.vocab)
    assert charged == teacher.charged == pytest.approx(math.log(9))
    found, _ = teacher.nll([["a", "UNK"], ["a", "zebra"], ["a", "b"]])
    teacher.charged = 0.0
    raw, _ = teacher.nll([["a", "UNK"], ["a", "zebra"], ["a", "b"]])
    teacher.charged = charged
    assert (found - raw).tolist() == pytest.approx([charged, charged, 0.0])


@given(st.lists(st.sampled_from(["a", "b", "d", "UNK"]), max_size=8))
@settings(deadline=None, max_examples=30)
def test_every_unknown_word_costs_at_least_an_even_draw(hidden, teacher, words):
    sums, _ = teacher.nll([words])
    assert sums[0] >= words.count("UNK") * math.log(len(hidden.vocab)) - 1e-9


def test_real_text_is_scored_by_the_same_rule(hidden, teacher):
    """The recorded perplexity of held-out text is that of `nll`, UNK included."""
    texts = [hidden.decode(row) for row in hidden.ids("valid")]
    sums, counts = teacher.nll(texts)
    assert (sums.sum() / counts.sum()).item() == pytest.approx(teacher.facts["heldout_nll"], rel=0.02)
    assert teacher.facts["unknown_nats"] == teacher.charged


def test_a_teacher_with_tokens_of_its_own_charges_what_is_written_unk(hidden):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    plain = Teacher(model, lambda words: [0, *hidden.encode(words), 1], {"name": "hf"}, 16)
    charged = Teacher(model, lambda words: [0, *hidden.encode(words), 1], {"name": "hf"}, 16, charged=5.0)
    (before, _), (after, _) = (one.nll([["a", "UNK", "UNK"], ["zebra"]]) for one in (plain, charged))
    assert (after - before).tolist() == pytest.approx([10.0, 0.0])


class Measured:
    """As much of a `Measurable` as counting takes."""

    def __init__(self, corpus, sentences):
        self.corpus, self.sentences, self.cache = corpus, [text.split() for text in sentences], {}

    def samples(self):
        return self.sentences


def test_the_share_of_unknown_words_is_a_metric(hidden):
    metric = METRICS.build(PluginRef(name="unk_share"))
    found = metric.measure(Measured(hidden, ["a UNK b", "UNK UNK", "a b c d e", ""]))
    assert found["unk_share"] == pytest.approx(3 / 10) and found["unk_share_heldout"] == pytest.approx(0.6)
    errors = [1 - 0.9, 2 - 0.6, -1.5, 0.0]
    assert found["unk_share_se"] == pytest.approx(math.sqrt(4 / 3 * sum(e * e for e in errors)) / 10)
    assert metric.measure(Measured(hidden, ["", ""]))["unk_share"] == 0.0


@pytest.mark.parametrize(("texts", "n", "expected"), [
    (["a UNK b", "UNK a"], 2, 0.0), (["a b", "a UNK"], 2, 1 / 2), (["UNK UNK UNK"], 1, 0.0),
    (["a UNK"], 1, 1 / 2),
])
def test_unknown_words_make_no_text_diverse(texts, n, expected):
    assert distinct_n([text.split() for text in texts], n) == expected


def test_a_length_made_of_unknown_words_is_not_reached():
    task = TASKS.build(PluginRef(name="length"))
    assert task.score(["UNK"] * 14, {"length": 14}) == {"success": 0.0, "exact": 0.0, "off": 14.0}
    assert task.score(["a"] * 13 + ["UNK"], {"length": 14}) == {"success": 1.0, "exact": 0.0, "off": 1.0}
    assert task.score(["a"] * 14 + ["UNK"] * 3,
                      {"length": 14})["off"] == 3.0, "longer, it is not shorter for them"


class Asked(Measured):
    """What `perplexity` looks at."""

    def __init__(self, corpus, sentences, teacher):
        super().__init__(corpus, sentences)
        self.teacher, self.notes = teacher, {}

    def generator(self, purpose):
        return torch.Generator().manual_seed(0)


def test_a_record_by_the_older_rule_is_measured_anew(hidden, teacher):
    metric, texts = METRICS.build(PluginRef(name="perplexity")), ["a UNK", "b d"]
    recorded = metric.measure(Asked(hidden, texts, teacher))["perplexity_heldout"]
    assert recorded == teacher.facts["heldout_perplexity"]
    older = Teacher(teacher.model, teacher.encode, {"name": "older", "heldout_perplexity": 1.03},
                    teacher.limit, unknown=teacher.unknown, charged=teacher.charged)
    assert (metric.measure(Asked(hidden, texts, older))["perplexity_heldout"]
            == pytest.approx(recorded, rel=0.05))
