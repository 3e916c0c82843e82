"""Our own file formats, changed at random: read, or refused in one line. `python -m benchmarks.faults_inputs`
runs 5,000 cases; these are the first of the same seeds."""

import pytest

from benchmarks.faults_formats import FORMATS, case, examples


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return examples(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.timeout(120)
def test_a_changed_file_is_read_or_refused_in_one_line(good, tmp_path, name):
    found = [case(name, seed, good[name], tmp_path / "copy") for seed in range(24)]
    refused = [line for line in found if line != "read"]
    assert refused or name == "checkpoint", "the changes do change something"
    assert len(found) == 24
