"""What has no end or no measure is refused in one line: files, budgets, ranges."""

from pathlib import Path

import pytest

from search.run.validation import check_methods
from spaces.errors import UserError
from spaces.loading import text_of
from spaces.schema import Space
from spaces.texts import read_text
from trainable.control.target_files import read_entries

SPACE = {"objectives": {"perplexity": "minimize"}, "search": {"lora.rank": {"int": [0, 8]}}, "name": "limits"}


@pytest.mark.parametrize("budget", [{"time": "9" * 400 + "m"}, {"time": 1e300}, {"trials": 10**18},
                                    {"money": 1e10, "price": 1.0}, {"device_hours": float("inf")},
                                    {"trial_time": "9" * 400}])
def test_a_budget_that_cannot_be_read_back_is_refused(budget):
    with pytest.raises(UserError) as error:
        Space.from_dict({**SPACE, "budget": budget})
    assert "\n" not in str(error.value) and "budget" in str(error.value) and len(str(error.value)) < 400


def test_a_budget_is_read_back_as_it_was_written():
    space = Space.from_dict({**SPACE, "budget": {"time": "30m", "trials": 10**9}})
    assert Space.from_yaml(space.to_yaml(), "again").budget == space.budget


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin", "/dev/null"])
def test_a_device_is_no_target_file(device):
    with pytest.raises(UserError, match="is not a file; expected one JSON value per line"):
        read_entries(Path(device))


def test_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    assert read_text(path, 10, "a list") == "a\nb\nc"
    with pytest.raises(UserError, match=r"text: has more than 8 bytes; is this a list\?"):
        read_text(path, 8, "a list")
    with pytest.raises(UserError, match="has more than 16 MB; is this a space file"):
        text_of(Path("/dev/zero"), "zero")
    path.write_text('[1]\n' + "[" * 100_000)
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_entries(path)


@pytest.mark.parametrize(("most", "legal"), [(2 * 10**9, False), (99_999, True)])
def test_a_range_that_a_method_lists_is_bounded(most, legal):
    wide = {**SPACE, "budget": {"trials": 3}, "search": {"adapt.optim.warmup": {"int": [0, most]}}}
    check_methods(Space.from_dict(wide))
    if legal:
        check_methods(Space.from_dict({**wide, "sampler": "gp"}))
    else:
        with pytest.raises(UserError, match="2,000,000,001 whole numbers, of which sampler gp lists"):
            check_methods(Space.from_dict({**wide, "sampler": "gp"}))


def test_a_message_is_no_longer_than_a_terminal_can_show():
    assert len(str(UserError("[" * 100_000))) < 2000
    assert str(UserError("file: key: legal")) == "file: key: legal" and str(UserError()) == ""
