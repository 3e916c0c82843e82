"""cluster/local.sh: a real cluster on free ports, a run sent to it as a job, a run attached to it, and its end."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "local.sh"
TINY = """
name: tiny
trial:
  corpus: {source: {name: restaurant, sentences: 200, max_words: 28}, max_length: 32, min_count: 0}
  model: {embedding_dim: 8, hidden: 16, layers: 1, heads: 2, ffn: 32, positions: 32, time_dim: 16}
  diffusion: {timesteps: 20}
  teacher: {hidden: 16, layers: 1, heads: 2, optim: {steps: 2, batch_size: 8}}
  base: {optim: {steps: 2, batch_size: 8}}
  adapt: {optim: {batch_size: 8}}
  sampling: {steps: 2}
  evaluation: {samples: 4, heldout: 4, times: 2, control_samples: 1, latency_repeats: 2, latency_batch: 1}
search:
  quantization.quantizer: {choice: [none, binary]}
objectives: {nll_bound: minimize, size_bytes: minimize}
budget: {trials: 2}
rungs: [2]
sampler: {name: grid}
scheduler: {name: none}
finish: {repeats: 0}
"""


def call(*arguments, env=None, timeout=60):
    return subprocess.run([str(SCRIPT), *arguments], env={**os.environ, **(env or {})}, text=True, capture_output=True,
                          timeout=timeout, stdin=subprocess.DEVNULL)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def lives(process):
    """Still there, and not just waiting for its parent to notice its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def env(tmp_path):
    """Ports, state, storage and temporary files of this test alone. Ray's folder has a short path, for its sockets."""
    scratch = tempfile.mkdtemp(prefix="q")
    found = {"QDLM_RAY_PORT": free_port(), "QDLM_RAY_DASHBOARD_PORT": free_port(),
             "QDLM_RAY_CLIENT_PORT": free_port(), "QDLM_STORAGE": str(tmp_path / "runs"),
             "QDLM_CLUSTER_STATE": str(tmp_path / "state"), "RAY_TMPDIR": scratch,
             "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    yield found
    call("stop", env=found)
    shutil.rmtree(scratch, ignore_errors=True)


def test_usage_is_printed_for_no_and_for_unknown_commands():
    for arguments, code in (((), 2), (("dance",), 2), (("--help",), 0)):
        answer = call(*arguments)
        assert answer.returncode == code and "cluster/local.sh start" in answer.stdout


def test_commands_without_a_cluster_say_so(env):
    assert (call("submit", env=env).returncode, call("status", env=env).returncode) == (2, 1)
    answer = call("submit", "spaces/quickstart.yaml", env=env)
    assert answer.returncode == 2 and "cluster/local.sh start" in answer.stderr
    assert "no cluster" in call("stop", env=env).stdout


def test_what_travels_with_a_job_leaves_out_what_is_large_or_private():
    runtime_env = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    assert {"/.git/", "/.venv/", "/runs/"} <= set(runtime_env["excludes"])


@pytest.mark.timeout(900)
def test_runs_as_a_job_attached_and_by_ray_client(env, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    started = call("start", "--num-cpus", "1", "--object-store-memory", "100000000", env=env, timeout=240)
    assert started.returncode == 0, started.stderr
    pid = int((tmp_path / "state" / "pid").read_text())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert call("start", env=env).returncode == 2
    assert all(process.nice() == 0 for process in family if "raylet" in process.name())

    job = call("submit", str(tmp_path / "tiny.yaml"), "--quiet", env=env, timeout=400)
    assert job.returncode == 0, job.stdout + job.stderr
    for address in ("auto", f"ray://127.0.0.1:{env['QDLM_RAY_CLIENT_PORT']}"):
        run = subprocess.run([sys.executable, "-m", "search", "run", str(tmp_path / "tiny.yaml"), "--address", address,
                              "--storage", env["QDLM_STORAGE"], "--quiet"], env={**os.environ, **env}, cwd=ROOT, text=True,
                             capture_output=True, timeout=400, stdin=subprocess.DEVNULL)
        assert run.returncode == 0 and "Front: " in run.stdout, run.stdout + run.stderr

    runs = [path for path in Path(env["QDLM_STORAGE"]).iterdir() if path.name.startswith("tiny")]
    assert len(runs) == 3
    for run in runs:
        assert len((run / "front.csv").read_text().splitlines()) >= 2
        assert '"state": "finished"' in (run / "run.json").read_text()
    status = call("status", env=env)
    assert status.returncode == 0 and "SUCCEEDED" in status.stdout
    assert call("stop", env=env).returncode == 0
    deadline = time.monotonic() + 30
    while any(map(lives, family)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [process for process in family if lives(process)]
