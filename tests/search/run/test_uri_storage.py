"""A search whose nodes share no folder: its storage is a bucket; driver and workers have cache
roots of their own."""

import json
import threading
import time
from pathlib import Path

import pytest
from report_runs import write_run
from s3_server import bucket

from search.cli.arguments import run_folder
from search.cli.doctor import BAD, OK, findings
from search.cli.main import main
from search.records import mirror as mirroring
from search.records.mirror import Mirror, resume_from_uri
from search.records.run_folder import EVENTS, LEASE, RunFolder
from search.records.sync import fetch_run
from search.run import sweep
from spaces.errors import RunError, UserError
from spaces.schema import Space
from spaces.uris import HOME, joined, node_folder
from trainable.storage.object_store import Store, StoreError


@pytest.fixture(scope="module")
def s3():
    with bucket() as uri:
        yield uri


@pytest.fixture
def at(s3, request, tmp_path, monkeypatch):
    """A place of this test's own in the bucket, and a cache root of its own."""
    monkeypatch.setenv(HOME, str(tmp_path / "driver"))
    return joined(s3, request.node.name)


def space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "scheduler": "none", "search": {"adapt.optim.warmup": {"choice": [1, 2, 3]}}, "sampler": "grid",
        "finish": {"repeats": 1}, **changes})


def search(at, observer, **options):
    return sweep.run(space(), storage=at, jobs="store_jobs:JOBS", max_concurrent=1, observer=observer,
                     **options)


def interrupt(event):
    """Ctrl-C after the second trial."""
    if event["event"] == "trial_finished" and event["complete"] == 2:
        raise KeyboardInterrupt


def test_a_run_in_a_bucket_is_gone_on_with_by_a_machine_that_knows_nothing_of_it(
        ray_session, worker_cache, at, tmp_path, monkeypatch, capsys):
    events = []
    with pytest.raises(KeyboardInterrupt):
        search(at, lambda event: (events.append(event), interrupt(event)))
    place = events[0]["run"]
    name = place.partition("?")[0].rpartition("/")[2]
    assert place == joined(at, name)
    kept = Store(place).sizes()
    assert {"events.jsonl", "space.yaml", "run.json", "study.journal", "front.csv",
            "artifacts/trial-0000/weights", "samples/trial-0001.json"} <= set(kept)
    assert not [file for file in kept if file.startswith("trials/")] and LEASE not in kept
    assert fetch_run(place).parent.parent == tmp_path / "driver" / "mirrors"
    assert RunFolder.open(run_folder(place)).state == "interrupted"

    monkeypatch.setenv(HOME, str(tmp_path / "other machine"))
    observed = []

    def kill(event):
        """The worker, after the next rung, once."""
        observed.append(event)
        if event["event"] == "rung":
            (worker_cache / "die").touch()

    result = search(at, kill, resume=place)
    assert result.state == "finished" and result.run_folder.is_relative_to(tmp_path / "other machine")
    rows = RunFolder.open(run_folder(place)).rows()
    ended = [row["trial"] for row in rows if row["state"] == "complete" and "again" not in row]
    assert len(set(ended)) == 3 and {row["config.adapt.optim.warmup"] for row in rows} == {1, 2, 3}
    last = [(row["rung"], row["began"]) for row in rows if row["trial"] == ended[-1] and "again" not in row]
    assert last == [(0, 0), (1, 1)], "a new worker went on from the checkpoint in the bucket"
    prepared = [entry for entry in RunFolder.open(result.run_folder).events() if entry["event"] == "prepare"]
    assert [entry["made"]
            for entry in prepared] == [True, False, False, False, False, False], "what is shared is made once"
    assert any("fetched to" in event.get("message", "") for event in observed)

    capsys.readouterr()
    assert main(["front", place]) == 0
    seen = capsys.readouterr()
    assert ("Front: 3 of 3" in seen.out and f"{name}/artifacts/trial-NNNN?" in seen.out
            and "fetched to" in seen.err)
    assert main(["status", place]) == 0 and "finished" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["report", place]) == 0 and (tmp_path / f"{name}.report.html").is_file()
    assert main(["watch", place]) == 0 and "3 trials ended" in capsys.readouterr().out
    driver = [path for path in (tmp_path / "driver").rglob("*")
              if path.name in ("weights", "text", "checkpoint.pt")]
    assert not driver, "what trials read and write is on the nodes that run them"
    assert [path for path in worker_cache.rglob("text")]


def test_a_bucket_that_is_not_there_is_one_line_before_ray_starts(at, capsys):
    assert main(["run", "quickstart", "--storage", joined(at).replace("/bucket/", "/nosuch/")]) == 2
    assert "NO_SUCH_BUCKET" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main(["status", joined(at, "nosuchrun")]) == 2 and "is not a run" in capsys.readouterr().err
    assert main(["run", "quickstart", "--storage", "s3://key:secret@bucket/runs"]) == 2
    error = capsys.readouterr().err
    assert "leave passwords out" in error and "secret" not in error


