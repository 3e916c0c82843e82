"""The teacher: what it learns, what it scores, and what it says when its files are damaged."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from spaces.config import OptimConfig, TeacherConfig
from spaces.errors import UserError
from trainable.scoring.teacher import Teacher, length_batches, train_teacher

WORDS = ["a", "b", "c", "d"]
TINY = TeacherConfig(hidden=16, layers=1, heads=2,
                     optim=OptimConfig(steps=150, batch_size=32, lr=1e-2, warmup=10))


def corpus_of(train, valid, words=WORDS, length=10):
    """The face of `TokenizedCorpus` that a teacher looks at."""
    vocab = ["START", "END", "UNK", "PAD", *words]
    index = {word: i for i, word in enumerate(vocab)}
    encode = lambda sentence: [index.get(word, 2) for word in sentence]  # noqa: E731
    table = {}
    for split, rows in (("train", train), ("valid", valid)):
        ids = np.full((len(rows), length), 3, dtype=np.int32)
        for row, sentence in zip(ids, rows, strict=True):
            row[:len(sentence) + 2] = [0, *encode(sentence), 1]
        table[split] = ids
    sizes = {split: np.array([len(row) for row in rows])
             for split, rows in (("train", train), ("valid", valid))}
    made = SimpleNamespace(vocab=vocab, encode=encode, ids=table.__getitem__, lengths=sizes.__getitem__)
    made.words = made
    return made


def uniform_sentences(n, length, seed):
    draws = np.random.default_rng(seed).integers(len(WORDS), size=(n, length))
    return [[WORDS[i] for i in row] for row in draws]


@pytest.fixture(scope="module")
def corpus():
    """Three words drawn evenly from four, then END: 3 log 4 / 4 = 1.0397 nats per token, and nothing
    can do better."""
    return corpus_of(uniform_sentences(2000, 3, 0), uniform_sentences(400, 3, 1))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return folder, list(train_teacher(TINY, corpus, folder, seed=3))


def untrained(corpus, positions=10, seed=0):
    torch.manual_seed(seed)
    words = len(corpus.vocab)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=words, n_positions=positions, n_embd=16, n_layer=1,
                                       n_head=2))
    return Teacher(model, lambda words: [0, *corpus.encode(words), 1], {"name": "untrained"},
                   positions, batch=2)


def test_learns_the_entropy_of_a_known_source(trained):
    facts = trained[1][-1]
    entropy = 3 * math.log(4) / 4
    assert entropy - 0.02 < facts["heldout_nll"] < entropy + 0.05
    assert facts["heldout_perplexity"] == pytest.approx(math.exp(facts["heldout_nll"]))


def test_events_and_facts(trained, corpus):
    folder, events = trained
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress) and progress[-1] == 1.0 and progress[0] > 0
    assert all(math.isfinite(event["loss"]) for event in events[:-1])
    facts = json.loads((folder / "teacher.json").read_text())
    assert facts == {key: value for key, value in events[-1].items() if key != "progress"}
    assert facts["steps"] == 150 and facts["tokens"] == 150 * 32 * 4 and facts["heldout_sentences"] == 200


def test_loaded_teacher_gives_the_recorded_perplexity_to_real_text(trained, corpus):
    teacher = Teacher.load(trained[0], corpus)
    sums, counts = teacher.nll(uniform_sentences(400, 3, 1))
    assert (sums.sum() / counts.sum()).item() == pytest.approx(teacher.facts["heldout_nll"], rel=0.02)
    assert teacher.name == "gpt2-1x16-words"


def test_same_seed_same_weights_and_no_trace_in_the_global_generator(trained, corpus, tmp_path):
    before = torch.random.get_rng_state()
    list(train_teacher(TINY, corpus, tmp_path / "again", seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    first = (trained[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    list(train_teacher(TINY, corpus, tmp_path / "other", seed=4))
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_averaged_weights_learn_too(corpus, tmp_path):
    optim = TINY.optim.model_copy(update={"ema": 0.9})
    *_, facts = train_teacher(TINY.model_copy(update={"optim": optim}), corpus, tmp_path)
    assert facts["heldout_nll"] < 3 * math.log(4) / 4 + 0.05


def test_keeps_the_best_weights_when_it_overfits(tmp_path, monkeypatch):
    """Random sentences are learned by heart; the weights of the last step are then worse
    than earlier ones."""
    corpus = corpus_of(uniform_sentences(16, 8, 0), uniform_sentences(200, 8, 1))
    config = TeacherConfig(hidden=64, layers=2, heads=2,
                           optim=OptimConfig(steps=120, batch_size=8, lr=2e-3, warmup=5))
    *_, kept = train_teacher(config, corpus, tmp_path)
    monkeypatch.setattr("trainable.scoring.teacher.CHECKS", 1)
    *_, last = train_teacher(config, corpus, tmp_path)
    assert last["heldout_nll"] > kept["heldout_nll"] + 0.5
    assert Teacher.load(tmp_path, corpus).facts["heldout_nll"] == last["heldout_nll"]


def test_nll_of_a_uniform_model_is_log_of_the_vocabulary(corpus):
    teacher = untrained(corpus)
    for parameter in teacher.model.parameters():
        parameter.data.zero_()
    sums, counts = teacher.nll([[], ["a"], ["a", "b", "nowhere"]])
    assert counts.tolist() == [1, 2, 4]
    assert sums.numpy() == pytest.approx(np.array([1, 2, 4]) * math.log(8), rel=1e-6)


def test_nll_equals_a_float64_computation_of_each_sentence_alone(corpus):
    """Padding, batching and sorting change nothing, and results come back in the order of the sentences."""
    teacher = untrained(corpus)
    sentences = [["a", "b", "c", "d", "a"], [], ["d"], ["b", "b", "c"], ["c"]]
    sums, counts = teacher.nll(sentences)
    double = untrained(corpus).model.double()
    for sentence, value, count in zip(sentences, sums, counts, strict=True):
        ids = [0, *corpus.encode(sentence), 1]
        with torch.no_grad():
            logits = double(input_ids=torch.tensor([ids])).logits[0].numpy()
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -sum(logp[i, ids[i + 1]] for i in range(len(ids) - 1))
        assert value.item() == pytest.approx(expected, rel=1e-5)
        assert count.item() == len(ids) - 1


def test_nll_of_no_sentences(corpus):
    sums, counts = untrained(corpus).nll([])
    assert sums.shape == counts.shape == (0,)


def test_out_of_vocabulary_words_are_scored_as_unk(corpus):
    teacher = untrained(corpus)
    sums, _ = teacher.nll([["a", "zebra"], ["a", "UNK"], ["a", "b"]])
    assert sums[0] == sums[1] != sums[2]


def test_the_longest_sentence_fits_and_one_more_word_is_refused(corpus):
    teacher = untrained(corpus, positions=6)
    assert teacher.nll([["a"] * 5])[1].tolist() == [6]
    with pytest.raises(ValueError, match="8 tokens.*reads .6"):
        teacher.nll([["a"] * 6])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "teacher.json"])
@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_damaged_file_is_named(trained, corpus, tmp_path, name, harm):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink() if harm == "missing" else (tmp_path / name).write_bytes(
        content[:len(content) // 2])
    with pytest.raises(UserError, match=name) as error:
        Teacher.load(tmp_path, corpus)
    assert "\n" not in str(error.value)


def test_weights_of_another_shape_are_refused(trained, corpus, tmp_path):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shape = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**shape, "n_layer": 2}))
    with pytest.raises(UserError, match="model.safetensors"):
        Teacher.load(tmp_path, corpus)


def test_another_vocabulary_is_refused(trained):
    other = corpus_of([["x"]], [["x"]], words=["x", "y", "z", "w"])
    with pytest.raises(UserError, match="another vocabulary"):
        Teacher.load(trained[0], other)


@pytest.mark.parametrize(("train", "valid"), [([], [["a"]] * 3), ([["a"]], [["a"]])])
def test_empty_split_is_refused(train, valid, tmp_path):
    with pytest.raises(UserError, match="sentences"):
        list(train_teacher(TINY, corpus_of(train, valid), tmp_path))


def test_divergence_is_the_users_to_mend(corpus, tmp_path):
    optim = OptimConfig(steps=20, lr=1e38, warmup=0, clip=0, batch_size=8)
    with pytest.raises(UserError, match="teacher.optim.lr"):
        list(train_teacher(TINY.model_copy(update={"optim": optim}), corpus, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_heads_must_divide_hidden(corpus, tmp_path):
    with pytest.raises(UserError, match="teacher.hidden=16.*teacher.heads=3"):
        list(train_teacher(TINY.model_copy(update={"heads": 3}), corpus, tmp_path))


def test_batches_hold_sentences_of_like_length_and_cover_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 60, size=1024)
    batches = length_batches(lengths, 32, torch.Generator().manual_seed(0))
    epoch = [next(batches) for _ in range(32)]
    assert sorted(np.concatenate(epoch)) == list(range(1024))
    assert np.mean([np.ptp(lengths[batch]) for batch in epoch]) < 5
    assert [lengths[batch].max() for batch in epoch] != sorted(lengths[batch].max() for batch in epoch)
    assert not np.array_equal(next(batches), epoch[0])


def test_hugging_face_teacher_scores_plain_text(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<|end|>": 0, "[UNK]": 1, "tea": 2, "for": 3, "two": 4},
                                           unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="<|end|>",
                            eos_token="<|end|>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=16, n_embd=8, n_layer=1, n_head=1)).eval()
    model.save_pretrained(tmp_path)
    teacher = Teacher.load(str(tmp_path), corpus=None)
    sums, counts = teacher.nll([["tea", "for", "two"], ["tea"]])
    ids = torch.tensor([[0, 2, 3, 4, 0]])
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss.item() * 4
    assert counts.tolist() == [4, 2]
    assert sums[0].item() == pytest.approx(expected, rel=1e-5)
    assert teacher.name == tmp_path.name and "heldout_perplexity" not in teacher.facts


def test_hugging_face_path_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="teacher.path=.*nowhere") as error:
        Teacher.load(str(tmp_path / "nowhere"), corpus=None)
    assert "\n" not in str(error.value)


def test_a_generated_text_that_fills_every_position_can_be_scored(trained, corpus):
    teacher = Teacher.load(str(trained[0]), corpus, torch.device("cpu"))
    longest = ["a"] * corpus.ids("train").shape[1]
    sums, counts = teacher.nll([longest])
    assert counts.tolist() == [len(longest) + 1] and math.isfinite(float(sums[0]))
