"""Plans that bring phrases into a text: what every plan owes, and what the bank counts and draws."""

import pytest
import torch
from control_corpora import CORPORA, LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_models import drawing, tiny

from spaces.config import GuidanceConfig, PluginRef
from trainable.control.base import TaskContext
from trainable.control.constituents import Constituents, Rows, nodes_of
from trainable.control.generating import controlled
from trainable.control.layouts import FREE, Layout
from trainable.control.oracles.choosing import oracle_named
from trainable.control.phrases.bank import Words
from trainable.control.syntax import readings
from trainable.corpora.tokenized import UNK
from trainable.registry import PHRASES, TASKS

CORPUS = CORPORA["restaurant"]
VOCABULARY = len(CORPUS.vocab)
CACHE: dict = {}
EVEN = torch.zeros(LENGTH, VOCABULARY).log_softmax(1)
TREE = [(0, 5, "S"), (0, 1, "NP"), (2, 4, "VP"), (3, 4, "NP")]  # two words each, a verb, a full stop


def task_of(name):
    task = TASKS.build(PluginRef(name=name))
    task.prepare(TaskContext(CORPUS, CACHE))
    return task


@pytest.fixture(scope="module")
def bank():
    return task_of("spans").constituents()


def targets_of(task, n=12):
    return task.targets(CORPUS, n, torch.Generator().manual_seed(3))


def settled(plan, task, layout, seed=0):
    """The layout with all its parts drawn, and those parts."""
    generator = torch.Generator().manual_seed(seed)
    parts = plan.parts(layout, task, 1.0)
    for part in parts:
        part.draw(layout, EVEN, generator)
    return parts


@pytest.mark.parametrize("name", list(PHRASES))
@pytest.mark.parametrize("task", ["spans", "tree"])
class TestEveryPlan:
    def test_a_draw_follows_its_generator_and_is_taken_back(self, name, task):
        plan, task = PHRASES.build_default(name), task_of(task)
        for target in targets_of(task, 6):
            drawn = []
            for seed in (0, 0, 1):
                layout = task.layout(target, LENGTH, CORPUS)
                before = layout.prompt.clone()
                parts = settled(plan, task, layout, seed)
                assert parts
                weights = torch.zeros(1) if layout.weights is None else layout.weights.clone()
                drawn.append((layout.prompt.clone(), weights))
                for part in parts:
                    part.lift(layout)
                assert torch.equal(layout.prompt, before)
                assert layout.weights is None or layout.weights.abs().max() < 1e-4
            assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))

    def test_kept_words_stay(self, name, task):
        """Of other targets of the same text: even words that no such phrase has."""
        plan, task = PHRASES.build_default(name), task_of(task)
        for target in targets_of(task, 6):
            layout = task.layout(target, LENGTH, CORPUS)
            layout.keep(2, [UNK])
            before = layout.prompt.clone()
            settled(plan, task, layout)
            assert torch.equal(layout.prompt[before != FREE], before[before != FREE])

    def test_passes_are_all_looks_and_each_text_has_its_own_noise(self, name, task):
        model, task = tiny(VOCABULARY, hidden=16, heads=2), task_of(task)
        config, looks = GuidanceConfig(by="reweight", phrases=name, repairs=1), []
        handle = model.get_submodule(model.sites()["attention"][0]).register_forward_hook(
            lambda module, inputs, output: looks.append(len(inputs[0])))
        found = controlled(drawing(model, steps=4), task, targets_of(task, 4), config, CORPUS, LENGTH,
                           torch.Generator().manual_seed(0))
        handle.remove()
        assert int(found.passes.sum()) == sum(looks)


def test_nodes_have_the_words_that_stand_in_no_bracket_inside():
    assert [(node.span, node.own) for node in nodes_of(TREE)] == [
        ((0, 5, "S"), [5]), ((0, 1, "NP"), [0, 1]), ((2, 4, "VP"), [2]), ((3, 4, "NP"), [3, 4])]
    assert nodes_of(TREE)[0].shapes() == [
        ("S", ("NP", None, None), ("VP", None, ("NP", None, None)), None), ("S", ("NP", 1), ("VP", 2), None),
        ("S", "NP", "VP", None)]
    assert nodes_of(TREE)[2].shapes([1, 2, 3, 4, 5, 6])[:2] == [("tags", ("VP", 3, ("NP", 4, 5))),
                                                              ("rule", ("VP", (3, "NP")))]
    same = nodes_of([(0, 1, "S"), (0, 1, "VP"), (0, 0, "NP")])  # of equal ones the first is the outer
    assert [node.own for node in same] == [[], [1], [0]]
    assert len(nodes_of([(0, 2, "NP"), (1, 4, "VP")])) == 1  # crossing


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4), st.sampled_from(["NP", "VP"])), max_size=8))
def test_every_word_is_of_one_node_at_most(given_spans):
    nodes = nodes_of([(first, first + size, label) for first, size, label in given_spans])
    own = [i for node in nodes for i in node.own]
    assert len(own) == len(set(own))
    covered = {i for node in nodes for i in range(node.span[0], node.span[1] + 1)}
    assert set(own) == covered


