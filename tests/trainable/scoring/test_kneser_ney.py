"""The counted teacher: against the textbook's formulas written out plainly, by hand on one text,
and on disk."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START, UNK
from trainable.scoring.kneser_ney import FALLBACK, KneserNey, count_teacher, discounts
from trainable.scoring.teacher import Teacher
from trainable.scoring.teachers import load_teacher

WORDS = 9


def table(texts):
    lengths = np.array([len(text) for text in texts])
    rows = np.full((len(texts), lengths.max() + 3), PAD, dtype=np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[:len(text) + 2] = [START, *text, END]
    return rows, lengths


def random_texts(count, seed):
    noise = np.random.default_rng(seed)
    chain = noise.dirichlet([0.3] * (WORDS - 4), WORDS)
    texts = []
    for _ in range(count):
        text, last = [], 0
        while noise.random() < 0.85 and len(text) < 9:
            last = 4 + int(noise.choice(WORDS - 4, p=chain[last]))
            text.append(last)
        texts.append(text)
    return texts


class Plain:
    """Interpolated modified Kneser-Ney over tuples, one formula a line."""

    def __init__(self, texts, order):
        self.order = order
        raw = [Counter() for _ in range(order + 1)]
        for text in texts:
            row = (START, *text, END)
            for n in range(1, order + 1):
                raw[n].update(row[i:i + n] for i in range(len(row) - n + 1))
        self.counts = {order: dict(raw[order])}
        for n in range(1, order):
            before = defaultdict(set)
            for gram in raw[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {gram: raw[n][gram] if gram[0] == START else len(before[gram])
                              for gram in raw[n]}
        self.counts[1].pop((START,))
        self.discounts = {n: (0, *discounts(np.array(list(counts.values()))))
                          for n, counts in self.counts.items()}

    def p(self, word, history):
        return self._p(word, tuple(history), min(self.order, len(history) + 1))

    def _p(self, word, history, n):
        if n == 0:
            return 1 / (WORDS - 2)
        context = history[len(history) - n + 1:] if n > 1 else ()
        follows = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        lower = self._p(word, history, n - 1)
        total = sum(follows.values())
        if not total:
            return lower
        d = self.discounts[n]
        gamma = sum(d[min(count, 3)] for count in follows.values()) / total
        own = follows.get(word, 0)
        return max(own - d[min(own, 3)], 0) / total + gamma * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_chances_are_those_of_the_formulas(order, seed):
    texts, plain = random_texts(60, seed), Plain(random_texts(60, seed), order)
    model = KneserNey.count(*table(texts), WORDS, order)
    asked = [*random_texts(15, seed + 10), [], [UNK, 4, 4], texts[0]]
    wanted = [sum(math.log(plain.p(word, (START, *text)[:i + 1])) for i, word in enumerate([*text, END]))
              for text in asked]
    assert np.allclose(model.log_probs(*table(asked)), wanted, atol=1e-10)


def test_chances_behind_any_history_add_up_to_one():
    model = KneserNey.count(*table(random_texts(40, 2)), WORDS, 3)
    words = [END, UNK, *range(4, WORDS)]
    for history in itertools.product([UNK, 4, 6], repeat=2):
        ends = model.log_probs(*table([[*history]]))[0]
        known = model.log_probs(*table([[*history, word] for word in words if word != END]))
        # p(history) p(word | history) = p(history word END) / p(END | history word), asked apart
        plain = Plain(random_texts(40, 2), 3)
        behind = [plain.p(END, (START, *history, word)) for word in words if word != END]
        mass = np.exp(known) / np.array(behind)
        before = math.exp(ends) / plain.p(END, (START, *history))
        assert math.isclose(mass.sum() + math.exp(ends), before, rel_tol=1e-9)


def test_one_text_by_hand():
    """`a b` and `a`: bigrams START a: 2, a b: 1, a END: 1, b END: 1; words follow: a 1, b 1, END 2 others."""
    model = KneserNey.count(*table([[4, 5], [4]]), 6, 2)
    d1, d2, _ = FALLBACK  # too few counts to estimate discounts
    low = {word: (count - d) / 4 + (2 * d1 + d2) / 4 / 4
           for word, count, d in ((4, 1, d1), (5, 1, d1), (END, 2, d2))}
    a = (2 - d2) / 2 + d2 / 2 * low[4]
    b = (1 - d1) / 2 + d1 * low[5]
    end = (1 - d1) / 1 + d1 * low[END]
    assert math.isclose(model.log_probs(*table([[4, 5]]))[0], math.log(a * b * end), rel_tol=1e-12)


def test_discounts_are_estimated_from_counts_of_counts():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 16, 9, 6, 3])
    share = 40 / 72
    assert np.allclose(discounts(counts), (1 - 2 * share * 16 / 40, 2 - 3 * share * 9 / 16,
                                           3 - 4 * share * 6 / 9))
    assert discounts(np.array([1, 1, 2])) == FALLBACK == discounts(np.array([], dtype=int))


def corpus_of(train, valid):
    vocab = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(4, WORDS))]
    tables = {"train": table(train), "valid": table(valid)}
    made = SimpleNamespace(vocab=vocab, ids=lambda split: tables[split][0],
                           lengths=lambda split: tables[split][1],
                           encode=lambda words: [vocab.index(word) if word in vocab else UNK
                                                 for word in words])
    made.words = made
    return made


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    corpus, folder = corpus_of(random_texts(80, 3), random_texts(20, 4)), tmp_path_factory.mktemp("teacher")
    events = list(count_teacher(3, corpus, folder / "a"))
    return corpus, folder / "a", events[-1]


def test_a_teacher_from_disk_scores_sentences_as_all_teachers_do(written):
    corpus, folder, facts = written
    teacher = load_teacher(folder, corpus)
    assert isinstance(teacher, Teacher) and teacher.name == "kneser-ney-3-words" == facts["name"]
    sentences = [["w4", "w5"], [], ["w4", "elsewhere", "w5"]]
    sums, counts = teacher.nll(sentences)
    model = KneserNey.count(corpus.ids("train"), corpus.lengths("train"), WORDS, 3)
    wanted = -model.log_probs(*table([[4, 5], [], [4, UNK, 5]]))
    wanted[2] += math.log(WORDS)
    assert counts.tolist() == [3, 1, 4] and np.allclose(sums.numpy(), wanted)
    assert all(len(part) == 0 for part in teacher.nll([]))
    order = teacher.nll(sentences[::-1])[0]
    assert np.allclose(order.numpy(), wanted[::-1])


def test_counting_again_writes_the_same_bytes(written, tmp_path):
    corpus, folder, facts = written
    again = list(count_teacher(3, corpus, tmp_path / "b"))[-1]
    assert again["heldout_perplexity"] == facts["heldout_perplexity"] > 1
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_longer_histories_help_on_text_that_has_them():
    texts = random_texts(400, 5)
    nats = [-KneserNey.count(*table(texts[:300]), WORDS, order).log_probs(*table(texts[300:])).sum()
            for order in (1, 2)]
    assert nats[1] < 0.95 * nats[0]


def test_what_is_wrong_is_one_line(written, tmp_path):
    import shutil
    corpus, folder, _ = written
    other = corpus_of([[4]], [[4], [4]])
    other.vocab = [*corpus.vocab, "more"]
    with pytest.raises(UserError, match="teacher.json: this teacher counted another vocabulary"):
        load_teacher(folder, other)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError,
                       match="model.safetensors: cannot be read as the teacher's counts") as caught:
        load_teacher(copy, corpus)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="0 training and 2 held-out"):
        list(count_teacher(3, SimpleNamespace(words=SimpleNamespace(
            vocab=corpus.vocab, ids=corpus.ids, lengths=lambda split: [] if split == "train" else [1, 1])),
                           tmp_path))
