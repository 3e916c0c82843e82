"""Baselines: what they learn on a text where the right answer is known, and the table that they share."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from spaces.config import PluginRef, TrialConfig
from spaces.errors import UserError
from trainable.baselines.coded import Codebook, Pairs, padded
from trainable.baselines.comparison import CLASSIFIER_FREE, METHODS, ComparisonSetup, compare
from trainable.baselines.fudge import Fudge
from trainable.baselines.prompted import Prompted
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.metrics.intervals import mean_interval, perplexity_interval, wilson
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import TASKS
from trainable.scoring.teacher import Teacher

START, END, UNK, PAD = range(4)
VOCAB = ["START", "END", "UNK", "PAD", "a", "b", "c"]
LENGTH = 10


def corpus_of(n=300, seed=0):
    """Texts of 2 to 7 random words: a target length is all that there is to control."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 8, n)
    ids = np.full((n, LENGTH), PAD, dtype=np.int32)
    for row, size in zip(ids, sizes, strict=True):
        row[:size + 2] = [START, *rng.integers(4, 7, size), END]
    decode = lambda row: [VOCAB[i]  # noqa: E731
                          for i in itertools.takewhile(lambda i: i != END, row) if i not in (START, PAD)]
    made = SimpleNamespace(
        vocab=VOCAB, tokens=None, stats={"corpus": "toy"}, ids=lambda split: ids, lengths=lambda split: sizes,
        encode=lambda words: [VOCAB.index(word) if word in VOCAB else UNK for word in words],
        decode=decode, rows=lambda split, indices: [{"fields": None} for _ in indices])
    made.words = made
    return made


CORPUS = corpus_of()


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=7, n_positions=16, n_embd=32, n_layer=1, n_head=2,
                                       resid_pdrop=0.0,
                                       embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=START, eos_token_id=END))
    return Teacher(model, lambda words: [START, *CORPUS.encode(words), END],
                   {"name": "toy", "vocabulary": "x"}, 16)


def length_task(**params):
    return TASKS.build(PluginRef(name="length", tolerance=0, **params))


TARGETS = [{"length": n} for n in (2, 3, 4, 5, 6, 7) for _ in range(5)]


def share_met(texts):
    return np.mean([len(words) == target["length"] for words, target in zip(texts, TARGETS, strict=True)])


def test_a_prompted_model_learns_what_its_prompt_means(teacher):
    model = Prompted(length_task(), CORPUS, teacher.model, steps=150)
    sampled, beam = model.generate(TARGETS), model.generate(TARGETS, beams=4)
    assert share_met(beam) > 0.9 and share_met(sampled) > 0.8
    assert model.generate(TARGETS) == sampled
    assert {word for words in sampled for word in words} <= {"a", "b", "c"}


def test_the_prompted_model_starts_as_the_teacher(teacher):
    model = Prompted(length_task(), CORPUS, teacher.model, steps=0).model.eval()
    ids = torch.tensor([[START, 4, 5, 6]])
    with torch.no_grad():
        theirs, ours = teacher.model(ids).logits, model(ids).logits[..., :7]
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert model.config.vocab_size > 7 and model.config.n_positions > LENGTH


def test_fudge_turns_a_teacher_that_knows_no_lengths(teacher):
    """The untrained teacher ends a text at random; weighed by the discriminator it ends about
    where it should."""
    trained = Fudge(length_task(), CORPUS, teacher.model, steps=250)
    texts = trained.generate(TARGETS)
    blind = Fudge(length_task(), CORPUS, teacher.model, steps=0).generate(TARGETS)
    off = lambda found: np.mean([abs(len(w) - t["length"])  # noqa: E731
                                 for w, t in zip(found, TARGETS, strict=True)])
    assert share_met(texts) > share_met(blind) + 0.2 and off(texts) < off(blind) / 2
    assert trained.generate(TARGETS) == texts


def test_codes_keep_the_ids_of_words_and_unknown_symbols_have_one():
    book = Codebook(CORPUS, [["<x>", "b"], ["<y>"]])
    assert book.ids(["b", "<x>", "<y>", "<never>"]) == [5, 7, 8, 9] and book.size == 10


def test_padding():
    assert padded([[4], [5, 6]]).tolist() == [[4, PAD], [5, 6]]
    assert padded([[4], [5, 6]], left=True).tolist() == [[PAD, 4], [5, 6]]


def test_a_task_that_training_text_cannot_teach_is_told():
    with pytest.raises(UserError, match="no training text gives a target"):
        Pairs(TASKS.build(PluginRef(name="semantic")), CORPUS, 50, torch.Generator())


def test_the_comparison_scores_every_method_by_the_same_targets(teacher):
    shape = DiffusionLMConfig(embedding_dim=4, hidden=8, layers=1, heads=2, ffn=8, time_dim=4,
                              positions=LENGTH)
    config = TrialConfig.model_validate({"corpus": {"max_length": LENGTH}, "sampling": {"steps": 4}})
    model, schedule = DiffusionLM(shape, GaussianConfig(timesteps=20), VOCAB), Schedule.make("sqrt", 20)
    process = GaussianSampling(model, schedule, config.sampling)
    loaded = SimpleNamespace(config=config, model=model, process=Gaussian(GaussianConfig(timesteps=20)),
                             sampling=lambda: process,
                             generate=lambda n, generator: process.sample(n, LENGTH, generator))
    said: list[str] = []
    setup = ComparisonSetup(loaded, CORPUS, teacher, targets=6, baseline_steps=3, tell=said.append)
    cells = list(compare(setup, ["length"], list(METHODS)))
    assert "length, FUDGE: training step 0 of 3" in said and all(cell["seconds"] >= 0 for cell in cells)
    assert [cell["method"] for cell in cells] == [method for method in METHODS if method != CLASSIFIER_FREE]
    assert {cell["oracle"] for cell in cells} == {"count"}
    assert cells[0]["control"][0] == 1.0 and all(0 <= low <= value <= high <= 1 for value, low, high in
                                                 (cell["control"] for cell in cells))
    assert all(low <= value <= high for value, low, high in (cell["lm_score"] for cell in cells))


def test_baselines_need_a_teacher_over_the_corpus_words(teacher):
    strange = Teacher(teacher.model, teacher.encode, {"name": "gpt2"}, 16)
    with pytest.raises(UserError, match="gpt2 has its own tokens"):
        list(compare(ComparisonSetup(None, CORPUS, strange, 2), ["length"], ["FUDGE"]))


# ---- intervals ----

@pytest.mark.parametrize(("k", "n", "low", "high"),
                         [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)])
def test_wilson_by_published_figures(k, n, low, high):
    """81 of 263: Newcombe 1998, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_shares_are_bootstrapped_and_the_interval_covers():
    rng = np.random.default_rng(0)
    hits = sum(low <= 0.5 <= high for _, low, high in (mean_interval(rng.beta(2, 2, 60)) for _ in range(200)))
    assert 0.90 <= hits / 200 <= 0.99
    assert mean_interval([1.0, 1.0])[0] == 1.0 and mean_interval([1.0, 0.0])[1:] == wilson(1, 2)


def test_perplexity_interval_holds_the_pooled_value():
    value, low, high = perplexity_interval([2.0, 9.0, 4.0], [2, 3, 4])
    assert value == pytest.approx(np.exp(15 / 9)) and low < value < high
    assert perplexity_interval([2.0, 2.0], [1, 1]) == pytest.approx((np.exp(2),) * 3)
