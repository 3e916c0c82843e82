"""Strict YAML: numbers, duplicates, lines, refusals, and an exact round trip."""

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spaces import yaml_text
from spaces.errors import UserError
from spaces.values import show

SPACES = [path.read_text() for path in sorted(Path(yaml_text.__file__).parent.glob("*.yaml"))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100),
        ("1e3", 1000),
        ("2.5e1", 25.0),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("010", 10),
        ("1:30", "1:30"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("2024-01-02", "2024-01-02"),
        ("0x10", "0x10"),
        ("Q0i8f", "Q0i8f"),
        ("fixed:Q0i8f", "fixed:Q0i8f"),
        ("1e-3x", "1e-3x"),
    ],
)
def test_scalars_read_as_people_write_them(text, value):
    found = yaml_text.read(f"key: {text}", "a.yaml").data["key"]
    assert found == value and type(found) is type(value)


def test_whole_number_in_scientific_notation_is_an_int_only_when_exact():
    assert isinstance(yaml_text.read("1e3", "a").data, int)
    assert isinstance(yaml_text.read("1e300", "a").data, float)
    assert isinstance(yaml_text.read("1.0e3", "a").data, float)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: [1", ["a.yaml:1:", "malformed YAML"]),
        ("a: 1\n\tb: 2", ["a.yaml:2:1:", "malformed YAML"]),
        ("a: 1\nb: {x: 1,\n  x: 2}", ["a.yaml:3:3:", "b.x: key given twice", "line 2"]),
        ("a: 1\na: 2", ["a.yaml:2:1:", "a: key given twice, first on line 1"]),
        ("a: 1\n'a': 2", ["key given twice"]),
        ("a: &x [*x]", ["a.yaml:1:", "alias"]),
        ("a: !!python/object:os.system x", ["a.yaml:1:4:", "a: tag", "is not allowed"]),
        ("a: !!python/name:os.system", ["is not allowed"]),
        ("a: !!set {x}", ["is not allowed"]),
        ("a: !!int x", ["a: x is not a number"]),
        ("a: .inf", ["a: .inf cannot be stored"]),
        ("a: .nan", ["a: .nan cannot be stored"]),
        ("a: 1e999", ["cannot be stored"]),
        ("a: 99999999999999999999", ["cannot be stored"]),
        ("1: x", ["a.yaml:1:1:", "keys must be text"]),
        ("? [a]\n: x", ["keys must be text"]),
        ("a: 1\n---\nb: 2", ["a.yaml:2:", "malformed YAML"]),
        ("a: \x00", ["a.yaml:1:", "U+0000", "is not allowed"]),
        ("a: *nothing", ["malformed YAML", "undefined alias"]),
        ('a: "\\ud800"', ["surrogate"]),
        ("a: " + "[" * 60 + "]" * 60, ["too deep"]),
        ("a: " + "[" * 600, ["malformed YAML"]),
    ],
)
def test_what_is_refused_is_one_line_with_file_and_place(text, parts):
    with pytest.raises(UserError) as caught:
        yaml_text.read(text, "a.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("a.yaml")
    for part in parts:
        assert part in message


def test_billion_laughs_end_quickly():
    layers = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12))
    with pytest.raises(UserError, match="too large"):
        yaml_text.read(f"l0: &l0 x\n{layers}", "a.yaml")


def test_lines_of_keys_and_items():
    document = yaml_text.read("a:\n  b: 1\n  c:\n    - x\n    - y\n", "a.yaml")
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c")] == 3
    assert document.lines[("a", "c", 1)] == 5


def test_shared_anchors_are_legal_and_empty_text_is_none():
    assert yaml_text.read("a: &x {k: 1}\nb: *x", "a").data == {"a": {"k": 1}, "b": {"k": 1}}
    assert yaml_text.read("# nothing\n", "a").data is None


_PRINTABLE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=12)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _PRINTABLE,
    st.sampled_from(["1e-3", "1e3", "on", "no", "~", "null", "true", "1:30", ".inf", "-", "0o7", "<<", "=",
                     "2001-01-01", ""]),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_PRINTABLE, inner, max_size=3),
    max_leaves=12
)


def _same(left, right):
    if isinstance(left, float) and isinstance(right, (int, float)):
        return (not isinstance(right, bool)
                and (left == right or math.isclose(left, right, rel_tol=0, abs_tol=0)))
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_write_then_read_is_the_same(value):
    assert _same(value, yaml_text.read(yaml_text.write(value), "a").data)


@settings(max_examples=100, deadline=None)
@given(_PRINTABLE | st.lists(st.sampled_from([*"-?:,[]{}#&*!|>'\"%@`. ", "a", "1", "---"]),
                             max_size=5).map("".join))
@example(":a1")
def test_a_text_in_a_message_reads_as_that_text(text):
    """What stands in a message could be put into a space file."""
    if text.isprintable():
        assert yaml_text.read(f"key: {show(text, 1000)}", "a").data == {"key": text}
        assert yaml_text.read(f"key: {show([text, [text]], 1000)}", "a").data == {"key": [text, [text]]}


BROKEN = ["[", "]", "{", "}", ":", ": ", "- ", "\n", "\n  ", " #", "'", '"', "&a", "*a", "!t",
          "|", "|#", ">-", "\t", "%", "?", "? ", ",", "\\", "é", "😀", "---", "...", "<<", "~", "\u2028"]


def read_by(loaders, text):
    """What is read, or is said of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_text, "_LOADERS", loaders)
        try:
            found = yaml_text.read(text, "a")
        except UserError as error:
            return str(error)
        return repr(found.data), found.data is None or found.lines


@pytest.mark.skipif(len(yaml_text._LOADERS) < 2, reason="PyYAML without libyaml")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_libyaml_reads_what_the_parser_in_python_reads_and_says_the_same_of_the_rest(data):
    lines = data.draw(st.sampled_from(SPACES)).splitlines()
    first = data.draw(st.integers(0, len(lines) - 1))
    text = "\n".join(lines[first : first + data.draw(st.integers(1, 25))])
    for piece in data.draw(st.lists(st.sampled_from(BROKEN), max_size=3)):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + piece + text[place + data.draw(st.integers(0, 2)) :]
    assert read_by(yaml_text._LOADERS, text) == read_by([yaml_text._Loader], text)


@pytest.mark.parametrize("text", [
    "a: [!!str, b]", "{!!str, a: 1}", "[!t, a]", "a: {b? c: 1}", "a: |#\n", "a: b\tc", "a: [b, c:]",
    'a: "\\U00110000"'])
def test_what_the_two_would_read_differently_is_read_as_in_python(text):
    assert read_by(yaml_text._LOADERS, text) == read_by([yaml_text._Loader], text)
