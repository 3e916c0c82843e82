"""What is not in a corpus: rows without words, texts that are too long, unknown words; counted,
warned of, refused."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from spaces.config import CorpusConfig, PluginRef, TrialConfig
from spaces.errors import UserError
from trainable.corpora import shares
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import START, TokenizedCorpus
from trainable.stages.prepare import corpus_key, prepare_corpus

BLANK = "\u200b \ufeff\u00a0"
"""Nothing that can be seen: a zero-width space, a mark, a hard space."""


def built(tmp_path: Path, max_length=10, min_count=0, **source) -> TokenizedCorpus:
    build(CorpusConfig(source=PluginRef(**source), max_length=max_length, min_count=min_count),
          tmp_path / "out")
    return TokenizedCorpus.open(tmp_path / "out")


def refusal(tmp_path: Path, **given) -> str:
    with pytest.raises(UserError) as caught:
        built(tmp_path, **given)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    return str(caught.value)


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def stories(texts):
    return [[f"sentence{i}" for i in range(1, 6)], *([text] * 5 for text in texts)]


def e2e_files(folder: Path, train, valid):
    for name, texts in (("trainset.csv", train), ("devset.csv", valid)):
        write_csv(folder / name, [["mr", "ref"], *(["name[Aromi]", text] for text in texts)])
    return {"name": "e2e", "path": str(folder)}


def src1_files(folder: Path, train, valid):
    for name, texts in (("src1_train.txt", train), ("src1_valid.txt", valid)):
        (folder / name).write_text("".join(f"name : Aromi||{text}\n" for text in texts), encoding="utf-8")
    return {"name": "e2e", "path": str(folder)}


def hub_files(folder: Path, train, valid):
    for name, texts in (("train", train), ("validation", valid)):
        rows = [{"meaning_representation": "name[Aromi]" if text else None, "human_reference": text}
                for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "e2e", "hub": True, "hub_name": str(folder), "hub_revision": None}


def roc_files(folder: Path, train, valid):
    paths = [write_csv(folder / f"{name}.csv", stories(text or "" for text in texts))
             for name, texts in (("train", train), ("valid", valid))]
    return {"name": "rocstories", "path": str(paths[0]), "valid_path": str(paths[1])}


def json_files(folder: Path, train, valid):
    for name, texts in (("train", train), ("valid", valid)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"name": "lines", "path": str(folder / "train.jsonl"), "valid_path": str(folder / "valid.jsonl")}


MAKERS = [e2e_files, src1_files, hub_files, roc_files, json_files]


@pytest.mark.parametrize("make", MAKERS)
class TestRowsWithoutWords:
    """Of whatever reader."""

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path_factory):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def nothing(self, make):
        return None if make in (hub_files, json_files) else ""

    def test_they_are_left_out_and_counted(self, make, tmp_path):
        nothing = self.nothing(make)
        corpus = built(tmp_path, **make(tmp_path, ["a pub .", nothing, BLANK, "a cafe ."],
                                        [nothing, "a pub ."]), max_length=30)
        assert (corpus.stats["empty"] == {"train": 2, "valid": 1}
                and corpus.stats["sentences"] == {"train": 2, "valid": 1})
        assert corpus.lengths("train").min() > 0 and corpus.lengths("valid").min() > 0

    @pytest.mark.parametrize("split", ["train", "valid"])
    def test_where_nothing_is_left_file_and_row_are_named(self, make, tmp_path, split):
        texts = {"train": ["a pub ."] * 3, "valid": ["a pub ."], split: [self.nothing(make), BLANK]}
        message = refusal(tmp_path, **make(tmp_path, **texts), max_length=30)
        kind = {"train": "training", "valid": "held-out"}[split]
        assert f"no {kind} text is left of 2: 2 hold no words; the first is {tmp_path}" in message
        # under a header it is the second
        assert any(place in message for place in ("line 1", "line 2", "row 1"))


class TestHoldingOut:
    def test_rows_without_words_are_never_the_held_out_part(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [["text"], ["a b"], *([["  "]] * 500), ["c d"], [BLANK]])
        corpus = built(tmp_path, name="lines", path=str(path))
        assert (corpus.stats["sentences"] == {"train": 1, "valid": 1}
                and corpus.stats["empty"] == {"train": 501, "valid": 0})

    @pytest.mark.parametrize(("content", "told"), [
        ("one line\n", "1 different text with words in 1 row, so none can be held out"),
        ("again\n" * 9, "1 different text with words in 9 rows"),
        ("\n \n", "0 different texts with words in 0 rows"),
        (f"{BLANK}.\n{BLANK}\n", "1 different text with words in 2 rows"),
    ])
    def test_a_file_of_one_text_names_the_cause_and_the_way_out(self, tmp_path, content, told):
        (tmp_path / "a.txt").write_text(content)
        message = refusal(tmp_path, name="lines", path=str(tmp_path / "a.txt"))
        assert told in message and "expected at least 2, or a file of their own as valid_path" in message
        assert "max_length" not in message

    def test_one_meaning_alone(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [["mr", "ref"], ["name[X]", "a"], ["name[X]", "b"], ["", ""]])
        assert "or a folder with both splits" in refusal(tmp_path, name="e2e", path=str(path))


def test_a_folder_of_before_that_holds_empty_rows_opens_without_them(tmp_path):
    corpus = built(tmp_path, **json_files(tmp_path, ["a b", "c", "d e f"], ["a"]))
    batch = corpus._batches["train"]
    lengths = pa.array([2, 0, 3], pa.int32())
    place = batch.schema.get_field_index("length")
    with pa.OSFile(str(tmp_path / "new.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch.set_column(place, "length", lengths))
    (tmp_path / "new.arrow").replace(tmp_path / "out" / "train.arrow")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    (tmp_path / "out" / "stats.json").write_text(json.dumps({key: stats[key] for key in stats
                                                             if key not in ("empty", "language")}))
    opened = TokenizedCorpus.open(tmp_path / "out")
    assert opened.lengths("train").tolist() == [2, 3] and opened.ids("train").shape == (2, 10)
    assert (opened.ids("train")[:, 0] == START).all()
    assert [row["text"] for row in opened.rows("train", [0, 1])] == ["a b", "d e f"]
    assert shares.warnings(opened.stats, CorpusConfig()) == []


def config(tmp_path: Path, texts, **corpus) -> TrialConfig:
    source = json_files(tmp_path, texts, corpus.pop("valid", ["a b"] * 2))
    return TrialConfig.model_validate({"corpus": {"source": source, "max_length": 10, "min_count": 1,
                                                  **corpus}})


def last(tmp_path: Path, config: TrialConfig) -> dict:
    return list(prepare_corpus(config, tmp_path / "cache"))[-1]


def test_a_good_corpus_says_its_shares_and_warns_of_nothing(tmp_path):
    event = last(tmp_path, config(tmp_path, ["a b"] * 20))
    assert event["warnings"] == [] and event["unk_rate"] == {"train": 0.0, "valid": 0.0}
    assert event["sentences"] == {"train": 20, "valid": 2} and event["mean_words"]["train"] == 2.0


@pytest.mark.parametrize(("texts", "told"), [
    (["a b"] * 18 + ["a " * 9] * 2,
     "10% of 20 training texts are left out: 2 have more than 8 words; raise corpus.max_length (now 10)"),
    (["a b"] * 18 + [None] * 2,
     "10% of 20 training texts are left out: 2 hold none; fill or delete the rows"),
    (["a b"] * 18 + ["a x", "a y"],
     "5% of the training words are outside the vocabulary of 6 and become UNK; lower corpus.min_count"),
])
def test_beyond_a_share_it_warns_and_beyond_another_it_does_not_begin(tmp_path, texts, told):
    bounds = {"warn_left_out": 0.04, "warn_unknown": 0.04}
    (warning,) = last(tmp_path, config(tmp_path, texts, **bounds))["warnings"]
    assert told in warning and "warned of beyond corpus.warn_" in warning
    assert last(tmp_path, config(tmp_path, texts, warn_left_out=0.5, warn_unknown=0.5))["warnings"] == []
    with pytest.raises(UserError, match="or accept it: corpus.refuse_") as caught:
        last(tmp_path, config(tmp_path, texts, refuse_left_out=0.04, refuse_unknown=0.04))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_the_held_out_part_is_looked_at_too(tmp_path):
    with pytest.raises(UserError, match="67% of the held-out words are outside the vocabulary"):
        last(tmp_path, config(tmp_path, ["a b"] * 20, valid=["a x y", "a v w"]))


def test_the_defaults_refuse_what_is_mostly_lost(tmp_path):
    with pytest.raises(UserError, match="60% of 20 training texts are left out"):
        last(tmp_path, config(tmp_path, ["a b"] * 8 + ["a " * 9] * 12))
    with pytest.raises(UserError, match="50% of the training words are outside the vocabulary"):
        last(tmp_path, config(tmp_path, [f"a w{i}" for i in range(20)]))


def test_bounds_change_nothing_in_the_cache_and_older_caches_stay_good(tmp_path):
    """The key of this file is the one that it had before the bounds and the readers came."""
    (tmp_path / "text.txt").write_text("a b c\nd e f\n")
    corpus = {"source": {"name": "lines", "path": str(tmp_path / "text.txt")}, "max_length": 10}

    def key(**more):
        return corpus_key(TrialConfig.model_validate({"corpus": {**corpus, **more}}))

    assert key() == key(warn_unknown=0.5, refuse_left_out=1.0) == "70a6948fcd27f5bd"
    assert len({key(), key(language="de"), key(source={**corpus["source"], "column": "x"})}) == 3


@pytest.mark.parametrize(("source", "length"),
                         [({"name": "restaurant", "sentences": 20000, "max_words": 16}, 18),
                          ({"name": "e2e"}, 44)])
def test_the_texts_of_the_shipped_spaces_are_within_every_bound(source, length, tmp_path, request):
    if source["name"] == "e2e":
        source = {**source, "path": str(request.getfixturevalue("data_dir") / "e2e")}
    config = CorpusConfig(source=PluginRef(**source), max_length=length)
    build(config, tmp_path / "out")
    stats = TokenizedCorpus.open(tmp_path / "out").stats
    shares.refuse(stats, config)
    assert shares.warnings(stats, config) == [] and stats["language"] == "en"
