"""Two nodes that share no folder, and what they bring each other through a storage."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.uris import HOME, is_uri, joined, node_folder, origin, parent
from trainable.storage.depot import TRAINING, Depot, with_depot
from trainable.storage.folders import whole_folder, write_manifest
from trainable.storage.object_store import Store, StoreError, opened
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS


@pytest.fixture
def uri(tmp_path):
    return (tmp_path / "bucket" / "runs").as_uri()


def node(name, uri, tmp_path, monkeypatch, driver="/driver/root"):
    """A depot as a worker on that node has it."""
    monkeypatch.setenv(HOME, str(tmp_path / name))
    return Depot(uri, driver, Store(uri, tries=2, sleep=lambda seconds: None))


def make(folder, text="shared"):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside:
        (aside / "part").mkdir()
        (aside / "part" / "text").write_text(text)
    return folder


@pytest.mark.parametrize("place, uri", [("runs", False), ("/mnt/runs", False), ("s3://bucket/runs", True),
                                        ("C://x", True), ("file:///tmp/x", True), ("a/b://c", False)])
def test_what_is_a_uri(place, uri):
    assert is_uri(place) is uri


@pytest.mark.parametrize("typo", ["s3:/bucket/runs", "gs:bucket", "file:/tmp/x"])
def test_a_slash_too_few_is_a_mistake_and_no_folder(typo):
    with pytest.raises(UserError, match="did you mean (s3://bucket/runs|gs://bucket|file://tmp/x)"):
        is_uri(typo)


def test_uris_are_joined_and_taken_apart_before_their_query():
    uri = "s3://bucket/runs?endpoint_override=host:9000&scheme=http"
    assert (joined(uri, "name", "artifacts/x")
            == "s3://bucket/runs/name/artifacts/x?endpoint_override=host:9000&scheme=http")
    assert parent(joined(uri, "name")) == (uri, "name")
    for wrong in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(UserError, match="names no run"):
            parent(wrong)


def test_a_copy_knows_what_it_is_a_copy_of(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME, str(tmp_path))
    folder = node_folder("mirrors", "s3://bucket/runs/?region=x")
    assert (folder == node_folder("mirrors", "s3://bucket/runs?region=x")
            != node_folder("stores", "s3://bucket/runs?region=x"))
    assert (origin(folder / "name" / "front.csv") == "s3://bucket/runs/name/front.csv?region=x"
            and origin(tmp_path) is None)


@pytest.mark.parametrize("wrong", ["nonsense://bucket/x", "s3://key:secret@bucket/x",
                                   "s3://bucket/x?secret_key=hidden"])
def test_places_that_cannot_be_are_one_line_without_secrets(wrong):
    with pytest.raises(UserError) as caught:
        opened(wrong)
    assert ("secret@" not in str(caught.value) and "hidden" not in str(caught.value)
            and "\n" not in str(caught.value))


def test_what_one_node_made_the_other_fetches_once_and_whole(uri, tmp_path, monkeypatch):
    one, two = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two"))
    assert one.root != two.root and not two.present(Path(two.root) / "cache" / "base-1")
    one.publish(make(Path(one.root) / "cache" / "base-1"))
    assert two.present(Path(two.root) / "cache" / "base-1")
    assert (Path(two.root) / "cache" / "base-1" / "part" / "text").read_text() == "shared"
    fetches = []
    monkeypatch.setattr(two.store, "get_folder", lambda *given: fetches.append(given))
    assert two.need(Path(two.root) / "cache" / "base-1") and not fetches


def test_workers_of_one_node_fetch_once(uri, tmp_path, monkeypatch):
    one = node("one", uri, tmp_path, monkeypatch)
    one.publish(make(Path(one.root) / "cache" / "base-1"))
    depots = [node("two", uri, tmp_path, monkeypatch) for _ in range(4)]
    fetches = []
    for depot in depots:
        fetch = depot.store.get_folder
        monkeypatch.setattr(depot.store,
                            "get_folder", lambda *given, fetch=fetch: (fetches.append(given), fetch(*given)))
    threads = [threading.Thread(target=depot.need, args=(Path(depot.root) / "cache" / "base-1",))
               for depot in depots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_of_this_place(tmp_path, umask):
    """safetensors writes 0600 whatever the umask: whoever else reads the storage could not load a model."""
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "model") as aside:
            (aside / "adapter").mkdir()
            save_file({"weight": torch.zeros(2)}, aside / "adapter" / "model.safetensors")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    modes = {path.name: path.stat().st_mode & 0o777 for path in files}
    assert modes == dict.fromkeys(("model.safetensors", "manifest.json"), 0o666 & ~umask)


def test_a_damaged_copy_is_fetched_anew_and_a_damaged_original_is_a_mistake(uri, tmp_path, monkeypatch):
    one, two = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two"))
    one.publish(make(Path(one.root) / "cache" / "base-1"))
    copy = Path(two.root) / "cache" / "base-1"
    copy.joinpath("part").mkdir(parents=True)
    copy.joinpath("part", "text").write_text("torn")
    two.need(copy)
    assert (copy / "part" / "text").read_text() == "shared"
    one.store.write("cache/base-1/part/text", b"wrong!")
    three = node("three", uri, tmp_path, monkeypatch)
    with pytest.raises(StoreError,
                       match=r"cannot read cache/base-1: it is damaged .* its checksum\); delete it there"):
        three.need(Path(three.root) / "cache" / "base-1")
    assert not (Path(three.root) / "cache" / "base-1").exists()


def test_what_was_half_put_is_not_there(uri, tmp_path, monkeypatch):
    one, two = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two"))
    made, put = make(Path(one.root) / "cache" / "base-1"), one.store.put
    monkeypatch.setattr(one.store,
                        "put", lambda source, name: put(source, name) if "manifest" not in name else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.publish(made)
    assert not two.present(Path(two.root) / "cache" / "base-1")


def trial(payload, context):
    """Two rungs, from a checkpoint."""
    folder = Path(payload["folder"])
    began = int((folder / "checkpoint.pt").read_text()) if folder.is_dir() else 0
    yield {"ready": True}
    for rung in range(began, 2):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.pt").write_text(str(rung + 1))
        event = {"rung": rung, "final": rung == 1, "began": began}
        if rung:
            (folder / "artifact").mkdir()
            (folder / "artifact" / "weights").write_text("w")
            write_manifest(folder / "artifact")
            event["artifact"] = str(folder / "artifact")
        yield event


PAYLOAD = {"folder": "/driver/root/run/trials/trial-0001", "keep": "/driver/root/run/artifacts/trial-0001",
           "prepared": {}}


def test_a_trial_goes_on_elsewhere_and_its_artifact_ends_at_its_place(uri, tmp_path, monkeypatch):
    one, two = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two"))
    lost = with_depot({"trial": trial}, one)["trial"](PAYLOAD, SimpleNamespace(rank=0))
    assert [next(lost), next(lost)] == [{"ready": True}, {"rung": 0, "final": False, "began": 0}]
    assert set(Store(uri).sizes()) == {"run/trials/trial-0001/checkpoint.pt"}  # and its node is gone
    *_, last = with_depot({"trial": trial}, two)["trial"](PAYLOAD, SimpleNamespace(rank=0))
    assert last == {"rung": 1, "final": True, "began": 1, "artifact": PAYLOAD["keep"]}
    assert set(Store(uri).sizes("run/artifacts")) == {"trial-0001/weights", "trial-0001/manifest.json"}
    assert not (Path(two.root) / "run" / "trials" / "trial-0001").exists(), "nodes are left as they were"


def test_a_checkpoint_that_cannot_be_stored_is_told_and_an_artifact_is_the_trials_end(uri, tmp_path,
                                                                                      monkeypatch):
    one = node("one", uri, tmp_path, monkeypatch)

    def full(source, name):
        raise StoreError("no room")

    monkeypatch.setattr(one.store, "put", full)
    events = with_depot({"trial": trial}, one)["trial"](PAYLOAD, SimpleNamespace(rank=0))
    assert [next(events), next(events)] == [{"ready": True},
                                            {"notice": "a checkpoint was not stored: no room"}]
    assert next(events)["rung"] == 0
    with pytest.raises(StoreError, match="no room"):
        next(events)


@pytest.mark.parametrize("arrived", [b"cut", b"framed longer than what was sent"])
def test_what_does_not_arrive_as_it_was_sent_is_an_error(uri, tmp_path, monkeypatch, arrived):
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr("trainable.storage.object_store.fs.copy_files",
                        lambda source, to, **given: Path(to).write_bytes(arrived))
    with pytest.raises(StoreError, match=f"cannot write x: {len(arrived)} bytes arrived, 10 were sent"):
        Store(uri, tries=2, sleep=lambda seconds: None).put(tmp_path / "file", "x")


def test_errors_are_tried_again_with_growing_pauses(uri):
    pauses, fails = [], [OSError("reset"), OSError("reset")]
    store = Store(uri, tries=3, pause=1.0, sleep=pauses.append)

    def act():
        if fails:
            raise fails.pop()
        return "done"

    assert store._tried("read", "x", act) == "done" and pauses == [1.0, 2.0]
    with pytest.raises(StoreError, match="cannot read x: reset"):
        Store(uri, tries=2,
              sleep=pauses.append)._tried("read", "x", lambda: (_ for _ in ()).throw(OSError("reset\nmore")))


def test_the_storage_says_what_is_made_and_every_rank_has_what_rank_0_finds(uri, tmp_path, monkeypatch):
    ranks = [WorkerContext(torch.device("cpu"), rank, 2, 1,
                           depot=node(f"node{rank}", uri, tmp_path, monkeypatch))
             for rank in range(2)]
    folders = [Path(context.depot.root) / "cache" / "base-1" for context in ranks]
    sent = []

    def broadcast(answer, src):  # the ranks ask in turn here
        source, target = (sent, answer) if answer == [None] else (answer, sent)
        target[:] = source
    monkeypatch.setattr("trainable.workers.context.dist.broadcast_object_list", broadcast)
    make(folders[0])  # on the one node alone: its storage could not be reached
    assert [context.agreed(folder) for context, folder in zip(ranks, folders, strict=True)] == [False, False]
    ranks[0].depot.publish(folders[0])
    assert [context.agreed(folder) for context, folder in zip(ranks, folders, strict=True)] == [True, True]
    assert (folders[1] / "part" / "text").read_text() == "shared"


def test_an_artifact_stays_while_a_worker_of_the_node_uses_it(uri, tmp_path, monkeypatch):
    one = node("one", uri, tmp_path, monkeypatch)
    one.publish(make(Path(one.root) / "run" / "artifacts" / "trial-1"))
    first, second = (node("two", uri, tmp_path, monkeypatch) for _ in range(2))
    folder = Path(first.root) / "run" / "artifacts" / "trial-1"
    with first.borrowed(folder):
        with second.borrowed(folder):
            assert folder.is_dir()
        assert folder.is_dir()
    assert not folder.exists()


def base(payload, context):
    """Trains in three steps, each kept in a checkpoint."""
    cache = Path(payload["cache"])
    checkpoint = cache / f".base-1{TRAINING}"
    done = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    for step in range(done, 3):
        checkpoint.write_text(str(step + 1))
        yield {"progress": (step + 1) / 3, "done": done}
    folder = make(cache / "base-1")
    checkpoint.unlink()
    yield {"progress": 1.0, "path": str(folder)}


def test_a_base_goes_on_training_on_another_node(uri, tmp_path, monkeypatch):
    one, two = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two"))
    lost = with_depot({"base": base}, one)["base"]({"cache": "/driver/root/cache"}, SimpleNamespace(rank=0))
    assert [next(lost)["done"], next(lost)["done"]] == [0, 0]
    first, last = with_depot({"base": base}, two)["base"]({"cache": "/driver/root/cache"},
                                                          SimpleNamespace(rank=0))
    assert first["done"] == 2 and last["path"] == "/driver/root/cache/base-1"
    assert set(Store(uri).sizes()) == {"cache/base-1/manifest.json", "cache/base-1/part/text"}


def test_one_trial_over_three_nodes_with_the_products_own_jobs(uri, tmp_path, monkeypatch):
    config = TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 200, "max_words": 28}, "max_length": 32,
                   "min_count": 0}, "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2,
                                              "ffn": 32, "positions": 32, "time_dim": 16},
        "diffusion": {"timesteps": 20}, "sampling": {"steps": 2}, "adapt": {"optim": {"batch_size": 8}},
        "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 2, "batch_size": 8}},
        "base": {"optim": {"steps": 2, "batch_size": 8}}, "quantization": {"quantizer": "binary"},
        "evaluation": {"samples": 4, "heldout": 4, "times": 2, "control_samples": 1, "latency_repeats": 2,
                       "latency_batch": 1},
    }).model_dump(mode="json")
    one, two, three = (node(name, uri, tmp_path, monkeypatch) for name in ("one", "two", "three"))

    def work(depot, job, **payload):
        return list(with_depot(JOBS, depot)[job](payload, WorkerContext(depot=depot)))[-1]

    cache = "/driver/root/cache"
    corpus = work(one, "corpus", config=config, cache=cache)["path"]
    prepared = {"corpus": corpus,
                **{kind: work(depot, kind, config=config, cache=cache, corpus=corpus)["path"]
                   for kind, depot in (("teacher", one), ("base", two))}}
    assert all(path.startswith(cache) for path in prepared.values())
    last = work(three, "trial", config=config, prepared=prepared, rungs=[2, 4], **{
        name: path for name, path in PAYLOAD.items() if name != "prepared"})
    assert last["final"] and last["artifact"] == PAYLOAD["keep"] and last["nll_bound"] > 0
    again = work(one, "remeasure", artifact=last["artifact"], prepared=prepared, seed=1)
    assert again["size_bytes"] == last["size_bytes"]
    kept = {file.split("/")[0] for file in Store(uri).sizes("cache")}
    assert kept == {Path(path).name for path in prepared.values()}
