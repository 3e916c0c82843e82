"""Fixtures shared by the whole suite."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too: threads wait busily

import hypothesis
import pytest
import torch
from warm_python import warm_python

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")

LONG = {"search/run/test_sweep.py": 4.0, "cluster/test_local_cluster.py": 4.0,
        "search/run/test_killed_measuring.py": 2.0, "search/run/test_notebook.py": 1.5,
        "search/distributed/test_worker_pool.py": 2.0, "search/run/test_uri_storage.py": 1.5,
        "search/run/test_prepare.py": 1.5, "search/cli/test_pasted.py": 1.0,
        "search/study/test_replay.py": 1.0,
        "trainable/training/test_checkpoint.py": 0.5,
        "search/cli/test_bench.py": 0.5, "test_docs.py": 0.5}
"""Files that start many processes, with their rough share of the time. Two at once only hinder each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each long file, then others that take about as long: of two workers of xdist (with
    `--no-loadscope-reorder`), one mostly starts processes while the other computes."""
    root = Path(__file__).parent
    long = {root / name: share for name, share in LONG.items()}
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    others = [path for path in files if path not in long]
    order: list[Path] = []
    done = 0.0
    for path in filter(files.__contains__, long):
        first, done = done, done + long[path] / sum(long.values())
        order += [path, *others[round(first * len(others)):round(done * len(others))]]
    order += [path for path in files if path not in order]
    items[:] = [item for path in order for item in files[path]]


def pytest_runtest_setup() -> None:
    """Weights that a test leaves to torch's own start are the same in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def warm() -> Iterator[str]:
    """What stands for this Python where Ray starts processes: see `warm_python`."""
    with warm_python() as executable:
        yield executable


@pytest.fixture(scope="session")
def warm_env(warm: str) -> dict[str, str]:
    """Environment of a process whose Ray is to start such processes. Whoever adds to PYTHONPATH, keeps it."""
    return {"WARM_PYTHON": warm, "PYTHONPATH": str(Path(__file__).parent / "warm")}


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real texts (`e2e/`, `wikitext2/`); the test is skipped where it is not at hand."""
    root = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("QDLM_DATA"), root.parent / "shared" / "data"):
        if folder and (Path(folder) / "e2e").is_dir():
            return Path(folder)
    pytest.skip("real text not found: set QDLM_DATA to a folder that holds e2e/ and wikitext2/")
