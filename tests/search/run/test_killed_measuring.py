"""A worker that is killed inside measuring, with the product's own jobs: every rung is told, once."""

from collections import Counter

import pytest

from benchmarks.faults_measuring import TINY
from search.records.run_folder import RunFolder
from search.run import sweep
from search.run.validation import problem
from search.study.opening import replayed
from spaces.schema import Space


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Corpus, teacher and base are made for the first run and found by the second."""
    storage = tmp_path_factory.mktemp("killed")
    (storage / "cache").mkdir()
    return storage


@pytest.mark.parametrize(("deterministic", "kills"), [(0, 2), (1, 1)])
def test_a_rung_whose_measuring_was_cut_off_by_a_kill_is_told_once(ray_session, storage, deterministic,
                                                                   kills):
    (storage / "cache" / "times").write_text(str(kills))
    space = Space.from_dict({
        "name": f"killed{deterministic}", "trial": TINY, "search": {"adapt.optim.lr": {"log": [1e-4, 1e-2]}},
        "objectives": {"nll_bound": "minimize", "size_bytes": "minimize"}, "rungs": [2, 4],
        "budget": {"trials": kills + 1}, "sampler": "random", "scheduler": "none", "finish": {"repeats": 0},
        "deterministic": deterministic})
    events = []
    result = sweep.run(space, storage=storage, jobs="benchmarks.faults_measuring:JOBS", max_concurrent=1,
                       observer=events.append)
    folder = RunFolder.open(result.run_folder)
    died = [event for event in events if "a worker group died" in event.get("message", "")]
    assert len(died) == kills, "the drills took place"
    assert Counter((row["trial"], row["rung"], row["state"]) for row in folder.rows()) == Counter(
        {(trial, rung, state): 1 for trial in range(kills + 1)
         for rung, state in enumerate(("rung", "complete"))})
    assert all(row["fidelity"] == (2, 4)[row["rung"]] and row["train_loss"] > 0 for row in folder.rows())
    assert replayed(space, problem(space), folder).different is None
