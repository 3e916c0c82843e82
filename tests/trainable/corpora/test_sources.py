"""The corpora that read files: e2e, rocstories, lines; what they refuse, and the real texts where
they are at hand."""

import csv
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.config import CorpusConfig, PluginRef
from spaces.errors import UserError
from trainable.corpora.base import Corpus
from trainable.corpora.lines import sentences
from trainable.corpora.sources import held_out
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import SPECIALS, TokenizedCorpus
from trainable.corpora.words import splitter
from trainable.registry import CORPORA

MR = "name[The Vaults], eatType[pub], priceRange[more than £30], familyFriendly[no], near[Café Adriatic]"
FIELDS = {"name": "The Vaults", "Type": "pub", "price": "more than £ 30",
          "family friendly": "no", "near": "Café Adriatic"}
REF = "The Vaults pub isn't far from Café Adriatic.  Prices start\nat £30."
WORDS = ("The Vaults pub is n't far from Café Adriatic . Prices start at £ 30 .").split()
SRC1 = "name : The Vaults | Type : pub | price : more than £ 30||The Vaults is a pub . \n"


def corpus(name: str, **params) -> Corpus:
    return CORPORA.build(PluginRef(name=name, **params))


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def refusal(made: Corpus, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        list(made.examples(split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestE2E:
    def test_csv_and_src1_say_the_same_fields(self, tmp_path):
        for name in ("trainset.csv", "devset.csv"):
            write_csv(tmp_path / name, ["mr", "ref"], [[MR, REF]])
        (example,) = corpus("e2e", path=str(tmp_path)).examples("valid")
        assert list(example.words) == WORDS
        assert example.fields == FIELDS
        (tmp_path / "src1_train.txt").write_text(SRC1 * 2)
        (tmp_path / "src1_valid.txt").write_text(SRC1)
        example, _ = corpus("e2e", path=str(tmp_path)).examples("train")
        assert " ".join(example.words) == "The Vaults is a pub ."
        assert example.fields == {"name": "The Vaults", "Type": "pub", "price": "more than £ 30"}

    def test_a_single_file_is_split_by_meaning(self, tmp_path):
        rows = [[f"name[Place {i % 20}]", f"Text {i} ."] for i in range(100)]
        path = write_csv(tmp_path / "some.csv", ["mr", "ref"], rows)
        made = corpus("e2e", path=str(path), valid_share=0.25)
        train, valid = ({e.fields["name"] for e in made.examples(split)} for split in ("train", "valid"))
        assert len(valid) == 5 and len(train) == 15 and not train & valid

    @pytest.mark.parametrize(("newline", "vocab", "last"),
                             [("row", 1, "."), ("word", 1, "\n"), ("none", 0, ".")])
    def test_the_line_break(self, tmp_path, newline, vocab, last):
        for name in ("src1_train.txt", "src1_valid.txt"):
            (tmp_path / name).write_text(SRC1)
        source = PluginRef(name="e2e", path=str(tmp_path), newline=newline)
        build(CorpusConfig(source=source, min_count=0), tmp_path / "out")
        opened = TokenizedCorpus.open(tmp_path / "out")
        assert opened.vocab.count("\n") == vocab and len(opened.vocab) == 4 + 6 + vocab
        assert opened.decode(opened.ids("train")[0])[-1] == opened.rows("train", [0])[0]["words"][-1] == last

    @pytest.mark.parametrize("line", [
        "name : X | Type : pub | The Vaults .", "name X||A pub .", " : X||A pub .", "||A pub .",
        "name : X | Type : ||A pub .",
    ])
    def test_a_malformed_src1_line_is_named(self, tmp_path, line):
        for name in ("src1_train.txt", "src1_valid.txt"):
            (tmp_path / name).write_text(SRC1 + "\n" + line + "\n")
        message = refusal(corpus("e2e", path=str(tmp_path)))
        assert f"{tmp_path / 'src1_train.txt'}, line 3: expected `field : value" in message

    @pytest.mark.parametrize(("row", "problem"), [
        (["name[X", "A pub ."], "expected a meaning like"), (["name", "A pub ."], "expected a meaning like"),
        (["name[X]"], "does not have 2 columns"), (["name[X]", "A", "pub"], "does not have 2 columns"),
    ])
    def test_a_malformed_csv_row_is_named(self, tmp_path, row, problem):
        for name in ("trainset.csv", "devset.csv"):
            write_csv(tmp_path / name, ["mr", "ref"], [["name[Y]", "A pub ."], row])
        message = refusal(corpus("e2e", path=str(tmp_path)))
        assert f"{tmp_path / 'trainset.csv'}, line 3" in message and problem in message

    def test_what_is_not_there_is_named(self, tmp_path):
        assert "neither src1_train.txt nor trainset.csv" in refusal(corpus("e2e", path=str(tmp_path)))
        (tmp_path / "src1_train.txt").write_text(SRC1)
        assert "src1_valid.txt: no such file" in refusal(corpus("e2e", path=str(tmp_path)))
        (tmp_path / "text.pdf").write_text("")
        assert "is not .txt or .csv" in refusal(corpus("e2e", path=str(tmp_path / "text.pdf")))
        write_csv(tmp_path / "other.csv", ["mr", "text"], [])
        assert "no column ref" in refusal(corpus("e2e", path=str(tmp_path / "other.csv")))
        (tmp_path / "latin.txt").write_bytes("name : Café||Café .".encode("latin-1"))
        message = refusal(corpus("e2e", path=str(tmp_path / "latin.txt")))
        assert ("latin.txt, line 1: cannot be read as UTF-8 (byte 0xE9 at 10); if it is Latin-1, "
                "write it anew: iconv " in message)
        (tmp_path / "quote.csv").write_text('mr,ref\n"name[X]" y,"open\n')
        assert "quote.csv, line" in refusal(corpus("e2e", path=str(tmp_path / "quote.csv")))

    def test_path_or_hub_must_be_set(self):
        for params in ({}, {"hub": True, "path": "x"}):
            with pytest.raises(UserError, match="set either path .* or hub: true"):
                corpus("e2e", **params)

    def test_hub_goes_through_datasets(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        columns = ["meaning_representation", "human_reference"]
        (tmp_path / "set").mkdir()
        write_csv(tmp_path / "set" / "train.csv", columns, [[MR, REF]] * 3)
        write_csv(tmp_path / "set" / "validation.csv", columns, [[MR, "The Vaults ."]])
        made = corpus("e2e", hub=True, hub_name=str(tmp_path / "set"), hub_revision=None)
        assert [list(e.words) for e in made.examples("train")] == [WORDS] * 3
        assert [e.fields for e in made.examples("valid")] == [FIELDS]
        assert all(path.suffix == ".arrow" for path in made.sources()) and len(made.fingerprint()) == 64

    @pytest.mark.parametrize("error",
                             [ConnectionError("no\nroute"), RuntimeError("scripts are no longer supported"),
                              datasets.exceptions.DatasetNotFoundError("gone"), ValueError("offline")])
    def test_a_hub_that_does_not_answer_is_a_user_error(self, monkeypatch, error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        message = refusal(corpus("e2e", hub=True, hub_name="some/set"))
        assert "cannot load some/set" in message and "set path to" in message

    def test_a_hub_set_of_another_kind_is_a_user_error(self, monkeypatch):
        other = datasets.DatasetDict(train=datasets.Dataset.from_list([{"text": "x"}]))
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: other)
        assert "no split 'train' with the columns meaning_representation" in refusal(corpus("e2e", hub=True))

    def test_the_published_vocabulary(self, e2e):
        assert len(e2e.vocab) == e2e.stats["vocabulary"] == 821
        assert e2e.stats["sentences"] == {"train": 42_059, "valid": 4_669}
        assert e2e.stats["dropped"] == {"train": 2, "valid": 3}
        assert e2e.stats["unk_rate"]["train"] == pytest.approx(0.00574, abs=1e-5)
        assert e2e.encode(["\n"]) == [820] and not (e2e.ids("train") == 820).any()

    def test_the_vocabulary_of_words_between_spaces(self, data_dir, tmp_path):
        build(CorpusConfig(source=PluginRef(name="e2e", path=str(data_dir / "e2e"), tokenizer="whitespace")),
              tmp_path)
        opened = TokenizedCorpus.open(tmp_path)
        assert len(opened.vocab) == opened.stats["vocabulary"] == 822

    def test_the_real_csv_files(self, data_dir):
        made = corpus("e2e", path=str(data_dir / "e2e" / "devset.csv"), tokenizer="whitespace",
                      valid_share=0.1)
        counts = [sum(1 for _ in made.examples(split)) for split in ("train", "valid")]
        assert sum(counts) == 4672 and counts[1] > 300
        assert sum(1 for _ in corpus("e2e", path=str(data_dir / "e2e" / "trainset.csv"),
                                     tokenizer="whitespace", valid_share=0.5).examples("valid")) > 10_000


class TestROCStories:
    HEADER = ["storyid", "storytitle", *(f"sentence{i}" for i in range(1, 6))]

    def story(self, i: int) -> list[str]:
        return [f"id-{i}", "Title", f"Ann has {i} cats.", "One ran, fast.", 'It said "meow".',
                "Bob didn't care.", "The end!"]

    def test_five_sentences_become_one_example(self, tmp_path):
        path = write_csv(tmp_path / "roc.csv", self.HEADER, [self.story(i) for i in range(40)])
        made = corpus("rocstories", path=str(path), valid_share=0.25)
        train, valid = list(made.examples("train")), list(made.examples("valid"))
        assert (len(train), len(valid)) == (30, 10)
        number = train[0].words[2]
        assert " ".join(train[0].words) == (f'Ann has {number} cats . One ran , fast . It said " meow " . '
                                            "Bob did n't care . The end !")
        assert train[0].fields is None and train[0].tree is None

    def test_only_the_columns_that_are_read_are_asked_for(self, tmp_path):
        path = write_csv(tmp_path / "roc.csv", self.HEADER[2:], [self.story(i)[2:] for i in range(4)])
        assert len(list(corpus("rocstories", path=str(path)).examples("train"))) == 3

    def test_a_file_of_held_out_stories(self, tmp_path):
        path = write_csv(tmp_path / "roc.csv", self.HEADER, [self.story(i) for i in range(4)])
        other = write_csv(tmp_path / "valid.csv", self.HEADER, [self.story(9)])
        made = corpus("rocstories", path=str(path), valid_path=str(other))
        assert len(list(made.examples("train"))) == 4
        assert [e.words[2] for e in made.examples("valid")] == ["9"]
        before = made.fingerprint()
        write_csv(other, self.HEADER, [self.story(8)])
        assert made.fingerprint() != before

    def test_missing_columns_and_rows_cut_short_are_named(self, tmp_path):
        path = write_csv(tmp_path / "roc.csv", self.HEADER[:-2], [self.story(0)[:-2]])
        assert f"{path}: no column sentence4, sentence5" in refusal(corpus("rocstories", path=str(path)))
        write_csv(path, self.HEADER, [self.story(0), self.story(1)[:-1]])
        assert f"{path}, line 3: the row does not have 7 columns" in refusal(corpus("rocstories",
                                                                                    path=str(path)))
        path.write_text("")
        assert ("no column sentence1, " in (message := refusal(corpus("rocstories", path=str(path))))
                and "found: none" in message)
        write_csv(path, ["sentence1", "title"], [])
        assert "no column sentence2, sentence3, sentence4, sentence5 (found: sentence1, title); expected " \
            in refusal(corpus("rocstories", path=str(path)))
        with pytest.raises(UserError, match="'path'"):
            corpus("rocstories")


class TestLines:
    def test_lines_headings_and_unknown_words(self, tmp_path):
        (tmp_path / "a.txt").write_text(" \n = Title = \n\n a = b . \n = = Part = = \n <unk> c = \n= d\n")
        made = corpus("lines", path=str(tmp_path / "a.txt"), valid_path=str(tmp_path / "a.txt"),
                      skip_headings=True)
        assert [" ".join(e.words) for e in made.examples("train")] == ["a = b .", "UNK c =", "= d"]
        made = corpus("lines", path=str(tmp_path / "a.txt"), valid_path=str(tmp_path / "a.txt"), min_words=4,
                      unknown="")
        assert [" ".join(e.words) for e in made.examples("train")] == ["a = b .", "= = Part = ="]

    def test_only_long_lines_are_cut(self, tmp_path):
        (tmp_path / "a.txt").write_text("A b . C d .\nA b . C d . E f .\n")
        made = corpus("lines", path=str(tmp_path / "a.txt"), valid_path=str(tmp_path / "a.txt"), max_words=6)
        assert ([" ".join(e.words) for e in made.examples("train")]
                == ["A b . C d .", "A b .", "C d .", "E f ."])

    @pytest.mark.parametrize(("text", "cuts"), [
        ("He came . She left ! Why ? Nobody knows", "He came .|She left !|Why ?|Nobody knows"),
        ("Mr. Smith met Dr. J. Doe at 3 p.m. on No. 5 . He left",
         "Mr. Smith met Dr. J. Doe at 3 p.m. on No. 5 .|He left"),
        ('He said " go . " She went .', 'He said " go . "|She went .'),
        ('It ended . " Good " , he said .', 'It ended .|" Good " , he said .'),
        ("( It rained . ) We stayed .", "( It rained . )|We stayed ."),
        ("It cost 5 . 5 came .", "It cost 5 .|5 came ."),
        ("He waited . . . and left .", "He waited .|.|. and left ."),
        ("One sentence.  Two sentences.", "One sentence.|Two sentences."),
    ])
    def test_where_sentences_end(self, text, cuts):
        assert [" ".join(part) for part in sentences(text.split())] == cuts.split("|")

    @given(st.lists(st.sampled_from("a B . ! ? \" ' ) Mr. x.y z. 5 ” ,".split())))
    def test_cutting_loses_no_word(self, words):
        parts = list(sentences(words))
        assert [word for part in parts for word in part] == words
        assert all(parts)

    def test_wikitext(self, data_dir, tmp_path):
        source = PluginRef(name="lines", path=str(data_dir / "wikitext2" / "valid.txt"), skip_headings=True,
                           max_words=62, min_words=5)
        config = CorpusConfig(source=source)
        build(config, tmp_path)
        opened = TokenizedCorpus.open(tmp_path)
        stats = opened.stats
        assert 6_000 < stats["sentences"]["train"] < 9_000 and 200 < stats["sentences"]["valid"] < 800
        assert stats["dropped"]["train"] < 0.03 * stats["sentences"]["train"]
        assert (2_000 < stats["vocabulary"] < 3_000 and "<unk>" not in opened.vocab
                and opened.vocab[:4] == list(SPECIALS))
        for row in opened.rows("train", range(500)):
            assert not row["text"].startswith("= ") and len(row["words"]) >= 5

    def test_not_text_is_named(self, tmp_path):
        (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
        assert ("a.bin: cannot be read as UTF-8: it is UTF-16 text"
                in refusal(corpus("lines", path=str(tmp_path / "a.bin"))))
        (tmp_path / "b.bin").write_bytes(b"\x89PNG\x00\x00")
        assert ("b.bin: cannot be read as UTF-8: it holds zero bytes"
                in refusal(corpus("lines", path=str(tmp_path / "b.bin"))))
        assert "is a folder" in refusal(corpus("lines", path=str(tmp_path)))
        (tmp_path / "a.txt").write_text("a\n")
        made = corpus("lines", path=str(tmp_path / "a.txt"), valid_path=str(tmp_path / "b.txt"))
        assert "b.txt: no such file" in refusal(made)


@given(keys=st.lists(st.text(max_size=3), max_size=60), share=st.floats(0.01, 0.99))
def test_holding_out(keys, share):
    chosen = held_out(keys, share)
    out = {key for key, valid in zip(keys, chosen, strict=True) if valid}
    kept = {key for key, valid in zip(keys, chosen, strict=True) if not valid}
    assert not out & kept
    n = len(set(keys))
    assert len(out) == (min(max(1, round(share * n)), n - 1) if n else 0)
    assert held_out(keys[::-1], share) == chosen[::-1]


@pytest.mark.parametrize("tokenizer", ["spacy", "whitespace"])
def test_words_hold_no_space_and_keep_the_rest(tokenizer):
    words_of = splitter(tokenizer)

    @given(text=st.text(max_size=40))
    def check(text):
        words = words_of(text)
        assert all(word and " " not in word and not word.isspace() for word in words)
        assert "".join("".join(words).split()) == "".join(text.split())

    check()
