"""Metrics: the contract of each, and values computed independently or by hand."""

import itertools
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from spaces.config import (
    CorpusConfig,
    EvaluationConfig,
    GuidanceConfig,
    PluginRef,
    SamplingConfig,
    TrialConfig,
)
from trainable.control.generating import Controlled
from trainable.control.guidance import GradientGuide
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.metrics.base import Metric, scaled
from trainable.metrics.controllability import mean_scores
from trainable.metrics.diversity import distinct_n
from trainable.metrics.size import folder_bytes
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import BACKBONES, METRICS, PROCESSES, TASKS
from trainable.scoring.teacher import Teacher

LENGTH = 12
WORDS = "the mill serves italian thai food and is cheap".split()
VALID = [(f"the mill serves {food} food {tail}".split(), {"name": "the mill", "food": food})
         for food, tail in itertools.product(("italian", "thai"),
                                             ("", "and is cheap", "and thai food", "cheap"))]
TRAIN = [("the mill is cheap".split(), {"name": "the mill"}), ("thai food".split(), {"food": "thai"})]


class Corpus:
    """The face of `TokenizedCorpus` over a few rows."""

    START, END, UNK, PAD = range(4)
    stats = {"corpus": "e2e"}

    def __init__(self):
        self.vocab, self.tokens, self.words = ["START", "END", "UNK", "PAD", *WORDS], None, self
        self.table = {"train": TRAIN, "valid": VALID}
        self._ids = {split: np.array([self._row(words) for words, _ in rows], dtype=np.int32)
                     for split, rows in self.table.items()}

    def _row(self, words):
        ids = [0, *self.encode(words), 1]
        return ids + [3] * (LENGTH - len(ids))

    def encode(self, words):
        return [self.vocab.index(word) if word in self.vocab else 2 for word in words]

    word_ids = encode

    def decode(self, row):
        words = itertools.takewhile(lambda i: i != 1, (int(i) for i in row))
        return [self.vocab[i] for i in words if i not in (0, 3)]

    def ids(self, split):
        return self._ids[split]

    def lengths(self, split):
        return np.array([len(words) for words, _ in self.table[split]])

    def rows(self, split, indices):
        return [{"text": " ".join(self.table[split][i][0]), "fields": self.table[split][i][1]}
                for i in indices]


class Small:
    """A whole `Measurable` at toy size: real denoiser, sampler, guidance and teacher; nothing trained."""

    def __init__(self, artifact=None, base_artifact=None, share=1.0, **evaluation):
        settings = {"samples": 8, "heldout": 4, "times": 2, "control_samples": 4, "latency_batch": 2,
                    "latency_repeats": 3, "guidance": GuidanceConfig(strength=0.05)}
        self.config = TrialConfig(
            corpus=CorpusConfig(max_length=LENGTH),
            model=DiffusionLMConfig(embedding_dim=4, hidden=8, layers=1, heads=2, ffn=8, time_dim=4,
                                    positions=LENGTH), diffusion=GaussianConfig(timesteps=20),
            sampling=SamplingConfig(steps=4), evaluation=EvaluationConfig(**{**settings, **evaluation}))
        self.corpus, self.device, self.share = Corpus(), torch.device("cpu"), share
        self.model = DiffusionLM(BACKBONES.params(self.config.model), PROCESSES.params(self.config.diffusion),
                                 self.corpus.vocab)
        self.process = PROCESSES.build(self.config.diffusion)
        self.sampling = self.process.sampling(self.model, self.config.sampling)
        torch.manual_seed(0)
        shape = GPT2Config(vocab_size=len(self.corpus.vocab), n_positions=16, n_embd=8, n_layer=1, n_head=1)
        self.teacher = Teacher(GPT2LMHeadModel(shape), lambda words: [0, *self.corpus.encode(words), 1],
                               {"name": "toy"}, 16)
        self.artifact, self.base_artifact = artifact, base_artifact
        self.facts = {"train_seconds": 1.5, "bits_per_weight": 4.5, "file_bytes": 1200,
                      "exported_bytes": 1234, "base": "base"}
        self.notes, self.cache = {}, {("kl_to_base", "base"): (str(base_artifact or "base"), self.model)}

    def generator(self, purpose):
        return torch.Generator().manual_seed(sum(map(ord, purpose)))

    def samples(self):
        ids = self.sampling.sample(scaled(self.config.evaluation.samples, self.share), LENGTH,
                                   self.generator("samples"))
        return [self.corpus.decode(row) for row in ids.numpy()]

    def traced(self):
        return self.sampling.traced(LENGTH)

    def passes(self):
        return self.traced().passes

    def controlled(self, asked):
        return [self._controlled(task, targets) for task, targets in asked]

    def _controlled(self, task, targets):
        guide = GradientGuide(task, targets, self.config.evaluation.guidance, self.corpus,
                              self.config.sampling.steps)
        found = self.sampling.generate(len(targets), LENGTH, self.generator("control"), guide)
        return Controlled([self.corpus.decode(row) for row in found.ids.numpy()], found.passes)

    def load(self, path):
        return SimpleNamespace(model=self.model,
                               generate=lambda n, generator: self.sampling.sample(n, LENGTH, generator))

    def yardstick(self):
        return None

    def pause(self):
        pass

    def alone(self):
        return nullcontext(True)


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "deep" / "more.safetensors").write_bytes(b"x" * 30)
    (folder / "config.json").write_text("{}\n")
    return folder


