"""Control by what a text keeps and what its words weigh: exact where it is by construction, better
where it is not."""

from __future__ import annotations

import pytest
import torch
from control_corpora import CORPORA, LENGTH
from masked_models import drawing, tiny

from spaces.config import GuidanceConfig, PluginRef
from spaces.errors import UserError
from trainable.control.base import TaskContext
from trainable.control.generating import controlled, guided
from trainable.control.layouts import FREE, Layout, merged
from trainable.control.lexicon import contains
from trainable.control.phrases.tag_rows import TagRow
from trainable.control.settling import place_phrase
from trainable.control.syntax import tag_weights
from trainable.corpora.tokenized import END, PAD, START
from trainable.registry import TASKS

CORPUS = CORPORA["restaurant"]
CACHE: dict = {}
BY_WEIGHT = GuidanceConfig(by="reweight")


@pytest.fixture(scope="module")
def model():
    return tiny(len(CORPUS.vocab), hidden=32, heads=2)


def task_of(name, **params):
    task = TASKS.build(PluginRef(name=name, **params))
    task.prepare(TaskContext(CORPUS, CACHE))
    return task


def written(model, task, targets, config=BY_WEIGHT, seed=0, steps=8):
    texts = guided(drawing(model, steps=steps), task, targets, config, CORPUS, LENGTH,
                   torch.Generator().manual_seed(seed))
    return texts, [task.score(words, target) for words, target in zip(texts, targets, strict=True)]


def targets_of(task, n=12):
    return task.targets(CORPUS, n, torch.Generator().manual_seed(3))


def test_length_is_exact(model):
    task = task_of("length")
    _, scores = written(model, task, targets_of(task))
    assert all(score["exact"] == 1 for score in scores)


def test_contexts_of_a_gap_stand_word_for_word_and_the_gap_has_its_size(model):
    task = task_of("infill")
    targets = targets_of(task)
    texts, scores = written(model, task, targets)
    assert all(score["kept"] == 1 for score in scores)
    assert all(len(words) == sum(len(target[part]) for part in ("left", "reference", "right"))
               for words, target in zip(texts, targets, strict=True))


def test_a_value_is_said(model):
    task = task_of("semantic")
    targets = targets_of(task)
    texts, _ = written(model, task, targets)
    assert all(any(contains(words, phrase) for phrase in target["phrases"])
               for words, target in zip(texts, targets, strict=True))


@pytest.mark.parametrize("name", ["pos", "spans", "tree"])
def test_weights_lead_a_model_that_knows_nothing(model, name):
    # reads a bracketing in any words; the grammar reads none in nonsense
    task = task_of(name, oracle="textblob")
    targets = targets_of(task, 24)
    by_tags = BY_WEIGHT.model_copy(update={"phrases": PluginRef(name="tags")})
    _, led = written(model, task, targets, by_tags)
    _, loose = written(model, task, targets, by_tags.model_copy(update={"power": 0.0}))
    means = [sum(score["success"] for score in scores) / len(scores) for scores in (led, loose)]
    assert means[0] > means[1] + 0.05, means


def test_repairs_never_make_a_text_worse(model):
    task = task_of("pos")
    targets, by_tags = targets_of(task), BY_WEIGHT.model_copy(update={"phrases": PluginRef(name="tags")})
    _, before = written(model, task, targets, by_tags)
    _, after = written(model, task, targets, by_tags.model_copy(update={"repairs": 3}))
    assert all(a["success"] >= b["success"] for a, b in zip(after, before, strict=True))
    assert sum(a["success"] for a in after) > sum(b["success"] for b in before)


@pytest.mark.parametrize(("name", "changes"), [("length", {}), ("semantic", {}), ("pos", {"repairs": 2}),
                                               ("length", {"candidates": 3})])
