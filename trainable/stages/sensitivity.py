"""How much each part of a base loses per choice of its weight bits: measured once, kept beside the base.

The base is calibrated whole at each number of bits; then each part alone takes the rounded weights while all
others stay as they are, and what it loses is the KL to the base at corrupted positions of training text that
no calibration shows. What it costs is what is stored. The table feeds an integer program
(quantization/post_training/sensitivity.py): where losses add up, its answer is the best there is; where they
do not, it is where a search begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import States
from trainable.metrics.kl_to_base import divergence, measured_states
from trainable.models.backbone import Backbone
from trainable.models.placement import Streamed, offloads
from trainable.quantization.post_training.sensitivity import Cost, kl_per_bit
from trainable.quantization.post_training.stored import Stored
from trainable.seeds import stream
from trainable.stages.calibrate import (
    Calibrated,
    block_number,
    calibrated,
    check_bits,
    sites_of,
    text_rows,
)
from trainable.stages.prepare import Present, base_key
from trainable.storage.folders import content_key, verified, whole_folder

CODE = 2
"""Raised when a change in the code makes older tables wrong."""
TABLE, TEXTS = "sensitivity.json", 128
"""Texts that a KL is measured on."""
Choices = Mapping[str, Sequence[int]]
"""Part -> the numbers of bits that it may have. A part is a site, or one of its blocks (`ffn_0`)."""


def sensitivity_key(config: TrialConfig, choices: Choices) -> str:
    """Depends on the base, on how it is calibrated, and on the choices; not on what else a trial does.
    `fixed_bytes` is of the trial that asked first."""
    calibration = {**config.calibration.model_dump(mode="json", exclude={"offload"}),
                   "seed": config.calibration_seed}
    generated = config.calibration.source.startswith("rollout")
    sampling = config.sampling.model_dump(mode="json") if generated else {}
    return content_key(CODE, base_key(config), calibration, sampling, TEXTS,
                       {part: sorted(bits) for part, bits in choices.items()})


def prepare_sensitivity(config: TrialConfig, choices: Choices, cache: Path, corpus: Path, base: Path,
                        device: torch.device, present: Present = verified) -> Iterator[dict[str, Any]]:
    """The table of a base as a folder of the cache. Progress; the last event has its `path`, `costs` (one
    mapping for each part and number of bits), `kl_per_bit` of each part, and `fixed_bytes`, what an artifact
    takes beside these parts.

    Raises `UserError`: a part that is not rounded, bits that the method cannot do.
    """
    folder = cache / f"sensitivity-{sensitivity_key(config, choices)}"
    if not present(folder):
        with whole_folder(folder) as aside:
            loaded, table, fixed = load(base, run_codes=False), list[Cost](), 0
            show(loaded.model, config, device)
            text, parts = TokenizedCorpus.open(corpus), parts_of(loaded.model, config, choices)
            states = compared(loaded, text, config, device)
            for bits in sorted({bits for each in choices.values() for bits in each}):
                done = rounded_at(bits, loaded, text, config, choices, device)
                fixed = fixed or fixed_bytes(loaded, base, config, done, parts)
                for part in (part for part, each in choices.items() if bits in each):
                    table.append(cost_of(part, bits, loaded, done, parts[part], states, config,
                                         device))
                    yield {"progress": 0.99 * len(table) / sum(map(len, choices.values())),
                           "detail": f"{part} at {bits} bits: {table[-1].kl:.4f} nats"}
            content = {"costs": [cost.as_dict() for cost in table], "fixed_bytes": fixed,
                       "kl_per_bit": kl_per_bit(table, sizes(loaded.model, parts))}
            (aside / TABLE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    yield {"progress": 1.0, "path": str(folder), **json.loads((folder / TABLE).read_text(encoding="utf-8"))}


def parts_of(model: Backbone, config: TrialConfig, choices: Choices) -> dict[str, list[str]]:
    """Part -> its Linears. A Linear belongs to its block where that is a part, else to its site.

    Raises `UserError` for a part that is not rounded, or whose blocks are all parts of their own."""
    asked = sites_of(model, config.calibration)
    check_bits(asked, config.calibration.model_copy(update={"bits": dict.fromkeys(choices, 8)}))
    found: dict[str, list[str]] = {part: [] for part in choices}
    for name, site in asked.items():
        own = next((part for part in (f"{site}_{block_number(name)}", site) if part in found), None)
        if own is not None:
            found[own].append(name)
    if empty := [part for part, names in found.items() if not names]:
        raise UserError(f"calibration.bits: every block of {empty[0]} has bits of its own; "
                        f"leave out {empty[0]}")
    return found


def sizes(model: Backbone, parts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Values of the weights of each part."""
    return {part: sum(model.get_parameter(f"{name}.weight").numel() for name in names)
            for part, names in parts.items()}


