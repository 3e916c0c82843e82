"""Corners of the hypervolume's box, in numbers and in shares of what the base has."""

import pytest

from spaces.box import Corners
from spaces.errors import UserError
from spaces.schema import Space

TEXT = """
objectives: {{latency_ms: minimize, size_bytes: minimize, perplexity: minimize}}
budget: {{trials: 2}}
search: {{{search}}}
box: {{{box}}}
"""
SEARCH = "lora.rank: {choice: [0, 4]}"


def box(text, search=SEARCH, objectives=None):
    whole = TEXT.format(search=search, box=text)
    if objectives:
        whole = whole.replace("latency_ms: minimize, size_bytes: minimize, perplexity: minimize", objectives)
    return Space.from_yaml(whole, "my.yaml").box


def test_shares_are_there_from_when_the_base_is_known():
    found = box("latency_ms: [0.05 base, 1.5 base], perplexity: [4, 40]")
    assert dict(found) == {"perplexity": (4.0, 40.0)} and len(found) == 1 and "latency_ms" not in found
    found.told({"latency_ms": 20.0, "size_bytes": 500.0})
    assert dict(found) == {"latency_ms": (1.0, 30.0), "perplexity": (4.0, 40.0)}
    with pytest.raises(KeyError):
        found["size_bytes"]


def test_a_space_is_written_as_it_was_read():
    text = TEXT.format(search=SEARCH, box="size_bytes: [0.1 base, 1 base]")
    space = Space.from_yaml(text, "my.yaml")
    again = Space.from_yaml(space.to_yaml(), "again")
    assert again.form.box == space.form.box == {"size_bytes": ("0.1 base", "1 base")}


@pytest.mark.parametrize(("text", "words"), [
    ("latency_ms: [0.05 base, 30]", "one corner is a share of the base's own, the other is not"),
    ("latency_ms: [1.5 base, 0.5 base]", "[1.5 base, 0.5 base] is not [best, worst] of a metric to minimize"),
    ("latency_ms: [30, 1]", "[30, 1] is not [best, worst]"),
    ("perplexity: [0.5 base, 2 base]", "can be given of latency_ms, and where that is an objective of size"),
    ("latency_ms: [half base, 2 base]", "half base"), ("latency_ms: [-1 base, 2 base]", "-1 base"),
])
def test_what_is_no_box_is_one_line(text, words):
    with pytest.raises(UserError) as refused:
        box(text)
    assert str(refused.value).startswith("my.yaml:5: box.") and words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_share_is_of_one_base_that_is_timed():
    with pytest.raises(UserError, match="my.yaml:5: box.size_bytes: bases differ by base.seed, which is"):
        box("size_bytes: [0.1 base, 1 base]", "base.seed: {choice: [1, 2]}")
    with pytest.raises(UserError, match="my.yaml:5: box.size_bytes: a share of the base's own can be given"):
        box("size_bytes: [0.1 base, 1 base]", objectives="size_bytes: minimize")


def test_corners_say_what_they_know():
    corners = Corners({"loss": (0.0, 4.0), "size_bytes": ("0.1 base", "1 base")})
    assert list(corners) == ["loss"]
    corners.told({"size_bytes": 1000.0})
    assert corners["size_bytes"] == (100.0, 1000.0) and len(corners) == 2
