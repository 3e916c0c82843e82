"""Trackers with the real libraries and local stores: what a search and its trials leave there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from search.cli.main import main
from search.trackers.base import TrackedRun, Tracker, numbers, settings
from search.trackers.registry import TRACKERS, check_trackers, close_all, start, tracker
from spaces.errors import UserError
from spaces.schema import Space

SPACE = Space.from_dict({"name": "tracked", "search": {"lora.rank": {"int": [0, 8]}}, "rungs": [5, 20],
                         "objectives": {"perplexity": "minimize"}, "budget": {"trials": 4}})


def events(trials=("complete", "stopped", "failed")):
    """A session of trials, one after another, and one that it leaves unfinished."""
    counts = dict.fromkeys(trials, 0)
    for trial, state in enumerate(trials):
        yield {"event": "trial_started", "trial": trial, "values": {
            "lora.rank": trial, "quantization.quantizer": {"name": "fixed", "frac_bits": 8}}}
        yield {"event": "rung", "trial": trial, "rung": 0, "metrics": {"perplexity": 30.0, "device": "cpu"}}
        counts[state] += 1
        yield {"event": "trial_finished", "trial": trial, "rung": 1, "state": state, "values": {},
               "seconds": 2.5,
               "metrics": {"perplexity": 9.0 + trial, "nll": math.nan} if state == "complete" else {},
               "reason": None if state == "complete" else f"why {trial}", **counts, "front_size": 1,
               "hypervolume": 0.5, "best": {"perplexity": 9.0}, "cost": {"hours": 0.25, "money": None}}
    yield {"event": "warning", "message": "no matter"}
    yield {"event": "trial_started", "trial": len(trials), "values": {"lora.rank": 8}}


@pytest.fixture
def run(tmp_path, monkeypatch) -> TrackedRun:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tracked-1"
    folder.mkdir(parents=True)
    return TrackedRun(folder, SPACE)


def tracked(name: str, run: TrackedRun) -> Tracker:
    """A tracker that was told a session that was interrupted."""
    pytest.importorskip(tracker(name).library, reason=f"{name} is not installed")
    (found,) = start([name, name], run)
    for event in events():
        found(event)
    found.close("interrupted")
    found.close("interrupted")
    return found


def test_mlflow(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    found = tracked("mlflow", run)
    from mlflow import MlflowClient

    client = MlflowClient()
    (whole,) = [one for one in client.search_runs([found.experiment]) if one.info.run_name == "tracked-1"]
    trials = {one.info.run_name: one for one in client.search_runs([found.experiment]) if one != whole}
    del trials["tracked-1"]
    assert [trials[f"trial-000{trial}"].info.status for trial in range(4)] == [
        "FINISHED", "KILLED", "FAILED", "FAILED"]
    first = trials["trial-0000"]
    assert first.data.params == {"lora.rank": "0", "quantization.quantizer": "fixed",
                                 "quantization.quantizer.frac_bits": "8"}
    assert [(one.step, one.value) for one in client.get_metric_history(first.info.run_id, "perplexity")] == [
        (5, 30.0), (20, 9.0)]
    assert first.data.tags["mlflow.parentRunId"] == whole.info.run_id and "nll" not in first.data.metrics
    assert trials["trial-0001"].data.tags["qdlm.reason"] == "why 1"
    assert whole.info.status == "KILLED" and whole.data.metrics["hypervolume"] == 0.5


def test_tensorboard(run):
    tracked("tensorboard", run)
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format that is read below

    def scalars(folder: Path):
        for file in folder.glob("events*"):
            data = file.read_bytes()
            while data:  # length, its checksum, the record, its checksum
                size = int.from_bytes(data[:8], "little")
                event = Event.FromString(data[12:12 + size])
                yield from ((one.tag, event.step, one.simple_value) for one in event.summary.value
                            if one.HasField("simple_value"))
                data = data[16 + size:]

    root = run.folder / "tensorboard"
    assert sorted(path.name for path in root.iterdir()) == ["search", *(f"trial-000{n}" for n in range(4))]
    assert list(scalars(root / "trial-0000")) == [("perplexity", 5, 30.0), ("perplexity", 20, 9.0)]
    assert ("best_perplexity", 3, 9.0) in set(scalars(root / "search"))
    assert ("hparam/perplexity", 0, 9.0) in set(scalars(root / "trial-0000" / "hparams"))


def test_wandb(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked("wandb", run)
    runs = list((run.folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 5 and all(list(path.glob("*.wandb")) for path in runs)
    told = (b"tracked-1-trial-0002", b"why 1", b"hypervolume", b"lora.rank", b"perplexity")
    for _ in range(100):  # the library's own process writes behind our back
        kept = b"".join(file.read_bytes() for path in runs for file in path.glob("*.wandb"))
        missing = [text for text in told if text not in kept]
        if not missing:
            break
        time.sleep(0.2)
    assert not missing


def test_trackio(run, tmp_path):
    """In a process of its own: trackio looks for its folder when it is imported."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trackers import SPACE, Path, TrackedRun, events, start