def rounded_at(bits: int, base: Loaded, corpus: TokenizedCorpus, config: TrialConfig, choices: Choices,
               device: torch.device) -> Calibrated:
    """The base calibrated whole, every part that may have so many bits with them."""
    own = {**config.calibration.bits, **{part: bits for part, each in choices.items() if bits in each}}
    told = config.model_copy(update={"calibration": config.calibration.model_copy(update={"bits": own})})
    return calibrated(Packed.pack(base.model, base.config, base.lexicon), base.process, corpus, told, device,
                      offloads(config.calibration.offload, base.model, device))


def show(model: Backbone, config: TrialConfig, device: torch.device) -> None:
    """Make a model ready to be run on the device, block by block where it is calibrated so."""
    if offloads(config.calibration.offload, model, device):
        Streamed(model, device).settle()
    else:
        model.to(device)


def cost_of(part: str, bits: int, base: Loaded, done: Calibrated, names: Sequence[str], states: States,
            config: TrialConfig, device: torch.device) -> Cost:
    """What the Linears of one part cost, everything else at full precision."""
    own = {f"{name}.weight": done.weights[f"{name}.weight"] for name in names}
    biases = {name: value for name, value in done.plain.items() if name.rpartition(".")[0] in names}
    alone = Packed.pack(base.model, base.config, base.lexicon).rounded(own, biases).run(torch.device("cpu"))
    show(alone, config, device)
    return Cost(part, str(bits), stored_bytes(own), divergence(base.model, alone, states).values()["kl"])


def stored_bytes(weights: Mapping[str, Stored]) -> int:
    """Of the arrays that stand for some weights."""
    return sum(array.numel() * array.element_size()
               for stored in weights.values() for array in stored.arrays.values())


def compared(base: Loaded, corpus: TokenizedCorpus, config: TrialConfig, device: torch.device) -> States:
    """States of training texts that no calibration shows, by noise of their own. Raises `UserError` where
    calibration leaves none."""
    text, seed = corpus.ids("train"), config.calibration_seed
    shown = (set() if config.calibration.source.startswith("rollout")
             else set(text_rows(corpus, config.calibration.texts, seed)))
    order = torch.randperm(len(text), generator=stream("sensitivity", "texts", seed)).tolist()
    rows = [row for row in order if row not in shown][:TEXTS]
    if not rows:
        raise UserError(f"calibration.texts: {len(shown)} of {len(text)} training texts leave none to "
                        "measure sensitivity on")
    ids = torch.from_numpy(np.asarray(text[rows], dtype=np.int64)).to(device)
    return measured_states(base.model, base.process, ids, stream("sensitivity", "noise", seed, device=device))


def fixed_bytes(base: Loaded, place: Path, config: TrialConfig, done: Calibrated,
                parts: Mapping[str, Sequence[str]]) -> int:
    """Bytes of a trial's artifact beside the weights of the parts: what their bits do not change, but for
    the digits of some numbers in config.json. Of a trial with the base's own embeddings."""
    total = sum(value.numel() for value in base.model.parameters())
    facts = {"trainable_params": 0, "total_params": total, "train_seconds": 0.0, **done.facts,
             "base": str(place.resolve())}
    packed = Packed.pack(base.model, config, base.lexicon).rounded(done.weights, done.plain)
    own = {f"{name}.weight" for names in parts.values() for name in names}
    return round(packed.facts(facts)["exported_bytes"]) - stored_bytes(
        {name: stored for name, stored in done.weights.items() if name in own})
