"""CPU seconds of commands that do little, and of a worker's imports, each in a process of its own.

Runs on the checkout it is started in: `python benchmarks/probes/imports.py CACHE`. The run has three trials,
the artifact an untrained small model of twelve words. Python keeps what it compiles, as it does by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

SPACE = """
name: imports
search: {lora.rank: {int: [0, 8], step: 4}}
objectives: {perplexity: minimize, size_bytes: minimize}
budget: {trials: 3}
"""
WORDS = ["START", "END", "UNK", "PAD", "a", "the", "cafe", "serves", "cheap", "Italian", "food", "."]
MODEL = {"embedding_dim": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "time_dim": 4, "positions": 12}
TRIAL = {"corpus": {"max_length": 12}, "sampling": {"steps": 4}, "diffusion": {"timesteps": 20},
         "model": MODEL}


def run_of(storage: Path) -> Path:
    """A run of three trials."""
    try:
        from search.records.run_folder import RunFolder
    except ImportError:  # as the packages were laid out before
        from search.records import RunFolder  # type: ignore[attr-defined, no-redef]
    from spaces.schema import Space

    with RunFolder.create(storage, "imports", Space.from_yaml(SPACE).to_yaml()) as folder:
        for number in range(3):
            folder.append({"trial": number, "rung": 0, "state": "complete", "config.lora.rank": 4 * number,
                           "seconds": 3.0, "perplexity": 9.0 - number, "size_bytes": 4e6 + number})
    return folder.path


def artifact_of(storage: Path) -> Path:
    """An exported model."""
    from spaces.config import TrialConfig
    from trainable.control.lexicon import Lexicon

    config, lexicon = TrialConfig.model_validate(TRIAL), Lexicon(WORDS, 12, {}, "words")
    try:
        from trainable.artifacts.artifact import export
        from trainable.registry import BACKBONES, PROCESSES

        model = BACKBONES.get(config.model.name).from_config(
            BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS)
    except ImportError:
        from trainable.artifact import export  # type: ignore[import-not-found, no-redef]
        from trainable.model.denoiser import DiffusionLM  # type: ignore[import-not-found]

        model = DiffusionLM(config.model, config.diffusion, WORDS)
    return export(model, config, lexicon, storage / "trial-0000", {})


def made(cache: Path) -> tuple[Path, Path]:
    """Run and artifact, made by the first call."""
    note = cache / "imports.json"
    if not note.exists():
        note.write_text(json.dumps([str(run_of(cache)), str(artifact_of(cache))]))
    run, artifact = map(Path, json.loads(note.read_text()))
    return run, artifact


def cpu_seconds(*command: str) -> float:
    """Of one process and those that it waited for."""
    keeps = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=keeps)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    cache = Path(sys.argv[1])
    if "--make" in sys.argv:
        made(cache)
        return
    subprocess.run([sys.executable, __file__, str(cache), "--make"], check=True)
    run, artifact = made(cache)
    new = (Path.cwd() / "trainable" / "workers").is_dir()
    worker = ("trainable.workers.loop, trainable.workers.jobs" if new
              else "trainable.worker, trainable.jobs")
    print(json.dumps({
        "help_cpu_s": cpu_seconds("-m", "search", "--help"),
        "front_cpu_s": cpu_seconds("-m", "search", "front", str(run)),
        "status_cpu_s": cpu_seconds("-m", "search", "status", str(run)),
        "generate_cpu_s": cpu_seconds("-m", "search", "generate", str(artifact), "-n", "1"),
        "worker_imports_cpu_s": cpu_seconds("-c", f"import {worker}")}))


if __name__ == "__main__":
    main()
