"""The last word on each trial: merged when it is looked into, and the same as if it had been at once."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from search.reporting.rows import last_rows, latest_rows

ROWS = st.lists(st.fixed_dictionaries({"trial": st.integers(0, 3)},
                                      optional={name: st.none() | st.integers(0, 2) for name in "abc"}))


@settings(max_examples=50)
@given(ROWS, st.sampled_from("abcd"))
def test_what_is_merged_late_is_what_is_merged_at_once(rows, key):
    wanted, found = last_rows(rows), latest_rows(rows)
    for first in (True, False):  # before and after they are merged
        assert [row["trial"] for row in found] == [row["trial"] for row in wanted]
        assert [row.get(key, "none") for row in found] == [row.get(key, "none") for row in wanted]
        assert [row.get(key) for row in found] == [row.get(key) for row in wanted]
        assert [key in row for row in found] == [key in row for row in wanted]
        if first:
            assert (json.dumps([dict(row) for row in found])
                    == json.dumps([dict(row.items()) for row in latest_rows(rows)]) == json.dumps(wanted))
