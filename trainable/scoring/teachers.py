"""Teachers by folder, whatever kind they are of."""

from __future__ import annotations

from pathlib import Path

import torch

from trainable.corpora.tokenized import TokenizedCorpus
from trainable.scoring.kneser_ney import KIND, KneserNeyTeacher
from trainable.scoring.teacher import FACTS, Teacher, read_json


def load_teacher(path: Path | str, corpus: TokenizedCorpus, device: torch.device | str = "cpu") -> Teacher:
    """A trained or counted teacher, or any causal LM that transformers can load. Raises `UserError` as
    `Teacher.load`."""
    folder = Path(path).expanduser()
    if (folder / FACTS).is_file() and read_json(folder / FACTS).get("kind") == KIND:
        return KneserNeyTeacher.open(folder, corpus)
    return Teacher.load(path, corpus, device)
