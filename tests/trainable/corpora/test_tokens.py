"""A tokenizer's tokens as the ids of a corpus: words come back, marks are found, what does not do is one
line."""

import json

import numpy as np
import pytest
import tokenizers_made
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from spaces.config import CorpusConfig, PluginRef
from spaces.errors import UserError
from trainable.control.lexicon import Lexicon
from trainable.corpora import subwords
from trainable.corpora.tokenized import END, PAD, START, UNK, TokenizedCorpus
from trainable.corpora.tokens import NEW, NOWHERE, Tokens, tokenizer_key

WORDS = [text.split() for text in tokenizers_made.TEXTS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: tokenizers_made.write(root / kind, kind) for kind in tokenizers_made.KINDS}


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_words_come_back_as_they_were(folders, kind):
    tokens = Tokens.open(folders[kind])
    for words in WORDS:
        rows = tokens.encode(words)
        assert tokens.decode(rows) == words and min(rows) >= 4
        assert rows == [row for word in words for row in tokens.word(word)]


@pytest.fixture(scope="module")
def opened(folders):
    return {kind: Tokens.open(folder) for kind, folder in folders.items()}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=6), max_size=6))
def test_bytes_write_any_word(opened, words):
    words = [word for word in words if word.split() == [word] and word != "UNK"]
    assert opened["bytes"].decode(opened["bytes"].encode(words)) == words


def test_signs_inside_words_are_words_of_wordpiece_and_spaces_stay(folders):
    tokens = Tokens.open(folders["wordpiece"])
    assert tokens.decode(tokens.encode(WORDS[0])) == WORDS[0]
    assert tokens.decode(tokens.encode(["isn't"])) == ["isn", "'", "t"]
    assert tokens.decode(tokens.encode(["a", "☃", "pub"])) == ["a", "UNK", "pub"]


@pytest.mark.parametrize("kind", tokenizers_made.KINDS)
def test_rows_are_the_tokens_with_marks_in_front_and_mask_behind(folders, kind):
    tokens, library = Tokens.open(folders[kind]), Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    rows = tokens.table_rows()
    named = json.loads((folders[kind] / "tokenizer_config.json").read_text())
    start = named.get("bos_token", named.get("cls_token"))
    assert rows[0] == (NOWHERE if start is None else library.token_to_id(start))
    assert rows[-1] == library.token_to_id(named["mask_token"])
    assert rows[1] == library.token_to_id(named.get("eos_token", named.get("sep_token")))
    special = {library.token_to_id(text) for text in named.values()}
    assert rows[4:-1] == [i for i in range(library.get_vocab_size()) if i not in special]
    assert tokens.spellings() == [library.id_to_token(i) for i in rows[4:-1]]


@pytest.mark.parametrize("kind", tokenizers_made.KINDS)
def test_tokens_that_begin_words_keep_count(folders, kind):
    """Any row of such tokens has as many words as tokens."""
    tokens = Tokens.open(folders[kind])
    begins = np.flatnonzero(tokens.starts)[4:]
    assert 5 < len(begins) < len(tokens.ids)
    drawn = np.random.default_rng(0).choice(begins, (20, 7))
    assert [len(tokens.decode(row.tolist())) for row in drawn] == [7] * 20
    whole = [word for word in WORDS[0] if len(tokens.word(word)) == 1]
    assert whole and tokens.word_rows([*whole, "zqx"]) == [*(tokens.word(w)[0] for w in whole), UNK]


def corpus_config(tmp_path, folder, **changes):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tokenizers_made.TEXTS * 20) + "\n")
    source = PluginRef(name="lines", path=str(text), valid_path=str(text))
    settings = dict(source=source, max_length=40, min_count=0, tokenizer=str(folder))
    return CorpusConfig(**{**settings, **changes})


