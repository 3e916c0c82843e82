"""The likeliest bracketing of a row of tags, against one that tries them all."""

import itertools
import math
from collections import Counter

import pytest
from control_corpora import CORPORA
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.control.constituents import Constituents, nodes_of
from trainable.control.oracles.choosing import oracle_named
from trainable.control.syntax import INDEX, readings
from trainable.control.tag_parsing import TagGrammar

LABELS = ("S", "NP", "VP")
CORPUS = CORPORA["restaurant"]


def log_p(rules, roots, tags, spans):
    """Log-probability of a bracketing, rule by rule."""
    totals = Counter()
    for (label, _), count in rules.items():
        totals[label] += count
    nodes = nodes_of(spans)
    value = math.log(roots[nodes[0].span[2]] / sum(roots.values()))
    for node in nodes:
        rule = node.rule(tags)
        value += math.log(rules[rule] / totals[rule[0]])
    return value


def best(rules, roots, tags):
    """Highest log-probability of all derivations, by trying them all that are at most four brackets deep."""
    totals = Counter()
    for (label, _), count in rules.items():
        totals[label] += count

    def of(label, row, depth):
        found = [-math.inf]
        for (own, children), count in rules.items():
            if own == label and depth and len(children) <= len(row):
                found += [math.log(count / totals[label]) + ways for ways in split(children, row, depth - 1)]
        return max(found)

    def split(children, row, depth):
        if not children:
            return [0.0] if not row else []
        first, *rest = children
        if not isinstance(first, str):
            return split(rest, row[1:], depth) if row and row[0] == first else []
        ways = []
        for size in range(1, len(row) - len(rest) + 1):
            here = of(first, row[:size], depth)
            if here > -math.inf:
                ways += [here + further for further in split(rest, row[size:], depth)]
        return ways

    return max(math.log(count / sum(roots.values())) + of(label, tags, 4) for label, count in roots.items())


symbols = st.one_of(st.integers(0, 1), st.sampled_from(LABELS))
rules_made = st.dictionaries(
    st.tuples(st.sampled_from(LABELS), st.lists(symbols, min_size=1, max_size=3).map(tuple)),
    st.integers(1, 5), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(rules_made, st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple))
def test_the_best_of_all_bracketings_is_found(rules, tags):
    roots = {"S": 2, "NP": 1}
    rules = {**rules, ("S", ("NP", "VP")): 2, ("NP", (0,)): 3, ("VP", (1,)): 1}
    spans, wanted = TagGrammar(rules, roots).parse(tags), best(rules, roots, tags)
    if spans is None:
        assert wanted == -math.inf
        return
    assert spans[0][:2] == (0, len(tags) - 1)
    assert log_p(rules, roots, tags, spans) >= wanted - 1e-9  # deeper than four is not tried above


def test_a_row_that_no_rules_give_has_none():
    grammar = TagGrammar({("S", (1, 2)): 1}, {"S": 1})
    assert grammar.parse((1, 2)) == ((0, 1, "S"),)
    assert grammar.parse((2, 1)) is None and grammar.parse(()) is None
    assert TagGrammar({}, {}).parse((1,)) is None


@pytest.fixture(scope="module")
def bank():
    return Constituents.count(readings(CORPUS, oracle_named("grammar")))


def test_rows_of_training_text_have_bracketings_that_are_often_their_own(bank):
    same, count = 0, 0
    for _, reading in itertools.islice(readings(CORPUS, oracle_named("grammar")), 40):
        found = bank.grammar.parse(tuple(INDEX[tag] for tag in reading.tags))
        assert found is not None and found[0][:2] == (0, len(reading.tags) - 1)
        same += sorted(found) == sorted(reading.spans)
        count += 1
    assert count == 40 and same > 20, same
