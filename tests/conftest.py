"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")

LONG = ("search/run/test_sweep.py", "cluster/test_local_cluster.py", "search/run/test_killed_measuring.py",
        "search/run/test_uri_storage.py", "search/distributed/test_worker_pool.py",
        "search/run/test_prepare.py", "search/study/test_replay.py", "trainable/training/test_checkpoint.py",
        "search/cli/test_pasted.py", "search/cli/test_bench.py", "test_docs.py")
"""Files that mostly wait for processes to start. They go first: none is what everything waits
for at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order is else as collected (with xdist: `--no-loadscope-reorder`)."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real texts (`e2e/`, `wikitext2/`); the test is skipped where it is not at hand."""
    root = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("QDLM_DATA"), root.parent / "shared" / "data"):
        if folder and (Path(folder) / "e2e").is_dir():
            return Path(folder)
    pytest.skip("real text not found: set QDLM_DATA to a folder that holds e2e/ and wikitext2/")
