"""The types of the product and of a user's program (`python_user.py`), as `make lint` checks them.

What is not checked stands in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(900)  # about 40 s of one core where mypy has no cache of the libraries
def test_mypy_finds_nothing():
    pytest.importorskip("mypy", reason="no mypy: pip install -e .[dev]")
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True,
                           check=False)
    assert found.returncode == 0, found.stdout + found.stderr
