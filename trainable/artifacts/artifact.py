"""An exported model: a folder of packed codes, float tensors and JSON that runs with no Ray and no pickle.

    config.json        format version, the trial's settings, which tensor was packed by which quantizer
    lexicon.json       words by id; fields, values and how they are said (what control needs of the corpus)
    model.safetensors  `NAME::codes` (+ `NAME::scale`, ...) for packed weights, `NAME` for float32 tensors
    manifest.json      size and sha256 of each file

and, for people and other programs, what it does not need to run:

    tokenizer.json     the words as a Hugging Face tokenizer; or the one whose tokens the ids are of
                       (lexicon.json holds it too, with the rows of the table that its tokens have)
    measurements.json, samples.json, MODEL_CARD.md  what was measured, a few sentences (by the caller)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from spaces.config import SamplingConfig, TrialConfig
from spaces.errors import UserError, one_line
from spaces.values import cut
from trainable.artifacts.assembling import blank_model, filled, shapes_of
from trainable.artifacts.malloc import trim_heap
from trainable.artifacts.packed import CONFIG, FORMAT, LEXICON, WEIGHTS, Packed
from trainable.artifacts.reading import (
    MOST_CONFIG,
    MOST_SETTINGS,
    Form,
    check_config,
    check_fit,
    check_packing,
    forms,
    read_json,
    read_tensors,
)
from trainable.control.lexicon import Lexicon
from trainable.diffusion.guide import Guide
from trainable.diffusion.process import Process, Sampling
from trainable.models.backbone import Backbone
from trainable.models.parts import Table, TableError
from trainable.registry import PROCESSES, completed
from trainable.seeds import stream
from trainable.storage.folders import damage

READABLE = (1, FORMAT)
HASHED = 256 << 20
"""Bytes up to which a file is compared with its checksum before anything is read: hashing a file that has
a size out of all proportion would take hours, and its header tells as much."""
MEASUREMENTS, SAMPLES = "measurements.json", "samples.json"


def export(model: Backbone, config: TrialConfig, lexicon: Lexicon, out: Path, facts: dict) -> Path:
    """Write the artifact folder `out` (whole or not at all). `facts` is JSON-able and tells how
    the model was made."""
    return Packed.pack(model, config, lexicon).write(out, facts)


@dataclass
class Loaded:
    """An artifact ready to run: a plain model whose weights are the decoded codes."""

    path: Path
    config: TrialConfig
    lexicon: Lexicon
    model: Backbone
    process: Process
    facts: dict
    _samplings: dict[str, Sampling] = field(default_factory=dict, repr=False, compare=False)

    def words(self, ids: Tensor) -> list[list[str]]:
        """[n, L] ids -> the words of each sentence, marks left out."""
        return [self.lexicon.decode(row) for row in ids.tolist()]

    def sampling(self, config: SamplingConfig | None = None) -> Sampling:
        """The sampler over this model, by the artifact's own settings unless others are given: the same one
        for the same settings, since it may have asked the model something once."""
        config = config or self.config.sampling
        key = config.model_dump_json()
        if key not in self._samplings:
            self._samplings[key] = self.process.sampling(self.model, config)
        return self._samplings[key]

    def generate(self, n: int, generator: torch.Generator, steps: int | None = None,
                 guide: Guide | None = None) -> Tensor:
        """`n` sentences: ids [n, max_length]."""
        sampling = self.config.sampling
        if steps is not None:
            sampling = sampling.model_copy(update={"steps": steps})
        return self.sampling(sampling).sample(n, self.config.corpus.max_length, generator, guide)


def load(path: Path | str, device: torch.device | str = "cpu", run_codes: bool = True,
         table: Table = "auto") -> Loaded:
    """Open an artifact folder. Raises `UserError` naming what is missing, damaged, or of
    another format version.

    With `run_codes` a body that was exported as codes computes with them; without,
    it is decoded to float32, and so is the table. `table: packed` keeps the word table as codes
    (`models.diffusion_lm.packed_embedding`), `decoded` as floats; `auto` keeps it packed where that is
    faster: an integer format, rows of `PACKED_FROM` values and a model that does not average rows at
    every step (`mse`).
    """
    path, device = Path(path), torch.device(device)
    if not (path / CONFIG).is_file():
        within = sorted(str(one.parent) for one in path.glob(f"artifacts/*/{CONFIG}"))
        raise UserError(f"{path} is not an artifact: no {CONFIG} in it"
                        + (f"; it is a run, give one of its models: {', '.join(within)}" if within else ""))
    _check(path, HASHED)
    head, config, lexicon, found = read_files(path)
    packing = head["packing"]
    try:
        check_config(config, len(lexicon.vocab), lexicon.max_length, len(found))
        model = blank_model(config, lexicon)
        check_fit(found, packing, shapes_of(model), config.lora)
        _check(path)
        tensors = read_tensors(path / WEIGHTS)
        model = filled(model, tensors, packing, device, run_codes, table)
    except DamageError:
        raise
    except TableError as error:
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, StopIteration,
            SafetensorError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path / WEIGHTS} does not fit its {CONFIG}: {reason}") from None
    del tensors
    trim_heap()
    return Loaded(path, config, lexicon, model.requires_grad_(False), PROCESSES.build(config.diffusion),
                  head["facts"])


class DamageError(UserError):
    """Files of an artifact that are not as they were written."""


def _check(path: Path, below: float = math.inf) -> None:
    """Raises `DamageError` unless all files that are read are listed and, up to a size, as they
    were listed."""
    wrong = damage(path, (CONFIG, LEXICON, WEIGHTS), below)
    if wrong:
        raise DamageError(f"damaged artifact: {wrong}")


def read_files(path: Path) -> tuple[dict, TrialConfig, Lexicon, dict[str, Form]]:
    """The files of an artifact, each checked for itself; of the weights the header. Raises `UserError`."""
    try:
        head = read_json(path / CONFIG, MOST_CONFIG, MOST_SETTINGS)
        if not isinstance(head, dict):
            raise ValueError(f"{CONFIG} is not a JSON object")
        if head.get("format") not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise UserError(f"{path / CONFIG}: format {head.get('format')!r}, "
                            f"this version reads formats {known}")
        if not isinstance(head["facts"], dict) or not isinstance(head["packing"], dict):
            raise ValueError(f"facts and packing in {CONFIG} are not JSON objects")
        config = completed(TrialConfig.model_validate(head["config"]))
        lexicon = Lexicon.from_json(read_json(path / LEXICON))
        found = forms(path / WEIGHTS)
        check_packing(head["packing"])
        return head, config, lexicon, found
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("config", *first["loc"]))
        raise UserError(f"{path / CONFIG}: {cut(key, 200)}: {cut(first['msg'], 400)}") from None
    except (RuntimeError, SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError,
            RecursionError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def seeded(path: Path, seed: int) -> torch.Generator:
    """The generator that `qdlm generate` draws from."""
    return stream("generate", path.name, seed)
