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
def ray_session(worker_path, worker_cache):
    """A local cluster with four CPUs (in name); worker processes find `toy_jobs`."""
    from search.distributed import environment as ray_env

    ray_env.apply()
    import ray

    if ray.is_initialized():
        pytest.fail("another test left Ray running in this process")
    sys.path.insert(0, str(HERE))
    environment = {"PYTHONPATH": worker_path, "QDLM_CACHE": str(worker_cache), **s3_server.ACCOUNT}
    for tries_left in (2, 1, 0):
        try:
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
                     logging_level="ERROR",
                     object_store_memory=200 * 2**20, runtime_env={"env_vars": environment})
            break
        except Exception:
            # on a busy machine Ray's own patience (30 s) may not be enough; it raises a bare Exception
            ray.shutdown()
            if not tries_left:
                raise
    yield ray
    ray.shutdown()
    sys.path.remove(str(HERE))
