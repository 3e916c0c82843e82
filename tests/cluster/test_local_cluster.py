"""cluster/local.sh: one real cluster on free ports; searches sent to it as jobs, attached to it, left
and ended; its end."""

import json
import os
import re
import shutil
import signal
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
  teacher: {name: kneser_ney, order: 2}
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
    return subprocess.run([str(SCRIPT), *arguments], env={**os.environ, **(env or {})}, text=True,
                          capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)


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


def environment(folder):
    """Ports, state, storage and temporary files of a test alone. Ray's folder has a short path,
    for its sockets."""
    return {"QDLM_RAY_PORT": free_port(), "QDLM_RAY_DASHBOARD_PORT": free_port(),
            "QDLM_RAY_CLIENT_PORT": free_port(), "QDLM_STORAGE": str(folder / "runs"),
            "QDLM_CLUSTER_STATE": str(folder / "state"), "RAY_TMPDIR": tempfile.mkdtemp(prefix="q"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def env(tmp_path):
    found = environment(tmp_path)
    yield found
    shutil.rmtree(found["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, warm_env):
    """A cluster with one CPU that is running; the file of the space is `tiny.yaml` beside its storage."""
    folder = tmp_path_factory.mktemp("cluster")
    found = {**environment(folder), **warm_env}
    (folder / "tiny.yaml").write_text(TINY)
    started = call("start", "--num-cpus", "1", "--object-store-memory", "100000000", env=found, timeout=240)
    assert started.returncode == 0, started.stderr
    assert re.search(r"^use it:  \S.* run SPACE --address auto    or    \S+/local.sh submit SPACE$",
                     started.stdout, re.MULTILINE), started.stdout
    yield found, folder
    call("stop", env=found)
    shutil.rmtree(found["RAY_TMPDIR"], ignore_errors=True)


def start(env, command, how=subprocess.run):
    """A command in a process of its own that hears Ctrl-C."""
    options = {"timeout": 400} if how is subprocess.run else {}
    return how(command, env={**os.environ, **env}, cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options)


def qdlm(env, *arguments):
    """A command of the product."""
    return start(env, [sys.executable, "-m", "search", *arguments])


def logs(env):
    """The ends of what Ray's servers for clients wrote, for a failure that is seen on another machine."""
    found = Path(env["RAY_TMPDIR"]).glob("ray/session_*/logs/ray_client_server*")
    return "".join(f"\n{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(set(found)))


def finished(run):
    """Whether a run ended as it should."""
    return (len((run / "front.csv").read_text().splitlines()) >= 2
            and '"state": "finished"' in (run / "run.json").read_text())


def submit(env, *arguments):
    """`qdlm submit` at the cluster's dashboard."""
    return qdlm(env, "submit", *arguments, "--address", f"http://127.0.0.1:{env['QDLM_RAY_DASHBOARD_PORT']}")


def sent(env, *arguments):
    """The id of a job that was sent and left."""
    answer = submit(env, *arguments, "--storage", env["QDLM_STORAGE"])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return re.search(r"^job (qdlm-\S+)$", answer.stdout, re.MULTILINE).group(1)


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
def test_runs_attached_and_by_ray_client(cluster):
    env, folder = cluster
    space = str(folder / "tiny.yaml")
    assert call("start", env=env).returncode == 2
    for address in ("auto", f"ray://127.0.0.1:{env['QDLM_RAY_CLIENT_PORT']}"):
        run = qdlm(env, "run", space, "--address", address, "--storage", env["QDLM_STORAGE"], "--quiet")
        assert run.returncode == 0 and "Front: " in run.stdout, run.stdout + run.stderr + logs(env)
    runs = [path for path in Path(env["QDLM_STORAGE"]).iterdir() if path.name.startswith("tiny")]
    assert len(runs) == 2
    assert all(finished(run) for run in runs)


@pytest.mark.timeout(900)
def test_a_search_that_was_sent_is_come_back_to_and_does_not_need_who_follows_it(cluster):
    env, folder = cluster
    before = set(Path(env["QDLM_STORAGE"]).glob("tiny-*"))
    follower = start(env, [str(SCRIPT), "submit", str(folder / "tiny.yaml")], subprocess.Popen)
    job, comeback = (follower.stdout.readline() for _ in range(2))
    job = re.fullmatch(r"job (qdlm-\S+)\n", job).group(1)
    assert comeback.startswith(f"qdlm submit --attach {job} ")
    first = follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    rest, error = follower.communicate(timeout=120)
    assert (follower.returncode == 0
            and f"the job goes on. Come back with: qdlm submit --attach {job}" in error), rest + error
    again = submit(env, "--attach", job)
    assert again.returncode == 0, again.stdout + again.stderr
    assert first in again.stdout and "Front: " in again.stdout and f"job {job}: succeeded" in again.stdout
    (run,) = set(Path(env["QDLM_STORAGE"]).glob("tiny-*")) - before
    assert finished(run)
    status = call("status", env=env)
    assert status.returncode == 0 and "SUCCEEDED" in status.stdout


@pytest.mark.timeout(900)
def test_ending_a_job_brings_its_run_in_order(cluster):
    env, folder = cluster
    before = set(Path(env["QDLM_STORAGE"]).iterdir())
    job = sent(env, str(folder / "tiny.yaml"), "--set", "rungs=[1000000]")
    deadline, run = time.monotonic() + 200, None
    while run is None or '"event":"ask"' not in (run / "events.jsonl").read_text().replace(" ", ""):
        assert time.monotonic() < deadline, submit(env, "--attach", job).stdout
        run = next((path for path in Path(env["QDLM_STORAGE"]).glob("tiny-*") if path not in before), None)
        time.sleep(0.2)
    ended = submit(env, "--stop", job)
    assert ended.returncode == 0 and f"job {job} is being ended" in ended.stdout
    followed = submit(env, "--attach", job)
    assert followed.returncode == 1 and f"job {job}: stopped" in followed.stdout, followed.stdout
    assert "every finished trial is kept. Go on with: qdlm run --resume" in followed.stdout
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    assert submit(env, "--stop", "unknown").returncode == 2


def test_the_end_of_the_cluster_leaves_no_process(cluster):
    env, folder = cluster
    pid = int((folder / "state" / "pid").read_text())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert all(process.nice() == psutil.Process().nice() for process in family if "raylet" in process.name())
    assert call("stop", env=env).returncode == 0
    deadline = time.monotonic() + 30
    while any(map(lives, family)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [process for process in family if lives(process)]
