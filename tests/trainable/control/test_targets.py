"""Targets from files: the released ones, and every way in which a line can be wrong."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.control.target_files import read_entries
from trainable.metrics.controllability import human_words, mean_scores
from trainable.registry import TASKS

LENGTH = 44
WORDS = "Zizzi is a local coffee shop located on the outskirts of the city .".split()


def corpus(length=LENGTH, vocab=("Loch", "Fyne", "The", "Vaults")):
    known = {word: i + 4 for i, word in enumerate(vocab)}
    return SimpleNamespace(stats={"corpus": "e2e"},
                           encode=lambda words: [known.get(word, 2) for word in words],
                           ids=lambda split: np.zeros((1, length), dtype=np.int32),
                           lengths=lambda split: np.array([]), rows=lambda split, rows: [{} for _ in rows])


def from_file(tmp_path, name, *lines, n=1, length=LENGTH, **params):
    path = tmp_path / "targets.json"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    task = TASKS.build(PluginRef(name=name, targets=str(path), **params))
    return task, task.targets(corpus(length), n, torch.Generator().manual_seed(0))


POS = {"pos": ["START", *["NOUN"] * len(WORDS), "PROPN", "END"], "words_": ["START", *WORDS, "\n", "END"]}
SPANS = {"words_": ["START", *WORDS, "\n", "END"], "spans": [[10, 12, "PP"]]}


def test_released_forms_are_read(tmp_path):
    assert from_file(tmp_path, "semantic", ["name", ":", "Loch", "Fyne"])[1] == [
        {"field": "name", "value": "Loch Fyne", "oracle": "words", "phrases": [["Loch", "Fyne"]]}]
    task, (target,) = from_file(tmp_path, "pos", POS)
    assert target["human"] == WORDS and len(target["tags"]) == len(WORDS) and target["oracle"] == "textblob"
    assert task.score(WORDS, target)["success"] == 1.0
    _, (kept,) = from_file(tmp_path, "pos", POS, file_tags=True)
    assert kept == {"tags": ["NOUN"] * len(WORDS), "oracle": "textblob"}
    task, (target,) = from_file(tmp_path, "spans", SPANS)
    assert target["span"] == [10, 12, "PP"] and task.score(WORDS, target)["success"] == 1.0
    assert from_file(tmp_path, "length", "14", '{"length": 9}', n=2)[1] in (
        [{"length": 14}, {"length": 9}], [{"length": 9}, {"length": 14}])
    task, (target,) = from_file(tmp_path, "infill",
                                {"left": ["a"], "right": ["e", "."], "reference": ["b", "c", "d"]})
    assert task.score("a b c d e .".split(), target) == pytest.approx(
        {"success": 1.0, "kept": 1.0, "bleu4": task.score("a b c d e .".split(), target)["bleu4"],
         "rouge_l": 1.0})
    task, (target,) = from_file(tmp_path, "tree", SPANS)
    assert task.score(WORDS, target) == {"success": 1.0, "exact": 1.0, "unlabeled": 1.0}


def test_all_lines_are_used_before_any_is_used_again(tmp_path):
    targets = from_file(tmp_path, "length", *"123456", n=12)[1]
    assert sorted(target["length"] for target in targets) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


@pytest.mark.parametrize(("name", "line", "message"), [
    ("pos", "{", "line 2: not JSON"),
    ("pos", {"pos": ["NOUN"]}, "line 2: no field 'words_' \\(found: pos\\)"),
    ("spans", {"words_": WORDS}, "line 2: no field 'spans'"),
    ("tree", [1], "line 2: no field 'words_' \\(found: list\\)"),
    ("pos", {"words_": "text"}, "words_ should be a list of words"),
    ("pos", {"words_": ["a"] * 43, "pos": ["X"]}, "asks for 43 words, but corpus.max_length=44 holds 42"),
    ("tree", {"words_": ["a"] * 43}, "asks for 43 words"), ("length", "43", "asks for 43 words"),
    ("length", '"ten"', "whole number above 0, not 'ten'"), ("length", "true", "whole number"),
    ("spans", {"words_": WORDS, "spans": [[10, 99, "PP"]]}, "reaches beyond the 14 words"),
    ("spans", {"words_": WORDS, "spans": [[3, 1, "PP"]]}, "should be \\[first, last, label\\]"),
    ("spans", {"words_": WORDS, "spans": []}, "spans should be a list"),
    ("semantic", ["name", "Loch"], "expected \\[\"field\", \":\", \"value\""),
    ("semantic", ["name", ":", "Nowhere"], "name = Nowhere: 'Nowhere' is not in the vocabulary"),
    ("infill", {"left": ["a"], "right": ["b"]}, "no field 'reference'"),
    ("compose", {"a": 1}, "reads no target files"),
])
def test_a_wrong_line_is_named(tmp_path, name, line, message):
    good = {"pos": POS, "spans": SPANS, "tree": SPANS, "length": 3, "semantic": ["name", ":", "Loch", "Fyne"],
            "infill": {"left": ["a"], "right": ["b"], "reference": ["c"]}, "compose": {}}[name]
    with pytest.raises(UserError, match=message) as error:
        from_file(tmp_path, name, good, line, n=2)
    assert "\n" not in str(error.value) and "targets.json, line" in str(error.value)


def test_a_tag_outside_the_oracles_set(tmp_path):
    with pytest.raises(UserError, match="'NN' is no tag of oracle auto; legal: ADJ, ADP"):
        from_file(tmp_path, "pos", {"pos": ["NN", "NOUN"], "words_": ["a", "b"]}, file_tags=True)


@pytest.mark.parametrize(("name", "line", "message"), [
    ("pos", {"pos": ["NOUN"]}, "line 1: no field 'words_'"),
    ("spans", {"words_": WORDS}, "line 1: no field 'spans'"),
    ("tree", {"words_": ["a"] * 43}, "asks for 43 words, but corpus.max_length=44 holds 42"),
    ("length", 43, "asks for 43 words"), ("semantic", ["name", "Loch"], "expected"),
    ("infill", {"left": ["a"] * 30, "right": ["b"] * 12, "reference": ["c"]}, "asks for 43 words"),
])
def test_a_wrong_file_is_told_before_a_run_starts(tmp_path, name, line, message):
    (tmp_path / "targets.json").write_text(json.dumps(line))
    with pytest.raises(UserError, match=message):
        TASKS.build(PluginRef(name=name, targets=str(tmp_path / "targets.json"))).check(LENGTH)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(UserError, match="holds no targets"):
        read_entries(tmp_path / "empty")


@pytest.mark.parametrize(("name", "file"),
                         [("pos", "target_pos"), ("spans", "target_spans"), ("tree", "target_pos")])
def test_human_text_of_the_released_targets_scores_100_percent(data_dir, name, file):
    path = data_dir / "e2e" / "control_targets" / f"{file}.json"
    task = TASKS.build(PluginRef(name=name, targets=str(path)))
    targets = task.targets(corpus(), 60, torch.Generator().manual_seed(0))
    face = SimpleNamespace(ids=lambda split: [], decode=None)
    assert mean_scores(task, *human_words(face, targets))["success"] == 1.0
