"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real texts (`e2e/`, `wikitext2/`); the test is skipped where it is not at hand."""
    root = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("QDLM_DATA"), root.parent / "shared" / "data"):
        if folder and (Path(folder) / "e2e").is_dir():
            return Path(folder)
    pytest.skip("real text not found: set QDLM_DATA to a folder that holds e2e/ and wikitext2/")
