"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


RAY = ("test_sweep.py", "test_metrics_exported.py", "test_local_cluster.py")
"""Files that start Ray in processes of their own; others ask for the fixture `ray_session`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For runs on several processes: a file stays on one of them, and one process alone runs all that starts Ray."""
    for item in items:
        ray = item.path.name in RAY or "ray_session" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if ray else item.path.stem))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real texts (`e2e/`, `wikitext2/`); the test is skipped where it is not at hand."""
    root = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("QDLM_DATA"), root.parent / "shared" / "data"):
        if folder and (Path(folder) / "e2e").is_dir():
            return Path(folder)
    pytest.skip("real text not found: set QDLM_DATA to a folder that holds e2e/ and wikitext2/")
