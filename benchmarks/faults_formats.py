"""Our own file formats with bytes, values and lengths changed at random: each is read, or refused in
one line.

A case is a format and a seed; the same seed gives the same case.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults_artifacts import LARGE, ODD, anywhere
from search.records.follow import Tail, Tally
from search.records.run_folder import EVENTS, META, RunFolder
from spaces.config import CorpusConfig, OptimConfig, PluginRef, QuantizationConfig, RuntimeConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.artifacts.packed import CONFIG, LEXICON, WEIGHTS
from trainable.artifacts.reading import read_json
from trainable.control.lexicon import Lexicon
from trainable.corpora.base import SPLITS
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantization import sites
from trainable.storage.folders import write_manifest
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
MODEL = DiffusionLMConfig(embedding_dim=4, hidden=8, layers=1, heads=1, ffn=8, time_dim=4, dropout=0.0)
NOISE = GaussianConfig(timesteps=20, loss="ce")


@dataclass(frozen=True)
class Format:
    """A format: `write` makes a good example in a folder, `files` are what is changed of it, `read` opens it
    as the product does. `sealed`: its manifest is written anew, so that checksums hide nothing."""

    write: Callable[[Path], Any]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    sealed: bool = False


def _run(folder: Path) -> None:
    space = "name: toy\nobjectives: {perplexity: minimize}\nsearch: {lora.rank: {int: [0, 8]}}\n"
    run = RunFolder.create(folder, "toy", space, {"box": {"perplexity": [0.0, 9.0]}, "groups": 1})
    run.event({"event": "run_started", "address": "", "run": "", "name": "toy", "resumed": False,
               "groups": 1})
    for trial in range(3):
        run.event({"event": "ask", "trial": trial, "values": {"lora.rank": trial}})
        run.append({"trial": trial, "rung": 0, "state": "complete", "perplexity": 3.0 - trial, "reason": None,
                    "config.lora.rank": trial, "seconds": 1.0, "fidelity": 10})
    run.close("finished")
    run.path.rename(folder / "run")


def _read_run(folder: Path) -> None:
    from search.engine.cost import Ledger
    from search.reporting.timeline import working_seconds

    run, tally = RunFolder.open(folder / "run"), Tally()
    events = list(run.events())
    for entry in Tail(run.path / EVENTS).read():
        tally.add(entry)
    assert run.meta and run.state and len(run.rows()) <= len(events)
    Ledger.from_events(events)
    working_seconds(events)
    run.lock().close()


def training(steps: int = 4) -> TrainingRun:
    """A tiny training run."""
    ids = np.random.default_rng(0).integers(4, 16, size=(16, 6)).astype(np.int32)
    return TrainingRun(DiffusionLM(MODEL, NOISE, WORDS, 1), Gaussian(NOISE), ids,
                       OptimConfig(steps=steps, batch_size=8), RuntimeConfig(), 7, torch.device("cpu"))


def _checkpoint(folder: Path) -> None:
    run = training()
    run.advance(2)
    Checkpoint(folder / "run.pt", run).save(measured=[{"perplexity": 2.0}])


def _read_checkpoint(folder: Path) -> None:
    run = training()
    found = Checkpoint(folder / "run.pt", run).restore()
    assert found == (run.step > 0) or run.step == 0


def _artifact(folder: Path) -> None:
    model = DiffusionLM(MODEL, NOISE, WORDS, 1).eval()
    quantization = QuantizationConfig(quantizer=PluginRef(name="uniform", bits=4))
    sites.apply(model, quantization)
    config = TrialConfig.model_validate({
        "model": {"name": "diffusion_lm", **MODEL.model_dump()}, "quantization": quantization.model_dump(),
        "diffusion": {"name": "gaussian", **NOISE.model_dump()}})
    export(model, config, lexicon(), folder / "model", {})


def lexicon() -> Lexicon:
    """A small one."""
    return Lexicon(WORDS, 16, {"food": {"Thai": [["w1", "w2"]]}}, "words", {"w1": {"NOUN": 1.0}})


def _read_artifact(folder: Path) -> None:
    load(folder / "model").generate(1, torch.Generator().manual_seed(0), steps=1)


def _lexicon(folder: Path) -> None:
    (folder / "lexicon.json").write_text(json.dumps(lexicon().to_json()))


def _read_lexicon(folder: Path) -> None:
    try:
        found = Lexicon.from_json(read_json(folder / "lexicon.json"))
    except (ValueError, TypeError, RecursionError) as error:  # whoever reads one says which file it is
        raise UserError(str(error)) from None
    assert isinstance(found.decode(found.encode(["w1", "never"])), list)


def _corpus(folder: Path) -> None:
    config = CorpusConfig.model_validate({
        "source": {"name": "restaurant", "sentences": 100, "valid_sentences": 20, "max_words": 20},
        "max_length": 22, "min_count": 0})
    build(config, folder / "corpus")
    write_manifest(folder / "corpus")


def _read_corpus(folder: Path) -> None:
    corpus = TokenizedCorpus.open(folder / "corpus")
    for split in SPLITS:
        rows = corpus.rows(split, range(min(5, len(corpus.lengths(split)))))
        assert all(isinstance(row["words"], list) for row in rows)
        for ids in corpus.ids(split)[:5]:
            corpus.decode(ids)


FORMATS: dict[str, Format] = {
    "records": Format(_run, (f"run/{EVENTS}",), _read_run),
    "run.json": Format(_run, (f"run/{META}",), _read_run),
    "checkpoint": Format(_checkpoint, ("run.pt",), _read_checkpoint),
    "artifact": Format(_artifact, (f"model/{WEIGHTS}", f"model/{CONFIG}", f"model/{LEXICON}"), _read_artifact,
                       sealed=True),
    "lexicon": Format(_lexicon, ("lexicon.json",), _read_lexicon),
    "corpus": Format(_corpus, ("corpus/vocab.json", "corpus/stats.json", "corpus/train.arrow",
                               "corpus/valid.arrow"), _read_corpus),
}


def changed(content: bytes, chance: random.Random) -> bytes:
    """Bytes of a file with something of them changed, doubled, left out, or a JSON value replaced."""
    if chance.random() < 0.5:
        lines = content.split(b"\n")
        place = chance.randrange(len(lines))
        try:
            tree = json.loads(lines[place] if len(lines) > 3 and content[:2] == b'{"' else content)
        except (ValueError, RecursionError):
            tree = None
        if isinstance(tree, dict | list) and tree:
            anywhere(tree, chance, chance.choice([*ODD, *LARGE]))
            text = json.dumps(tree).encode()
            if len(lines) > 3 and content[:2] == b'{"':
                return b"\n".join([*lines[:place], text, *lines[place + 1:]])
            return text
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 8, 64])
        data[at:at + size] = chance.choice([b"", bytes(size), b"\xff" * size, chance.randbytes(size),
                                            data[at:at + size] * 2, b"[" * 5000, b"9" * 400])
    return bytes(data)


def examples(folder: Path) -> dict[str, Path]:
    """A good example of each format."""
    made = {}
    for name, form in FORMATS.items():
        made[name] = folder / name
        made[name].mkdir(parents=True)
        form.write(made[name])
        form.read(made[name])
    return made


def case(name: str, seed: int, example: Path, folder: Path) -> str:
    """`read` or the line of a refusal, of one changed copy; a bug raises."""
    form, chance = FORMATS[name], random.Random(f"{name}-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(example, folder)
    file = folder / chance.choice(form.files)
    file.write_bytes(changed(file.read_bytes(), chance))
    if form.sealed:
        write_manifest(file.parent)
    try:
        form.read(folder)
    except UserError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 2000, f"{name} {seed}: not one line: {line[:200]!r}"
        return line
    return "read"
