"""An I/O error at the n-th write, fsync and rename, for every n of a short run, of a checkpoint and of
an export: the run ends in one line, --resume finds whatever was acknowledged, and nothing half-written is
taken for whole."""

import itertools

import numpy as np
import pytest
import torch
from failing_disk import KINDS, FailingDisk

from search.engine.engine import Engine
from search.records.run_folder import RunFolder
from search.run.opening import disk_errors
from search.run.validation import problem
from search.schedulers import registry
from search.study.opening import open_search
from spaces.config import OptimConfig, QuantizationConfig, RuntimeConfig, TrialConfig
from spaces.errors import RunError, UserError
from spaces.schema import Space
from trainable.artifacts.artifact import export, load
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantization import sites
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun

SPACE = Space.from_dict({"name": "io", "objectives": {"perplexity": "minimize"}, "rungs": [10],
                         "search": {"lora.rank": {"int": [0, 64]}}, "sampler": "random",
                         "box": {"perplexity": [0, 100]}, "budget": {"trials": 2}})
WORDS = ["START", "END", "UNK", "PAD", "a", "b", "c", "d"]
MODEL = DiffusionLMConfig(embedding_dim=4, hidden=8, layers=1, heads=1, ffn=8, time_dim=4, dropout=0.0)
NOISE = GaussianConfig(timesteps=20, loss="ce")


def session(folder, told):
    """One session of a run, as `search.run.sweep` drives it; `told`: ends that were acknowledged."""
    with folder:
        study, restored, judged = open_search(SPACE, folder, problem(SPACE))
        scheduler = registry.build(SPACE.scheduler.name, judged, SPACE.scheduler.options)
        engine = Engine(SPACE, study, scheduler, folder)
        folder.event({"event": "run_started", "address": "", "run": "", "name": "io", "resumed": False})
        while (trial := engine.ask()) is not None:
            for rung, steps in enumerate(SPACE.rungs):
                engine.report(trial.number, {"rung": rung, "steps": steps, "final": True,
                                             "perplexity": 10.0 + trial.number})
            told.append(trial.number)
        study.flush()
        folder.update(spent=engine.elapsed)
        folder.write_front(engine.front)
        folder.close("finished")


def run(storage, told):
    """The run there, begun or gone on with."""
    found = [path for path in storage.iterdir() if (path / "space.yaml").is_file()]
    folder = RunFolder.open(found[0]).lock() if found else RunFolder.create(storage, "io", SPACE.to_yaml())
    session(folder, told)
    return folder.path


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_survives_an_error_at_every_call(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("search.study.storage.STALE", 0.0)
    monkeypatch.setattr("search.study.storage.GRACE", 1)
    for at in itertools.count(1):
        storage, told = tmp_path / str(at), []
        storage.mkdir()
        disk = FailingDisk(storage)
        with disk.failing(kind, at):
            try:
                with disk_errors(storage):
                    run(storage, told)
            except (UserError, RunError) as error:
                assert "\n" not in str(error)
        before = list(told)
        path = run(storage, told)
        ends = [row["trial"] for row in RunFolder.open(path).rows() if row["state"] != "rung"]
        assert sorted(ends) == sorted(set(ends)), f"run twice after {kind} {at}"
        assert set(before) <= set(ends), f"lost after {kind} {at}"
        assert len(ends) == 2 and RunFolder.open(path).state == "finished"
        if disk.count < at:
            break
    assert at > 3, "there is something of this kind in a run"


@pytest.fixture(scope="module")
def model():
    made = DiffusionLM(MODEL, NOISE, WORDS, 1).eval()
    sites.apply(made, QuantizationConfig(quantizer="uniform:4"))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_whole_or_absent_after_an_error_at_every_call(model, tmp_path, kind):
    config = TrialConfig(model=MODEL, diffusion=NOISE, quantization=QuantizationConfig(quantizer="uniform:4"))
    for at in itertools.count(1):
        folder = tmp_path / str(at) / "trial"
        folder.parent.mkdir()
        disk = FailingDisk(tmp_path)
        with disk.failing(kind, at):
            try:
                export(model, config, Lexicon(WORDS, 16, {}, "words"), folder, {})
            except OSError:
                assert list(folder.parent.iterdir()) == [], "nothing is left behind"
        if folder.exists():
            load(folder)
        if disk.count < at:
            break
    assert folder.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_checkpoint_stands_after_an_error_at_every_call(tmp_path, kind):
    ids = np.random.default_rng(0).integers(4, 8, size=(16, 6)).astype(np.int32)

    def fresh():
        return TrainingRun(DiffusionLM(MODEL, NOISE, WORDS, 1), Gaussian(NOISE), ids,
                           OptimConfig(steps=4, batch_size=8), RuntimeConfig(), 7, torch.device("cpu"))

    disk, first = FailingDisk(tmp_path), fresh()
    first.advance(2)
    with disk.failing(kind, 10**9):
        Checkpoint(tmp_path / "first.pt", first).save(rung=2)
    # torch writes a checkpoint in hundreds of small pieces: of those, a spread
    for at in [*range(1, disk.count, max(1, disk.count // 20)), disk.count, disk.count + 1]:
        path = tmp_path / f"{at}.pt"
        training = fresh()
        training.advance(1)
        Checkpoint(path, training).save(rung=1)
        training.advance(2)
        saved = True
        with disk.failing(kind, at):
            try:
                Checkpoint(path, training).save(rung=2)
            except OSError:
                saved = False
        other = fresh()
        kept = Checkpoint(path, other)
        assert kept.restore() and other.step == (2 if saved else 1) and kept.notes["rung"] == other.step
    assert saved
