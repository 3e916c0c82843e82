"""Fixtures shared by the whole suite."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too: threads wait busily

import hypothesis
import pytest
import torch
from warm_python import warm_python

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")

TOGETHER = {
    "clusters": (
        "search/run/test_sweep.py", "cluster/test_local_cluster.py", "search/distributed/test_worker_pool.py",
        "search/run/test_killed_measuring.py", "search/run/test_notebook.py",
        "search/run/test_uri_storage.py", "search/run/test_prepare.py", "search/distributed/test_cluster.py",
        "test_metrics_exported.py"),
    "forks": (
        "trainable/stages/test_trial.py", "trainable/training/test_checkpoint.py",
        "trainable/training/test_training_ddp.py", "trainable/workers/test_context.py"),
    "e2e": ("trainable/corpora/test_sources.py", "trainable/control/test_text.py")}
"""Files that one worker of xdist runs one after the other, since they share what takes long to make: a Ray
cluster and the process that its processes are forks of, see `warm_python`; the server of `ranks`; a corpus.
Two clusters at once would only hinder each other; mostly others than the tests compute there."""
LONG = ("test_types.py", "search/study/test_replay.py", "trainable/quantizers/test_contract.py",
        "qdlm/test_api.py", "test_docs.py", "search/cli/test_pasted.py")
"""Other files that take long: what begins last should be short."""
ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    order = [name for names in TOGETHER.values() for name in names]
    place = {ROOT / name: number for number, name in enumerate((*order, *LONG))}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No garbage is looked for while all is imported and the tests are made, and later collections pass over
    these, which are nine of ten objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)  # without xdist there is nothing to schedule
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, where files that are `TOGETHER` count as one."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((name for name, files in TOGETHER.items() if file.endswith(files)), file)

    return Scheduling(config, log)


def pytest_runtest_setup() -> None:
    """Weights that a test leaves to torch's own start are the same in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> Iterator[None]:
    """No power is lost here, so nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: os.fstat(handle) and None)
        yield


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
