"""What every corpus in the registry must do. A new corpus needs one entry in `SAMPLES`."""

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from spaces.config import CorpusConfig, PluginRef
from spaces.errors import UserError
from trainable.corpora.base import SPLITS
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import END, PAD, SPECIALS, START, UNK, TokenizedCorpus
from trainable.registry import CORPORA

UD_TAGS = set("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())


@dataclass
class Sample:
    """Parameters of a small corpus, another setting that changes its text, and the files that it reads."""

    params: dict
    other: dict
    files: tuple[Path, ...] = ()


def e2e_sample(folder: Path) -> Sample:
    for name, count in (("src1_train.txt", 40), ("src1_valid.txt", 6)):
        rows = (f"name : The Mill | price : £ {i} - 25||The Mill 's meals cost £ {i} - 25 "
                f"{', yes ' * (i % 3)}." for i in range(count))
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Sample({"path": str(folder)}, {"tokenizer": "whitespace"},
                  (folder / "src1_train.txt", folder / "src1_valid.txt"))


def rocstories_sample(folder: Path) -> Sample:
    with (folder / "stories.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["storyid", "storytitle", *(f"sentence{i}" for i in range(1, 6))])
        for i in range(30):
            writer.writerow([f"id{i}", "The cake", f"Ann baked cake {i}.", "It fell.",
                             "She cried," + " oh," * (i % 3) + " a lot.", "Bob came.", 'He said "no".'])
    return Sample({"path": str(folder / "stories.csv"), "valid_share": 0.2}, {"valid_share": 0.5},
                  (folder / "stories.csv",))


def lines_sample(folder: Path) -> Sample:
    text = "".join(f"= Part {i} =\n\nThe dog saw {i} cats . It ran <unk> {i} {'long ' * (i % 3)}times . \n"
                   for i in range(30))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    params = {"path": str(folder / "text.txt"), "skip_headings": True, "max_words": 8}
    return Sample(params, {"skip_headings": False}, (folder / "text.txt",))


def restaurant_sample(folder: Path) -> Sample:
    return Sample({"sentences": 200, "valid_sentences": 30}, {"seed": 1})


SAMPLES = {"restaurant": restaurant_sample, "e2e": e2e_sample, "rocstories": rocstories_sample,
           "lines": lines_sample}


@pytest.mark.parametrize("name", list(CORPORA))
class TestCorpus:
    """The contract."""

    @pytest.fixture
    def sample(self, name, tmp_path) -> Sample:
        (tmp_path / "source").mkdir()
        return SAMPLES[name](tmp_path / "source")

    @pytest.fixture
    def config(self, name, sample) -> CorpusConfig:
        return CorpusConfig(source=PluginRef(name=name, **sample.params), min_count=0)

    @pytest.fixture
    def folder(self, config, tmp_path) -> Path:
        build(config, tmp_path / "out")
        return tmp_path / "out"

    def make(self, name, params):
        return CORPORA.build(PluginRef(name=name, **params))

    def test_has_a_name_and_a_docstring(self, name):
        cls = CORPORA.get(name)
        assert cls.name == name
        assert cls.__doc__.strip().endswith(".")

    @pytest.mark.parametrize("split", SPLITS)
    def test_same_examples_at_every_call(self, name, sample, split):
        corpus = self.make(name, sample.params)
        first = list(corpus.examples(split))
        assert first
        assert list(corpus.examples(split)) == first
        assert list(self.make(name, sample.params).examples(split)) == first

    def test_no_text_is_in_both_splits(self, name, sample):
        train, valid = ({e.words for e in self.make(name, sample.params).examples(split)} for split in SPLITS)
        if name == "e2e":
            pytest.skip("its authors split it, and some texts are in both files")
        assert not train & valid

    def test_annotation_fits_the_words(self, name, sample):
        for example in self.make(name, sample.params).examples("train"):
            assert all(word and " " not in word for word in example.words)
            assert example.fields is None or all(isinstance(v, str) and v for v in example.fields.values())
            if example.upos is not None:
                assert len(example.upos) == len(example.words)
                assert set(example.upos) <= UD_TAGS
            if example.tree is not None:
                assert tuple(re.findall(r"([^\s()]+)\)", example.tree)) == example.words

    def test_fingerprint_changes_with_the_parameters(self, name, sample):
        own = self.make(name, sample.params).fingerprint()
        assert self.make(name, sample.params).fingerprint() == own
        assert self.make(name, {**sample.params, **sample.other}).fingerprint() != own

    def test_fingerprint_follows_the_bytes_and_not_the_place(self, name, sample, tmp_path):
        if not sample.files:
            pytest.skip("reads no files")
        own = self.make(name, sample.params).fingerprint()
        moved = shutil.copytree(tmp_path / "source", tmp_path / "moved")
        params = {**sample.params,
                  "path": sample.params["path"].replace(str(tmp_path / "source"), str(moved))}
        assert self.make(name, params).fingerprint() == own
        for path in sample.files:
            whole = path.read_bytes()
            path.write_bytes(whole.replace(b"T", b"t", 1))
            assert path.read_bytes() != whole
            assert self.make(name, sample.params).fingerprint() != own
            path.write_bytes(whole)
        assert self.make(name, sample.params).fingerprint() == own

    def test_missing_source_is_one_line_that_names_it(self, name, sample):
        if not sample.files:
            pytest.skip("reads no files")
        corpus = self.make(name, {**sample.params, "path": "/no/such/place.txt"})
        for use in (corpus.fingerprint, lambda: list(corpus.examples("train"))):
            with pytest.raises(UserError, match="/no/such/place.txt.*expected") as caught:
                use()
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("split", SPLITS)
    def test_layout_of_ids(self, folder, config, split):
        corpus = TokenizedCorpus.open(folder)
        ids, lengths = corpus.ids(split), corpus.lengths(split)
        assert ids.dtype == lengths.dtype == np.int32
        assert ids.shape == (len(lengths), config.max_length)
        assert tuple(corpus.vocab[:4]) == SPECIALS and len(set(corpus.vocab)) == len(corpus.vocab)
        place = np.arange(config.max_length)[None, :]
        assert (ids[:, 0] == START).all()
        assert (ids[np.arange(len(ids)), lengths + 1] == END).all()
        assert ((place > lengths[:, None] + 1) == (ids == PAD)).all()
        inside = ids[(place >= 1) & (place <= lengths[:, None])]
        assert not np.isin(inside, (START, END, PAD)).any()
        assert inside.max() < len(corpus.vocab)

    @pytest.mark.parametrize("split", SPLITS)
    def test_rows_are_the_examples(self, name, sample, folder, split):
        corpus = TokenizedCorpus.open(folder)
        examples = list(self.make(name, sample.params).examples(split))
        rows = corpus.rows(split, range(len(examples)))
        for row, example in zip(rows, examples, strict=True):
            assert tuple(row["words"]) == example.words
            assert row["text"] == " ".join(example.words)
            assert row["fields"] == example.fields
            assert row["tree"] == example.tree
            assert row["upos"] == (None if example.upos is None else list(example.upos))
        assert corpus.rows(split, [2, 0]) == [rows[2], rows[0]]

    @pytest.mark.parametrize("split", SPLITS)
    def test_words_survive_the_round_trip_up_to_unk(self, folder, split):
        corpus = TokenizedCorpus.open(folder)
        known = set(corpus.vocab[4:])
        for row, ids in zip(corpus.rows(split, range(len(corpus.ids(split)))), corpus.ids(split),
                            strict=True):
            expected = [word if word in known else "UNK" for word in row["words"]]
            assert corpus.decode(ids) == expected
            assert corpus.encode(row["words"]) == ids[1 : len(expected) + 1].tolist()
            assert corpus.decode(corpus.encode(row["words"])) == expected

    def test_min_count_decides_the_vocabulary(self, name, sample, config, tmp_path):
        counts: dict[str, int] = {}
        corpus = self.make(name, sample.params)
        for example in corpus.examples("train"):
            for word in example.words:
                counts[word] = counts.get(word, 0) + 1
        counts.pop("UNK", None)
        build(config.model_copy(update={"min_count": 7}), tmp_path / "rare")
        opened = TokenizedCorpus.open(tmp_path / "rare")
        frequent = [word for word, count in counts.items() if count > 7]
        assert opened.vocab == [*SPECIALS, *frequent, *(w for w in corpus.reserved() if w not in frequent)]
        assert 0 < opened.stats["unk_rate"]["train"] == pytest.approx(
            (opened.ids("train") == UNK).sum() / opened.lengths("train").sum(), abs=1e-6)

    def test_too_long_texts_are_dropped_and_counted(self, name, sample, config, tmp_path):
        lengths = sorted(len(e.words) for e in self.make(name, sample.params).examples("train"))
        limit = lengths[len(lengths) // 2]
        assert limit < lengths[-1]
        build(config.model_copy(update={"max_length": limit + 2}), tmp_path / "short")
        corpus = TokenizedCorpus.open(tmp_path / "short")
        kept = [n for n in lengths if n <= limit]
        assert sorted(corpus.lengths("train").tolist()) == kept
        assert corpus.stats["sentences"]["train"] == len(kept)
        assert corpus.stats["dropped"]["train"] == len(lengths) - len(kept)

    def test_stats_can_be_printed(self, name, folder):
        stats = TokenizedCorpus.open(folder).stats
        assert json.loads(json.dumps(stats)) == stats
        assert stats["corpus"] == name
        corpus = TokenizedCorpus.open(folder)
        assert stats["vocabulary"] == len(corpus.vocab)
        assert stats["mean_words"]["valid"] == pytest.approx(corpus.lengths("valid").mean(), abs=1e-3)

    def test_opening_reads_no_text_and_copies_no_ids(self, name, folder, tmp_path, monkeypatch):
        shutil.rmtree(tmp_path / "source")
        monkeypatch.setattr(CORPORA.get(name), "examples", lambda *_: pytest.fail("the text was read again"))
        before = pa.total_allocated_bytes()
        corpus = TokenizedCorpus.open(folder)
        assert pa.total_allocated_bytes() - before < 4096
        for split in SPLITS:
            ids = corpus.ids(split)
            assert not ids.flags.owndata and not ids.flags.writeable
            assert corpus.ids(split).ctypes.data == ids.ctypes.data
            mapped = Path("/proc/self/maps")
            if mapped.exists():
                assert (holder(ids.ctypes.data, mapped.read_text())
                        == str((folder / f"{split}.arrow").resolve()))


def holder(address: int, maps: str) -> str | None:
    """The file that is mapped at an address."""
    for line in maps.splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return line.split(maxsplit=5)[5]
    return None
