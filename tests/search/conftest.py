"""One Ray cluster for all tests of this folder that ask for it."""

import os
import sys
from pathlib import Path

import pytest
import s3_server

ROOT, HERE = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def worker_path() -> str:
    """PYTHONPATH with which workers find this code and the toy jobs."""
    return os.pathsep.join([str(ROOT), str(HERE)])


@pytest.fixture(scope="session")
def worker_cache(tmp_path_factory) -> Path:
    """The workers' own folder for what lies at URIs."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def ray_session(worker_path, worker_cache, warm):
    """A local cluster with four CPUs (in name); worker processes find `toy_jobs`. They are forks of a process
    that has imported torch and what else Ray needs: see `warm_python`."""
    from search.distributed import environment as ray_env

    ray_env.apply()
    import ray

    if ray.is_initialized():
        pytest.fail("another test left Ray running in this process")
    sys.path.insert(0, str(HERE))
    environment = {"PYTHONPATH": worker_path, "QDLM_CACHE": str(worker_cache), **s3_server.ACCOUNT}
    started(ray, warm, {"env_vars": environment})
    yield ray
    ray.shutdown()
    sys.path.remove(str(HERE))


def started(ray, executable, runtime_env) -> None:
    """Start Ray; what it runs as Python, within this call, is `executable`."""
    for tries_left in (2, 1, 0):
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", executable)
                ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
                         logging_level="ERROR", object_store_memory=200 * 2**20, runtime_env=runtime_env)
            return
        except Exception:
            # on a busy machine Ray's own patience (30 s) may not be enough; it raises a bare Exception
            ray.shutdown()
            if not tries_left:
                raise