def test_passes_are_all_that_a_text_took(model, name, changes):
    """Those that settle where a phrase stands, of repairs and of candidates that were not kept."""
    task, law = task_of(name), drawing(model, "entropy_bound", steps=8, bound=0.3)
    rows = []
    handle = model.get_submodule(model.sites()["attention"][0]).register_forward_hook(
        lambda module, inputs, output: rows.append(len(inputs[0])))
    found = controlled(law, task, targets_of(task, 5), BY_WEIGHT.model_copy(update=changes), CORPUS, LENGTH,
                       torch.Generator().manual_seed(0))
    handle.remove()
    assert found.passes.shape == (5,) and int(found.passes.sum()) == sum(rows)
    assert len(found.words) == 5 and int(found.passes.min()) >= changes.get("candidates", 1)


def test_controls_together_are_all_kept(model):
    task = task_of("compose", tasks=[{"name": "length"}, {"name": "semantic"}])
    targets = targets_of(task)
    texts, _ = written(model, task, targets)
    for words, target in zip(texts, targets, strict=True):
        length, semantic = target["parts"]
        assert (len(words) == length["length"]
                and any(contains(words, phrase) for phrase in semantic["phrases"]))


@pytest.mark.parametrize("name", ["length", "semantic", "spans", "tree"])
def test_a_text_does_not_depend_on_what_it_is_written_with(model, name):
    task = task_of(name)
    targets = targets_of(task, 6)
    together, _ = written(model, task, targets)
    first, _ = written(model, task, targets[:3])
    assert together[:3] == first


def test_layouts_lie_over_each_other_unless_they_contradict():
    one, other = Layout.of_length(3, 8), Layout.free(8)
    other.keep(2, [7])
    assert merged([one, other]).prompt.tolist() == [START, FREE, 7, FREE, END, PAD, PAD, PAD]
    with pytest.raises(UserError, match="fix the same position differently"):
        merged([Layout.of_length(3, 8), Layout.of_length(4, 8)])
    with pytest.raises(UserError, match="7 words do not fit: texts of 8 positions hold 0 to 6"):
        Layout.of_length(7, 8)


def test_phrases_find_places_among_free_words_alone():
    made = Layout.of_length(4, 8)
    made.keep(2, [9])
    assert made.places(2) == [3] and made.places(1) == [1, 3, 4] and made.places(3) == []
    assert Layout.free(6).places(2) == [1, 2, 3]


def test_a_phrase_is_placed_where_the_weights_of_other_targets_want_it():
    word = CORPUS.encode(["restaurant"])[0]
    layout = Layout.of_length(6, LENGTH)
    layout.phrases, layout.weights = [[word]], torch.zeros(LENGTH, len(CORPUS.vocab))
    layout.weights[1:7, word] = -13.8
    layout.weights[4, word] = 0.0
    even = torch.zeros(LENGTH, len(CORPUS.vocab)).log_softmax(1)
    places = []
    for seed in range(20):
        made = Layout(layout.prompt.clone(), [[word]], layout.weights)
        place_phrase(made, even + made.weights, torch.Generator().manual_seed(seed), None)
        places.append((made.prompt == word).nonzero().flatten().tolist())
    assert places == [[4]] * 20


def test_tag_rows_are_drawn_as_often_as_text_shows_them():
    task = task_of("spans")
    (label, words), share = max(((key, share) for key, share in task.syntax.often.items()
                                 if key[1] + 3 <= LENGTH), key=lambda item: len(item[1]))
    assert float(share.exp().sum()) == pytest.approx(1, abs=1e-4) and (share.diff() <= 0).all()
    tags, weight = task.syntax.rows(label, words)
    assert torch.equal(tags, task.syntax.phrases[label, words][0])
    even = torch.zeros(LENGTH, len(CORPUS.vocab)).log_softmax(1)  # every place alike: the model says nothing
    drawn, wanted = torch.zeros(len(tags)), [tag_weights(task.syntax.tag_given_word, row) for row in tags]
    for seed in range(300):
        layout = Layout.free(LENGTH)
        part = TagRow(1, tags, weight, task.syntax.tag_given_word)
        part.draw(layout, even, torch.Generator().manual_seed(seed))
        found = layout.weights[1:1 + tags.shape[1]]
        drawn[next(i for i, row in enumerate(wanted) if row.equal(found))] += 1
    assert (drawn / 300 - weight.softmax(0)).abs().max() < 0.1
