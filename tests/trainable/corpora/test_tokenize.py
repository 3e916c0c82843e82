"""The tokenized corpus on disk: damage, words that look like specials, sizes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.config import CorpusConfig, PluginRef
from spaces.errors import UserError
from trainable import registry
from trainable.corpora import tokenize
from trainable.corpora.base import Corpus, Example
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import END, PAD, START, UNK, TokenizedCorpus

FILES = ("vocab.json", "stats.json", "train.arrow", "valid.arrow")


def small(path: Path, lines: list[str]) -> CorpusConfig:
    """A `lines` corpus whose splits both hold `lines`."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = PluginRef(name="lines", path=str(path), valid_path=str(path))
    return CorpusConfig(source=source, max_length=10, min_count=0)


@pytest.fixture
def folder(tmp_path) -> Path:
    build(small(tmp_path / "text.txt", ["a b c", "d e", "f"] * 50), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_a_truncated_file_is_named(folder, name, share):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
    with pytest.raises(UserError) as caught:
        TokenizedCorpus.open(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        TokenizedCorpus.open(folder)


@pytest.mark.parametrize("content", ["{}", "[]", '["a", "b", "c", "d"]', "null"])
def test_a_word_list_without_the_specials_is_refused(folder, content):
    (folder / "vocab.json").write_text(content)
    with pytest.raises(UserError, match="vocab.json"):
        TokenizedCorpus.open(folder)


def test_another_kind_of_file_is_refused(folder):
    (folder / "train.arrow").write_bytes(b"not arrow" * 100)
    with pytest.raises(UserError, match="train.arrow"):
        TokenizedCorpus.open(folder)


def test_words_spelled_like_specials_are_ordinary_words(tmp_path):
    build(small(tmp_path / "text.txt", ["the END of PAD <unk> START"]), tmp_path / "out")
    corpus = TokenizedCorpus.open(tmp_path / "out")
    assert corpus.decode(corpus.ids("train")[0]) == ["the", "END", "of", "PAD", "UNK", "START"]
    assert corpus.vocab == ["START", "END", "UNK", "PAD", "the", "END", "of", "PAD", "START"]
    assert corpus.ids("train")[0].tolist() == [START, 4, 5, 6, 7, UNK, 8, END, PAD, PAD]
    assert corpus.encode(["END", "UNK"]) == [5, UNK]


def test_words_of_the_held_out_text_alone_are_unknown(tmp_path):
    (tmp_path / "valid.txt").write_text("a z\n")
    config = small(tmp_path / "train.txt", ["a b"])
    source = PluginRef(name="lines", path=str(tmp_path / "train.txt"), valid_path=str(tmp_path / "valid.txt"))
    build(config.model_copy(update={"source": source}), tmp_path / "out")
    corpus = TokenizedCorpus.open(tmp_path / "out")
    assert corpus.vocab[4:] == ["a", "b"]
    assert corpus.ids("valid")[0, :4].tolist() == [START, 4, UNK, END]
    assert corpus.stats["unk_rate"] == {"train": 0.0, "valid": 0.5}


def test_many_batches_become_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "BATCH", 7)
    build(small(tmp_path / "text.txt", [f"w{i} w{i % 3}" for i in range(100)]), tmp_path / "out")
    corpus = TokenizedCorpus.open(tmp_path / "out")
    assert [corpus.decode(row) for row in corpus.ids("train")] == [[f"w{i}", f"w{i % 3}"] for i in range(100)]
    assert corpus.rows("train", [99])[0]["text"] == "w99 w0"
    assert corpus.ids("train").flags.c_contiguous


def test_nothing_short_enough_is_a_user_error(tmp_path):
    config = small(tmp_path / "text.txt", ["a b c d e f g h i"])
    with pytest.raises(
            UserError,
            match=r"'lines': no training text is left of 1: 1 have more than corpus.max_length - 2 = 8 "
            r"words; the first is .*text.txt, line 1$"):
        build(config, tmp_path / "out")
    assert not (tmp_path / "out" / "train.arrow").exists()


def test_a_word_with_a_space_is_a_bug_of_the_corpus(tmp_path, monkeypatch):
    class Broken(Corpus):
        name = "broken"
        Params = registry.Params

        def examples(self, split) -> Iterator[Example]:
            yield Example(("two words",))

    monkeypatch.setattr(tokenize.CORPORA, "build", lambda ref: Broken(registry.Params()))
    with pytest.raises(ValueError, match="'two words'"):
        build(CorpusConfig(), tmp_path)


def test_decode_stops_at_the_first_end(folder):
    corpus = TokenizedCorpus.open(folder)
    assert corpus.decode(np.array([START, 4, PAD, 5, START, 6, END, 7])) == ["a", "b", "c"]
    assert corpus.decode([4, UNK]) == ["a", "UNK"]
    assert corpus.decode([END]) == corpus.decode([]) == []


@given(words=st.lists(st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=5),
                      max_size=20))
def test_any_word_has_an_id(words):
    corpus = TokenizedCorpus(["START", "END", "UNK", "PAD", "a", "b"], {}, {})
    ids = corpus.encode(words)
    assert len(ids) == len(words)
    assert corpus.decode(ids) == [word if word in ("a", "b") else "UNK" for word in words]


def test_building_twice_gives_the_same_bytes(folder, tmp_path):
    build(small(tmp_path / "text.txt", ["a b c", "d e", "f"] * 50), tmp_path / "again")
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert json.loads((folder / "stats.json").read_text())["sentences"] == {"train": 150, "valid": 150}