def test_the_doctor_looks_at_a_bucket(at):
    (found,) = [finding for finding in findings(at) if finding.section == "storage"]
    assert found.status == OK and not Store(at).sizes()
    (found,) = [finding
                for finding in findings(at.replace("/bucket/", "/nosuch/")) if finding.section == "storage"]
    assert found.status == BAD and "NO_SUCH_BUCKET" in found.detail


# ---- the mirror alone
class Broken(Store):
    """A store that fails while it is told to."""

    down = False

    def _tried(self, what, name, act):
        if self.down:
            raise StoreError(f"{self.uri}: cannot {what} {name}: gone")
        return super()._tried(what, name, act)


@pytest.fixture
def mirrored(at, monkeypatch):
    """A run that is written here, and its mirror, in a hurry."""
    monkeypatch.setattr(mirroring, "REST", 0.02)
    monkeypatch.setattr(mirroring, "BEAT", 0.1)
    monkeypatch.setattr(mirroring, "SHARE", 0)
    folder = RunFolder.create(node_folder("stores", at), "toy", space().to_yaml())
    place = joined(at, folder.path.name)
    warnings, store = [], Broken(place, tries=1)
    mirror = Mirror(place, folder.path, warnings.append, store).start(fresh=True)
    yield folder, place, mirror, warnings, store
    mirror._stop()
    folder.close()


def until(true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def test_an_outage_is_told_once_and_made_up_for(mirrored):
    folder, place, mirror, warnings, store = mirrored
    store.down = True
    folder.append({"trial": 0, "rung": 0, "state": "complete"})
    mirror.trial_ended(0, {0})
    until(lambda: warnings)
    time.sleep(0.3)
    assert len(warnings) == 1 and "the search goes on" in warnings[0] and "\n" not in warnings[0]
    store.down = False
    until(lambda: len(warnings) == 2)
    assert "up to date again" in warnings[1]
    assert Store(place).read(EVENTS) == (folder.path / EVENTS).read_bytes()


def test_the_end_waits_for_the_store_and_says_where_the_records_are(mirrored):
    folder, place, mirror, _, store = mirrored
    folder.append({"trial": 0, "rung": 0, "state": "complete"})
    store.down = True
    threading.Timer(0.1, lambda: setattr(store, "down", False)).start()
    mirror.finish([])
    assert Store(place).read(EVENTS) == (folder.path / EVENTS).read_bytes() and not Store(place).has(LEASE)
    store.down = True
    with pytest.raises(RunError, match=f"the records are in {folder.path}"):
        mirror.finish([])


def test_what_is_not_on_the_front_goes_and_the_rest_stays(mirrored):
    _, place, mirror, _, _ = mirrored
    there = Store(place)
    for number in (0, 1, 2):
        there.write(f"artifacts/trial-000{number}/weights", b"w")
        there.write(f"trials/trial-000{number}/checkpoint.pt", b"c")
    mirror.trial_ended(0, {0, 2})
    mirror.trial_ended(1, {0, 2})
    until(lambda: not there.has("artifacts/trial-0001/weights"))
    assert sorted(there.sizes("artifacts")) == ["trial-0000/weights", "trial-0002/weights"]
    until(lambda: list(there.sizes("trials")) == ["trial-0002/checkpoint.pt"])  # of the trial that runs
    mirror.finish(["trial-0002"])
    assert sorted(there.sizes("artifacts")) == ["trial-0002/weights"] and not there.sizes("trials")


def test_a_run_that_is_not_to_be_leaves_nothing(mirrored):
    _, place, mirror, _, _ = mirrored
    assert Store(place).sizes()
    mirror.discard()
    assert not Store(place).sizes()


def test_one_process_at_a_time_works_on_a_run(mirrored, monkeypatch):
    _, place, mirror, _, _ = mirrored
    with pytest.raises(UserError, match="by another process of this machine"):
        resume_from_uri(place, print)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(UserError, match="is being written by process .* wait"):
        resume_from_uri(place, print)


def test_records_that_never_reached_the_bucket_count_unless_it_knows_newer_ones(mirrored):
    folder, place, mirror, _, _ = mirrored
    mirror.finish([])
    folder.append({"trial": 7, "rung": 0, "state": "complete"})
    folder.close()
    assert (resume_from_uri(place, print) == folder.path
            and RunFolder.open(folder.path).rows()[-1]["trial"] == 7)
    newer = json.dumps({"event": "row", "trial": 8, "rung": 0, "state": "complete"}).encode() + b"\n"
    Store(place).write(EVENTS, newer)
    observed = []
    assert resume_from_uri(place, observed.append) == folder.path and "older records are in" in observed[0]
    assert [row["trial"] for row in RunFolder.open(folder.path).rows()] == [8]
    aside = Path(observed[0].rpartition(" ")[2])
    assert RunFolder.open(aside).rows()[-1]["trial"] == 7


def test_a_run_is_copied_between_a_bucket_and_a_folder(at, tmp_path):
    run = write_run(tmp_path, 4)
    assert main(["sync", str(run), joined(at, "copy")]) == 0
    assert main(["sync", joined(at, "copy"), str(tmp_path / "back")]) == 0
    assert RunFolder.open(tmp_path / "back").rows() == RunFolder.open(run).rows()