# ---- the contract of every metric ----

@pytest.mark.parametrize("name", list(METRICS))
class TestEveryMetric:
    def test_says_what_it_is(self, name):
        cls = METRICS.get(name)
        assert issubclass(cls, Metric) and cls.name == name and cls.__doc__
        assert cls.direction in ("minimize", "maximize") and cls.stage in ("rung", "final")
        assert isinstance(cls.unit, str)
        if cls.proxy is not None:
            stand_in = METRICS.get(cls.proxy)
            assert (stand_in.stage, stand_in.direction) == ("rung", cls.direction)

    def test_nothing_is_better_than_its_ideal(self, name, exported):
        cls = METRICS.get(name)
        found = METRICS.build(PluginRef(name=name)).measure(Small(exported, exported))[name]
        if cls.ideal is not None:
            assert found >= cls.ideal if cls.direction == "minimize" else found <= cls.ideal

    def test_columns_are_finite_numbers_under_its_own_name(self, name, exported):
        m = Small(exported, exported)
        row = METRICS.build(PluginRef(name=name)).measure(m)
        assert name in row
        assert all(column == name or column.startswith(f"{name}_") for column in row)
        assert all(isinstance(value, float) and math.isfinite(value) for value in row.values())
        assert all(value >= 0 for column, value in row.items() if column.endswith("_se"))
        assert all(key.startswith(f"{name}_") and isinstance(note, str) for key, note in m.notes.items())

    def test_measured_twice_gives_the_same(self, name, exported, monkeypatch):
        ticks = itertools.count()
        for clock in ("perf_counter", "thread_time"):
            monkeypatch.setattr(f"trainable.metrics.timing.time.{clock}", lambda: float(next(ticks)))
        metric = METRICS.build(PluginRef(name=name))
        assert metric.measure(Small(exported)) == metric.measure(Small(exported))

    def test_rungs_before_export_need_no_artifact(self, name):
        metric = METRICS.build(PluginRef(name=name))
        if metric.stage == "final":
            with pytest.raises(ValueError, match=name):
                metric.measure(Small())
        else:
            assert name in metric.measure(Small(share=0.5))


# ---- perplexity ----

def test_perplexity_of_a_uniform_teacher_is_its_vocabulary():
    m = Small()
    for parameter in m.teacher.model.parameters():
        parameter.data.zero_()
    row = METRICS.build(PluginRef(name="perplexity")).measure(m)
    assert row["perplexity"] == pytest.approx(len(m.corpus.vocab))
    assert row["perplexity_heldout"] == pytest.approx(len(m.corpus.vocab))
    assert row["perplexity_se"] == pytest.approx(0, abs=1e-5)
    assert m.notes == {"perplexity_teacher": "toy"}


def test_heldout_perplexity_is_measured_once_for_all_trials(monkeypatch):
    m, metric = Small(), METRICS.build(PluginRef(name="perplexity"))
    first = metric.measure(m)["perplexity_heldout"]
    sums, counts = m.teacher.nll([words for words, _ in VALID])
    assert first == pytest.approx(math.exp(sums.sum() / counts.sum()))
    calls = []
    nll = m.teacher.nll
    monkeypatch.setattr(m.teacher, "nll", lambda sentences: calls.append(len(sentences)) or nll(sentences))
    assert metric.measure(m)["perplexity_heldout"] == first
    assert calls == [8]


# ---- diversity ----

@pytest.mark.parametrize(("sentences", "n", "expected"), [
    (["a b a b"], 1, 2 / 4), (["a b a b"], 2, 2 / 3), (["a b a b"], 4, 1.0),
    (["a b", "a b", "b a"], 2, 2 / 3), (["a", "a"], 2, 0.0), ([""], 1, 0.0), (["a b c", "c d"], 2, 1.0),
])
def test_distinct_n_by_hand(sentences, n, expected):
    assert distinct_n([sentence.split() for sentence in sentences], n) == pytest.approx(expected)


def diversity_of(*sentences):
    m = Small()
    m.samples = lambda: [sentence.split() for sentence in sentences]
    return METRICS.build(PluginRef(name="diversity")).measure(m)


def test_diversity_by_hand():
    row = diversity_of("thai food", "thai food", "the mill is cheap", "cheap cheap cheap")
    assert row["diversity"] == pytest.approx(5 / 7)
    assert row["diversity_distinct1"] == pytest.approx(6 / 11)
    assert row["diversity_distinct4"] == 1.0
    assert row["diversity_sentences"] == 3 / 4
    assert row["diversity_copied"] == 3 / 4


def test_a_copy_is_a_whole_training_sentence():
    assert diversity_of("thai", "thai food food", "the mill is", "", "food thai")["diversity_copied"] == 0.0
    assert diversity_of("the mill is cheap")["diversity_copied"] == 1.0