@pytest.mark.parametrize("kind", tokenizers_made.KINDS)
def test_a_corpus_in_tokens_reads_as_the_same_text(tmp_path, folders, kind):
    subwords.build(corpus_config(tmp_path, folders[kind]), tmp_path / "out")
    corpus = TokenizedCorpus.open(tmp_path / "out")
    row = corpus.ids("train")[0]
    assert row[0] == START and (row == END).sum() == 1 and row[-1] == PAD
    assert corpus.decode(row) == WORDS[0] == corpus.words.decode(corpus.words.ids("train")[0])
    assert corpus.lengths("train")[0] == len(WORDS[0]) and corpus.words.tokens is None
    ids = corpus.encode(WORDS[0])
    assert [START, *ids, END] == row[:len(ids) + 2].tolist()
    assert (corpus.stats["changed_words"]["train"] > 0) == (kind == "wordpiece")
    lexicon = Lexicon.from_json(json.loads(json.dumps(Lexicon.of(corpus).to_json())))
    assert lexicon.decode(row.tolist()) == WORDS[0] and lexicon.encode(WORDS[0]) == corpus.encode(WORDS[0])
    assert lexicon.vocab == corpus.vocab


def test_the_vocabulary_may_be_what_training_text_has(tmp_path, folders):
    config = corpus_config(tmp_path, folders["bytes"], tokens="seen", min_count=5)
    subwords.build(config, tmp_path / "out")
    corpus = TokenizedCorpus.open(tmp_path / "out")
    assert 4 < len(corpus.vocab) < len(Tokens.open(folders["bytes"]).ids)
    assert corpus.decode(corpus.ids("valid")[1]) == WORDS[1]
    assert "UNK" in corpus.decode(corpus.encode(["xylophone"])) and corpus.stats["unk_rate"]["train"] < 0.2


def test_texts_of_too_many_tokens_are_counted(tmp_path, folders):
    subwords.build(corpus_config(tmp_path, folders["bytes"], max_length=13), tmp_path / "out")
    stats = TokenizedCorpus.open(tmp_path / "out").stats
    assert stats["dropped"]["train"] > 0 and stats["sentences"]["train"] > 0
    with pytest.raises(UserError, match=r"no training text is left of .* corpus.max_length - 2 = 12 tokens"):
        subwords.build(corpus_config(tmp_path, folders["wordpiece"], max_length=14), tmp_path / "none")


def test_a_tokenizer_without_mask_is_refused_unless_a_row_is_asked_for(tmp_path):
    folder = tokenizers_made.write(tmp_path / "bare", "bytes", mask=False)
    with pytest.raises(UserError, match=r"^corpus.tokenizer: .*tokenizer.json: a tokenizer without MASK; "
                                        r"name .* corpus.mask: new"):
        Tokens.open(folder)
    assert Tokens.open(folder, NEW).marks.mask == NOWHERE
    assert Tokens.open(folder, "a").table_rows()[-1] == Tokenizer.from_file(
        str(folder / "tokenizer.json")).token_to_id("a")
    with pytest.raises(UserError, match="corpus.mask: .* has no token 'nothing'"):
        Tokens.open(folder, "nothing")


@pytest.mark.parametrize(("files", "message"), [
    ({}, "holds no tokenizer that can be read"),
    ({"tokenizer.json": "{]"}, "tokenizer.json: cannot be read as a tokenizer"),
    ({"tokenizer.json": '{"model": {"type": "strange"}}'}, "tokenizer.json: cannot be read as a tokenizer"),
    ({"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a.T", null]}}'},
     "tokenizer_config.json: auto_map asks for code of its own, which is never run"),
])
def test_what_is_no_tokenizer_is_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Tokens.open(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        Tokens.open(tmp_path / "nowhere")


def test_the_key_is_of_the_content(tmp_path, folders):
    import shutil
    copy = shutil.copytree(folders["bytes"], tmp_path / "copy")
    assert tokenizer_key(copy, None) == tokenizer_key(folders["bytes"], None) != tokenizer_key(copy, NEW)
