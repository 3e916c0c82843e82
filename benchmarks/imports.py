"""CPU seconds of what has to be loaded before anything is done: `python -m benchmarks.imports --times 5`.

Each command runs in a process of its own, in turn, so that a busy spell touches all of them; user and system
seconds of the process and its children. RUN is a small run written here, ARTIFACT an untrained model of the
published shape's kind with few words. Writes results/imports.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import save, spread

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["START", "END", "UNK", "PAD", "a", "the", "cafe", "serves", "cheap", "Italian", "food", "."]
SPACE = """
name: imports
search: {lora.rank: {int: [0, 8], step: 4}}
objectives: {perplexity: minimize, size_bytes: minimize}
budget: {trials: 3}
"""
TINY: dict[str, Any] = {
    "corpus": {"max_length": 12}, "sampling": {"steps": 4}, "diffusion": {"timesteps": 20},
    "model": {"embedding_dim": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "time_dim": 4,
              "positions": 12}}


def written(storage: Path) -> tuple[Path, Path]:
    """A run of three trials, and an artifact."""
    from search.records.run_folder import RunFolder
    from spaces.config import TrialConfig
    from spaces.schema import Space
    from trainable.artifacts.artifact import export
    from trainable.control.lexicon import Lexicon
    from trainable.registry import BACKBONES, PROCESSES

    with RunFolder.create(storage, "imports", Space.from_yaml(SPACE).to_yaml()) as folder:
        for number in range(3):
            folder.append({"trial": number, "rung": 0, "state": "complete", "config.lora.rank": 4 * number,
                           "seconds": 3.0, "perplexity": 9.0 - number, "size_bytes": 4e6 + number,
                           "perplexity_again": 9.5 - number, "perplexity_again_sd": 0.1, "again": 3})
    config = TrialConfig.model_validate(TINY)
    params, process = BACKBONES.params(config.model), PROCESSES.params(config.diffusion)
    model = BACKBONES.get(config.model.name).from_config(params, process, WORDS)
    return folder.path, export(model, config, Lexicon(WORDS, 12, {}, "words"), storage / "trial-0000", {})


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Of one process and those that it waited for."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = os.times()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qdlm-imports-") as folder:
        run, artifact = written(Path(folder))
        qdlm = [sys.executable, "-m", "search"]
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "import torch": [sys.executable, "-c", "import torch"],
            "import trainable.workers.loop": [sys.executable, "-c", "import trainable.workers.loop"],
            "import trainable.workers.jobs": [sys.executable, "-c", "import trainable.workers.jobs"],
            "qdlm --help": [*qdlm, "--help"],
            "qdlm front RUN": [*qdlm, "front", str(run)],
            "qdlm status RUN": [*qdlm, "status", str(run)],
            "qdlm generate ARTIFACT -n 1": [*qdlm, "generate", str(artifact), "-n", "1"],
        }
        for command in commands.values():
            cpu_seconds(command, Path(folder))  # compiles what has not been, warms the disk's cache
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.times):
            for name, command in commands.items():
                taken[name].append(cpu_seconds(command, Path(folder)))
    found = {name: {key: round(value, 3) for key, value in spread(values).items()}
             for name, values in taken.items()}
    for name, figures in found.items():
        print(f"{figures['p50']:6.2f} s  {name}")
    save("imports", {"cpu_seconds": found})


if __name__ == "__main__":
    main()
