import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster import submitting
from search.cli.main import main
from spaces.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Jobs:
    """A job API that hands out its log in pieces and breaks off where `breaks` says so."""

    def __init__(self, chunks=(), breaks=(), status="SUCCEEDED"):
        self.chunks, self.breaks, self.status, self.sent, self.streams = chunks, list(breaks), status, [], 0

    def submit_job(self, **given):
        self.sent.append(given)
        return given["submission_id"]

    def get_job_status(self, job):
        if job == "unknown":
            raise RuntimeError("Request failed with status code 404: Job unknown does not exist.")
        return self.status

    async def tail_job_logs(self, job):
        self.streams += 1
        ends = self.breaks.pop(0) if self.breaks else len(self.chunks)
        for chunk in self.chunks[:ends]:
            await asyncio.sleep(0)
            yield chunk
        if ends < len(self.chunks):
            raise ConnectionError("gone")


def test_a_job_carries_the_code_and_the_space_and_nothing_else(tmp_path):
    jobs = Jobs()
    job = submitting.submit(jobs, "name: toy\n", ["--storage", "/mnt/my runs"], tmp_path)
    (sent,) = jobs.sent
    assert job.startswith("qdlm-") and shlex.split(sent["entrypoint"]) == [
        "python", "-m", "search", "run", submitting.SENT, "--storage", "/mnt/my runs"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "spaces", "trainable", "search", "cluster", "dashboards", "pyproject.toml", submitting.SENT}
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 3_000_000
    assert not list(tmp_path.rglob("*.pyc")) and (tmp_path / submitting.SENT).read_text() == "name: toy\n"
    json.dumps(sent["runtime_env"])
    assert "pip" not in sent["runtime_env"] and sent["entrypoint_num_gpus"] is None


def test_a_run_is_gone_on_with_by_its_place_alone(tmp_path, monkeypatch, capsys):
    jobs = Jobs()
    monkeypatch.setattr(submitting, "client", lambda address: jobs)
    run = "s3://bucket/runs/toy?region=x&scheme=http"
    assert main(["submit", "--resume", run, "--trials", "9", "--set", "hardware.cpus=2"]) == 0
    assert shlex.split(jobs.sent[0]["entrypoint"]) == ["python", "-m", "search", "run", "--resume", run,
                                                       "--set", "hardware.cpus=2", "--trials", "9"]
    assert "job qdlm-" in capsys.readouterr().out
    assert (main(["submit", "--resume", "runs/toy"]) == 2
            and "full path on the cluster" in capsys.readouterr().err)
    assert main(["submit", "--resume", "/runs/toy", "--stop", "j"]) == 2


def test_ending_a_job_is_ctrl_c(tmp_path):
    """Ray's own way is SIGTERM, and SIGKILL 3 s later."""
    found = submitting.runtime_env("name: x\n", False, tmp_path)["env_vars"]
    assert found["RAY_JOB_STOP_SIGNAL"] == "SIGINT" and float(found["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_the_environment_is_pinned_and_leaves_ray_and_torch_to_the_cluster(tmp_path):
    made = submitting.runtime_env("name: x\n", True, tmp_path)
    assert made["pip"] and all("==" in need for need in made["pip"])
    assert not [need for need in made["pip"] if need.startswith(("ray", "torch"))]
    assert "/.git/" in made["excludes"]


def test_what_is_too_large_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(submitting, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="weighs"):
        submitting.runtime_env("name: x\n", False, tmp_path)


def test_following_survives_a_lost_connection_and_tells_nothing_twice():
    jobs, printed = Jobs(["one\n", "two\n", "three\n"], breaks=[1, 2]), []
    assert submitting.follow(jobs, "j", printed.append, pause=0) == "SUCCEEDED"
    assert "".join(printed) == "one\ntwo\nthree\n" and jobs.streams == 3


def test_a_connection_that_stays_lost_says_how_to_come_back():
    with pytest.raises(UserError, match="--attach j"):
        submitting.follow(Jobs(["one\n"], breaks=[0] * 9), "j", lambda text: None, tries=3, pause=0)


def test_a_job_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="knows no job unknown"):
        submitting.follow(Jobs(), "unknown", lambda text: None)


def test_commands_that_cannot_work_are_one_line(capsys):
    for arguments, word in ((["submit"], "give one of"), (["submit", "quickstart"], "--storage"),
                            (["submit", "--attach", "j", "--address", "nonsense"], "legal: http"),
                            (["submit", "--attach", "j", "--address", "http://127.0.0.1:9"],
                             "--address http://127.0.0.1:9")):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def kuberay():
    schema = yaml.safe_load((ROOT / "tests" / "cluster" / "kuberay_schema.yaml").read_text())
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kubernetes_files_fit_the_schema_and_keep_trials_off_the_head(kuberay, name):
    content = yaml.safe_load((ROOT / "cluster" / "kuberay" / f"{name}.yaml").read_text())
    kuberay.validate(content)
    cluster = content["spec"].get("rayClusterSpec", content["spec"])
    assert cluster["rayVersion"] == "2.60.0" and cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 and cluster["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    mounts = [group["template"]["spec"]["containers"][0]["volumeMounts"]
              for group in (cluster["headGroupSpec"], workers)]
    assert mounts[0] == mounts[1], "head and workers share the storage"
    if name == "rayjob":
        assert f"--storage {mounts[0][0]['mountPath']}" in content["spec"]["entrypoint"]


@pytest.mark.parametrize("path, value", [
    (("spec", "entrypiont"), "x"), (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), "0"),
    (("kind",), "Rayjob"), (("metadata", "name"), "Qdlm_1")])
def test_the_schema_sees_mistakes(kuberay, path, value):
    content = yaml.safe_load((ROOT / "cluster" / "kuberay" / "rayjob.yaml").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not kuberay.is_valid(content)


def test_the_autoscaler_file_fits_rays_own_schema():
    import importlib.util

    package = Path(importlib.util.find_spec("ray").origin).parent
    schema = json.loads((package / "autoscaler" / "ray-schema.json").read_text())
    content = yaml.safe_load((ROOT / "cluster" / "autoscaler.yaml").read_text())
    jsonschema.validate(content, schema)
    head = content["available_node_types"][content["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    assert content["idle_timeout_minutes"] > 0


TOKEN_THAT_COMES_LATER = """
import pathlib
from cluster import submitting
from spaces.errors import UserError

def refused():
    try:
        submitting.client("http://127.0.0.1:9")
    except UserError as error:
        return "127.0.0.1:9" in str(error)

assert refused()
kept = pathlib.Path.home() / ".ray" / "auth_token"
kept.parent.mkdir()
kept.write_text("a" * 64)
assert refused()
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._raylet import AuthenticationTokenLoader
assert is_token_auth_enabled()
assert "a" * 64 in str(AuthenticationTokenLoader.instance().get_token_for_http_header())
"""


def test_a_token_made_after_ray_was_imported_is_used_by_the_whole_process(tmp_path):
    """The variable alone tells only the processes that start later: a cluster would then refuse
    its own driver."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", TOKEN_THAT_COMES_LATER], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Token authentication" not in done.stderr