from trackio.sqlite_storage import SQLiteStorage
(found,) = start(["trackio"], TrackedRun(Path("runs/tracked-1"), SPACE))
for event in events():
    found(event)
found.close("interrupted")
print(sorted(SQLiteStorage.get_runs("tracked")))
logs = SQLiteStorage.get_logs("tracked", "tracked-1-trial-0000")
print([(row["step"], row["perplexity"]) for row in logs[:2]])
print(SQLiteStorage.get_logs("tracked", "tracked-1-trial-0001")[-1]["reason"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                          cwd=tmp_path, env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")})
    assert done.stdout.splitlines()[:3] == [
        str(["tracked-1-search", *(f"tracked-1-trial-000{n}" for n in range(4))]), "[(5, 30.0), (20, 9.0)]",
        "why 1"], done.stderr


def test_a_tracker_that_is_not_there_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(UserError, match=r"track: mlflow: mlflow is not installed; run: .* 'qdlm\[mlflow\]'"):
        check_trackers(["mlflow"])
    monkeypatch.undo()
    assert main(["run", "quickstart", "--track", "mlfow"]) == 2
    assert ("track: unknown tracker 'mlfow' (did you mean 'mlflow'?); legal: mlflow, tensorboard, trackio, "
            "wandb") in capsys.readouterr().err
    assert main(["run", "quickstart", "--track", "mlflow", "--set", "track=[wandb]"]) == 2
    assert "the same setting twice" in capsys.readouterr().err


class Unreachable(Tracker):
    """Of a server that does not answer."""

    name, library, extra = "unreachable", "json", "none"
    begin = measured = end = summary = None

    def __init__(self, run):
        raise ConnectionError("no server at http://nowhere\nsecond line")


class Stuck(Unreachable):
    """Begins, and cannot end."""

    __init__ = Tracker.__init__

    def finish(self, state):
        raise OSError("disk full")


@pytest.mark.parametrize("method", ["begin", "measured", "end", "summary", "finish"])
def test_every_tracker_does_all(method):
    assert all(getattr(tracker(name), method) is not getattr(Tracker, method) for name in TRACKERS)


def test_what_cannot_begin_or_end_is_one_line(run, monkeypatch):
    for kind in (Unreachable, Stuck):
        kind.__abstractmethods__ = frozenset()
    monkeypatch.setitem(TRACKERS, "unreachable", f"{__name__}:Unreachable")
    monkeypatch.setattr("search.trackers.registry.tracker", lambda name: Unreachable)
    with pytest.raises(UserError, match="track: unreachable cannot begin: ConnectionError: no server at"):
        start(["unreachable"], run)
    said = []
    close_all([Stuck(run)], "finished", said.append)
    assert said == ["tracker unreachable: OSError: disk full"]


def test_the_part_that_installs_a_tracker_is_there():
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    for name in TRACKERS:
        needs = project["optional-dependencies"][tracker(name).extra]
        assert any(need.startswith(f"{tracker(name).library}==") for need in needs)


def test_what_is_told_is_plain():
    assert numbers({"a": 1, "b": math.inf, "c": "x", "d": True, "e": None}) == {"a": 1.0}
    assert settings({"q": {"name": "fixed", "bits": 8}, "targets": ["query", "key"], "none": None}) == {
        "q": "fixed", "q.bits": 8, "targets": "['query', 'key']", "none": "None"}
    assert json.dumps(settings({"q": {"name": "vq", "inner": {"name": "pq", "m": 2}}})) == (
        '{"q": "vq", "q.inner": "pq", "q.inner.m": 2}')


def test_a_space_may_name_trackers_and_a_resumed_run_others():
    space = SPACE.with_overrides({"track": ["tensorboard"]})
    assert space.track == ("tensorboard",) and not space.difference(SPACE)
