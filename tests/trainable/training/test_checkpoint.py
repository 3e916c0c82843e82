"""A killed training run goes on where it was: bases from the cache, ranks from rank 0's file, torn files
from the start."""

import math
import pickle
import shutil
import signal
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import forked, run_two_ranks

from spaces.config import OptimConfig, RuntimeConfig, TrialConfig
from trainable.artifacts.artifact import load
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.training import checkpoint
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)
STEPS = 6


def fresh(rank: int = 0, world_size: int = 1) -> TrainingRun:
    model = DiffusionLM(DiffusionLMConfig(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=16, time_dim=8,
                                          dropout=0.0), GaussianConfig(loss="ce", timesteps=50), WORDS, 1)
    return TrainingRun(model, Gaussian(GaussianConfig(loss="ce", timesteps=50)), IDS,
                       OptimConfig(steps=STEPS, batch_size=8, lr=1e-2, ema=0.9),
                       RuntimeConfig(), 7, torch.device("cpu"), rank, world_size)


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    with run.averaged():
        return {name: value.detach().clone() for name, value in run.trained.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rank_with_storage_of_its_own(rank: int, folder: str) -> None:
    """Train in one go, then half, then the rest in a new run; only rank 0 finds the checkpoint
    on its disk."""
    whole = fresh(rank, 2)
    whole.advance(STEPS)
    half = fresh(rank, 2)
    half.advance(STEPS // 2)
    path = Path(folder, str(rank), "run.pt")
    Checkpoint(path, half).save()
    rest = fresh(rank, 2)
    assert Checkpoint(path, rest).restore() and rest.step == STEPS // 2
    rest.advance(STEPS)
    assert equal(weights(rest), weights(whole)) and path.exists() == (rank == 0)
    Path(folder, f"{rank}.ok").touch()


def test_ranks_go_on_from_the_file_of_rank_0(tmp_path):
    run_two_ranks(rank_with_storage_of_its_own, str(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.ok")) == ["0.ok", "1.ok"]


def changed(change):
    """A checkpoint whose state was changed and written again."""
    def damage(path):
        state = torch.load(path, weights_only=True)
        torch.save(change(state) or state, path)
    return damage


def flipped(path):
    content = bytearray(path.read_bytes())
    for place in range(30, len(content), 97):
        content[place] ^= 0x55
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-300]), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\0" * 5000), lambda path: path.write_bytes(b"not a checkpoint\n" * 99),
    lambda path: path.write_bytes(pickle.dumps({"step": 1})), flipped,
    lambda path: torch.save([1, 2], path), lambda path: torch.save(torch.ones(3), path),
    changed(lambda state: state.pop("optimizer") and None), changed(lambda state: state.update(step="2")),
    changed(lambda state: state.update(step=10**9)), changed(lambda state: state.update(trained=[])),
    changed(lambda state: state.update(average={})), changed(lambda state: state.update(notes="[1]")),
    changed(lambda state: state.update(notes="[" * 100_000)),
    changed(lambda state: state.update(seconds=None)),
    changed(lambda state: state["trained"].update({
        name: value * math.nan for name, value in state["trained"].items()})),
    changed(lambda state: state["optimizer"].update(state={0: {}})),
    changed(lambda state: state["optimizer"]["param_groups"].pop() and None),
    changed(lambda state: state.update(trained={
        name: value[:1] for name, value in state["trained"].items()})),
])
def test_a_damaged_file_is_moved_aside_and_training_starts_over(saved, tmp_path, damage):
    path = Path(shutil.copy(saved, tmp_path / "run.pt"))
    damage(path)
    other = fresh()
    before = weights(other)
    kept = Checkpoint(path, other)
    assert not kept.restore() and other.step == 0 and equal(before, weights(other))
    assert [left.name for left in tmp_path.iterdir()] == ["run.pt.damaged"]
    kept.save()
    assert Checkpoint(path, fresh()).restore()
    kept.drop()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path, run = tmp_path_factory.mktemp("saved") / "run.pt", fresh()
    run.advance(2)
    Checkpoint(path, run).save(measured=[1])
    return path


def test_saving_waits_until_it_is_due(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("trainable.training.checkpoint.time.monotonic", lambda: now[0])
    kept = Checkpoint(tmp_path / "run.pt", fresh())
    for moment, saved in ((159.0, False), (161.0, True)):
        now[0] = moment
        kept.save_when_due()
        assert (tmp_path / "run.pt").exists() == saved
    (tmp_path / "run.pt").unlink()
    kept._took = 10.0  # saving took ten seconds: at most a twentieth of the time
    for moment, saved in ((161 + 199.0, False), (161 + 201.0, True)):
        now[0] = moment
        kept.save_when_due()
        assert (tmp_path / "run.pt").exists() == saved


SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 20, "max_words": 24},
               "max_length": 26, "min_count": 0},
    "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8,
              "dropout": 0.0},
    "diffusion": {"timesteps": 100, "loss": "ce"},
    "base": {"optim": {"steps": 400, "batch_size": 8, "lr": 5e-3, "ema": 0.9}},
}


def to_be_killed(payload: dict, tell: Connection) -> None:
    """Make a base, with a checkpoint of every hundredth step, up to one at which it stays; tell the
    details."""
    checkpoint.EVERY, checkpoint.SHARE = 0.0, 1e9
    for event in JOBS["base"](payload, WorkerContext()):
        tell.send(event["detail"])
        while event["progress"] > 0.6:
            time.sleep(1)


def test_a_base_goes_on_after_kill_9_and_is_what_it_would_have_been(tmp_path):
    def base(cache: str) -> tuple[str, list[str]]:
        events = list(JOBS["base"]({"config": config, "cache": str(tmp_path / cache), "corpus": corpus},
                                   WorkerContext()))
        return events[-1]["path"], [event.get("detail", "") for event in events]

    config = TrialConfig.model_validate(SETTINGS).model_dump(mode="json")
    corpus = list(JOBS["corpus"]({"config": config, "cache": str(tmp_path / "whole")},
                                 WorkerContext()))[-1]["path"]
    told, tell = Pipe(duplex=False)
    payload = {"config": config, "cache": str(tmp_path / "killed"), "corpus": corpus}
    process = forked(to_be_killed, payload, tell)
    process.start()
    begun = [told.recv() for _ in range(3)]
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and begun[2].startswith("step 300")
    path, details = base("killed")
    assert (details[0] == "going on from step 200"
            and not [left for left in Path(path).parent.iterdir() if left.name[0] == "."])
    expected, _ = base("whole")
    first, second = load(path).model.state_dict(), load(expected).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)