def test_the_bank_holds_what_training_text_shows_and_nothing_else(bank):
    oracle = oracle_named("grammar")
    seen = {(label, tuple(ids[first:last + 1])) for ids, reading in readings(CORPUS, oracle)
            for first, last, label in reading.spans}
    held = {(label, tuple(row)) for (label, _), rows in bank.phrases.items() for row in rows.ids.tolist()}
    whole = {tuple(ids) for ids, _ in readings(CORPUS, oracle)}
    assert held == {(label, row) for label, row in seen if row not in whole and UNK not in row}
    for rows in (*bank.phrases.values(), *bank.nodes.values()):
        assert float(rows.share.exp().sum()) == pytest.approx(1, abs=1e-4)
        assert len({tuple(row) for row in torch.cat([rows.ids, rows.neighbors], 1).tolist()}) == len(rows.ids)


def test_the_bank_never_sees_held_out_text():
    """Not even that it is there."""
    def rows(split, indices):
        assert split == "train"
        return CORPUS.rows(split, indices)

    blind = type(CORPUS)(**{**vars(CORPUS), "rows": rows,
                            "ids": {"train": CORPUS.ids("train")}.__getitem__})
    assert Constituents.count(readings(blind, oracle_named("grammar"))).phrases


def test_a_row_of_one_word_is_drawn_by_the_model_alone():
    """By Bayes' rule its share cancels; of longer rows what is left is how far words go together."""
    one = Rows(torch.tensor([[4], [5]]), torch.tensor([0.9, 0.1]).log(), torch.zeros(2, 0))
    assert one.lift.abs().max() < 1e-6
    tied = Rows(torch.tensor([[4, 6], [5, 7]]), torch.tensor([0.5, 0.5]).log(), torch.zeros(2, 0))
    assert torch.allclose(tied.lift, torch.tensor([2.0, 2.0]).log())


def test_rows_are_drawn_as_weight_and_model_have_it():
    rows = Rows(torch.tensor([[4, 5], [6, 7], [4, 7]]), torch.zeros(3), torch.zeros(3, 0))
    weight = torch.tensor([0.2, 0.3, 0.5]).log()
    posterior = torch.full((LENGTH, VOCABULARY), 0.1)
    posterior[1, 4], posterior[3, 7] = 0.4, 0.2
    wanted = weight.exp() * torch.tensor([0.4 * 0.1, 0.1 * 0.2, 0.4 * 0.2])
    counts, layout = torch.zeros(3), Layout.free(LENGTH)
    part = Words(rows, torch.tensor([1, 3]), weight, 1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        part.draw(layout, posterior.log(), generator)
        counts[rows.ids.tolist().index(layout.prompt[[1, 3]].tolist())] += 1
        part.lift(layout)
    assert (counts / 600 - wanted / wanted.sum()).abs().max() < 0.06
    layout.keep(3, [5])
    part.draw(layout, posterior.log(), generator)
    assert layout.prompt[1] == 4 and float(part.unsureness(layout, posterior.log())) == 0


def written(name, plan="bank", n=24):
    """Task, targets, and texts by a model that knows nothing."""
    task, config = task_of(name), GuidanceConfig(by="reweight", phrases=plan)
    targets = targets_of(task, n)
    found = controlled(drawing(tiny(VOCABULARY, hidden=16, heads=2), steps=4), task, targets, config, CORPUS,
                       LENGTH, torch.Generator().manual_seed(0))
    return task, targets, found.words


def test_a_phrase_of_the_bank_stands_at_its_place():
    task, targets, texts = written("spans")
    held, met = task.constituents().phrases, 0
    for words, target in zip(texts, targets, strict=True):
        first, last, label = target["span"]
        if (label, last - first + 1) in held and last + 3 <= LENGTH:
            met += 1
            assert CORPUS.encode(words[first:last + 1]) in held[label, last - first + 1].ids.tolist()
    assert met > 12


def test_trees_of_bank_words_are_nearer_than_trees_of_tags():
    task, targets, by_bank = written("tree")
    by_tags = written("tree", "tags")[2]
    means = [sum(task.score(words, target)["success"] for words, target in zip(texts, targets, strict=True))
             for texts in (by_bank, by_tags)]
    assert means[0] > 1.3 * means[1], means