def test_sentences_that_do_not_fit_a_training_row_are_no_copies():
    assert diversity_of(" ".join(["thai food"] * LENGTH))["diversity_copied"] == 0.0


def test_repeating_one_sentence_is_seen():
    assert diversity_of(*["thai food is cheap"] * 20)["diversity"] == pytest.approx(3 / 60)


def test_real_text_stands_beside_for_scale():
    row = diversity_of(*["thai"] * len(VALID))
    assert row["diversity_heldout"] == pytest.approx(distinct_n([words for words, _ in VALID], 2))


# ---- controllability ----

def controllability_of(answers, **evaluation):
    """`answers`: words given back for every target, or a function of the target."""
    m = Small(**evaluation)
    m.controlled = lambda asked: [Controlled(
        [answers(target) if callable(answers) else answers for target in targets],
        torch.full((len(targets),), 3 if task.name == "length" else 5)) for task, targets in asked]
    return METRICS.build(PluginRef(name="controllability")).measure(m), m


def test_controllability_is_the_mean_over_tasks():
    obey = lambda target: ["thai"] * target["length"] if "length" in target else []  # noqa: E731
    row, m = controllability_of(obey)
    assert row["controllability_length_count"] == row["controllability_length_count_exact"] == 1.0
    assert row["controllability_semantic_words"] == 0.0
    assert row["controllability"] == 0.5
    assert row["controllability_nfe"] == 4 and row["controllability_semantic_words_nfe"] == 5
    assert row["controllability_length_count_human"] == row["controllability_semantic_words_human"] == 1.0
    assert m.notes == {"controllability_oracle": "length=count,semantic=words"}
    error = math.sqrt(5 / 6 * 1 / 6 / 4)
    assert ([row[f"controllability_{task}_se"] for task in ("length_count", "semantic_words")]
            == pytest.approx([error, error]))
    assert row["controllability_se"] == pytest.approx(math.sqrt(2 * error**2) / 2)


def test_controllability_per_field_and_perplexity_of_what_was_said():
    row, m = controllability_of(["the", "mill"], control_tasks=(PluginRef(name="semantic"),),
                                control_samples=40)
    assert (row["controllability_semantic_words_name"] == 1.0
            and row["controllability_semantic_words_food"] == 0.0)
    assert 0 < row["controllability"] == row["controllability_semantic_words"] < 1
    sums, counts = m.teacher.nll([["the", "mill"]])
    assert (row["controllability_semantic_words_perplexity"]
            == pytest.approx(math.exp(sums.sum() / counts.sum())))


def test_a_share_of_the_samples_at_a_lower_rung():
    counts = []
    m = Small(share=0.5, control_samples=10)

    def controlled(asked):
        counts.extend(len(targets) for _, targets in asked)
        return [Controlled([[] for _ in targets], torch.ones(len(targets))) for _, targets in asked]

    m.controlled = controlled
    METRICS.build(PluginRef(name="controllability")).measure(m)
    assert counts == [5, 5]


def test_one_task_twice_gets_two_names():
    tasks = (PluginRef(name="length"), PluginRef(name="length", tolerance=0))
    row, m = controllability_of(lambda target: ["thai"] * (target["length"] + 1), control_tasks=tasks)
    assert (row["controllability_length_count"], row["controllability_length2_count"]) == (1.0, 0.0)


def test_no_tasks_is_nothing_to_tell():
    assert controllability_of([], control_tasks=())[0] == {}


def test_scores_are_means_over_the_targets_that_have_them():
    task = TASKS.build(PluginRef(name="semantic"))
    targets = [{"field": field, "value": "x", "oracle": "words", "phrases": [["x"]]}
               for field in ("a b", "a b", "c")]
    assert mean_scores(task, [["x"], [], ["x"]], targets) == {"success": 2 / 3, "a_b": 1 / 2, "c": 1.0}


# ---- size and cost ----

def test_size_is_what_lies_on_disk(exported):
    row = METRICS.build(PluginRef(name="size_bytes")).measure(Small(exported))
    assert row == {"size_bytes": 1033.0, "size_bytes_weights": 1030.0}
    assert folder_bytes(exported, "*.json") == 3


def test_size_before_export():
    metric, m = METRICS.build(PluginRef(name="size_bytes")), Small()
    assert metric.measure(m) == {"size_bytes": 1234.0, "size_bytes_weights": 1200.0}
    del m.facts["exported_bytes"]
    assert metric.measure(m) == {}


def test_trainable_parameters_are_counted_from_the_model():
    m = Small()
    m.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    m.model[0].requires_grad_(False)
    row = METRICS.build(PluginRef(name="trainable_params")).measure(m)
    assert row == {"trainable_params": 8.0, "trainable_params_share": 8 / 24}
    m.facts |= {"trainable_params": 6, "total_params": 12}
    assert METRICS.build(PluginRef(name="trainable_params")).measure(m) == {"trainable_params": 6.0,
                                                                            "trainable_params_share": 0.5}


def test_train_seconds_are_the_loops_own():
    assert METRICS.build(PluginRef(name="train_seconds")).measure(Small()) == {"train_seconds": 1.5}

