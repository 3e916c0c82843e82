"""Exported models that lie: what their files claim is out of all proportion, missing, not listed or not
numbers.

Each is a small folder of our own, changed by someone who also knows how to write a manifest. Opening it has
to end in one line (or in a model, where the change did no harm) with hardly more memory than a plain load.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainable.artifacts.packed import CONFIG, LEXICON, WEIGHTS
from trainable.storage.folders import MANIFEST, write_manifest

Change = Callable[[Path, random.Random], None]
LARGE = (10**5, 10**6, 10**9, 2**31, 2**63, 10**30)
ODD: tuple[Any, ...] = (None, True, -1, 0, 0.5, 1e300, "", "9" * 400, [], {}, [[]], {"name": 1}, "\x1b[31m",
                        "../x")
MANY = 100_000
SIZES = ("embedding_dim", "hidden", "layers", "heads", "ffn", "time_dim", "positions")


def change_json(name: str, change: Callable[[Any, random.Random], Any]) -> Change:
    """A JSON file with its content changed, in place or by what `change` returns."""
    def act(folder: Path, chance: random.Random) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        changed = change(content, chance)
        (folder / name).write_text(json.dumps(content if changed is None else changed), encoding="utf-8")
    return act


def change_tensors(change: Callable[[dict[str, torch.Tensor], random.Random], None]) -> Change:
    """The weights' file with other tensors."""
    def act(folder: Path, chance: random.Random) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors, chance)
        save_file(tensors, folder / WEIGHTS)
    return act


def replace(name: str, content: Callable[[random.Random], bytes]) -> Change:
    """A file with other bytes."""
    return lambda folder, chance: (folder / name).write_bytes(content(chance)) and None


def anywhere(tree: Any, chance: random.Random, value: Any) -> None:
    """Put a value at a random place of a JSON tree."""
    places = []
    stack = [tree]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, item in items:
            places.append((node, key))
            stack.append(item)
    if places:
        node, key = chance.choice(places)
        node[key] = value


def _nan(tensors: dict[str, torch.Tensor], chance: random.Random) -> None:
    floats = [name for name in sorted(tensors) if tensors[name].is_floating_point()]
    value = tensors[chance.choice(floats)].flatten()
    value[chance.randrange(len(value))] = chance.choice([float("nan"), float("inf"), -float("inf")])


def _bytes_of(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.randrange(1, 20)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(bytes(content[:chance.choice([len(content), chance.randrange(len(content))])]))


def _sparse(folder: Path, chance: random.Random) -> None:
    """A tensor of many gigabytes that takes no room on the disk."""
    size = 1 << chance.choice([33, 36, 40])
    header = json.dumps({"word_embedding.weight::codes": {
        "dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    listing = json.loads((folder / MANIFEST).read_text())
    listing[WEIGHTS] = {"bytes": 8 + len(header) + size, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(listing))


def _many(name: str) -> Change:
    """`MANY` more tensors of eight bytes, or a third of that, which a header of the size that is read can
    hold. The file is put together here: the library takes seconds."""
    def act(folder: Path, chance: random.Random) -> None:
        content = (folder / WEIGHTS).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header, end = json.loads(content[8:start]), len(content) - start
        many = chance.choice([MANY, MANY // 3])
        header |= {f"{name}{i}": {"dtype": "U8", "shape": [8], "data_offsets": [end + 8 * i, end + 8 * i + 8]}
                   for i in range(many)}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[start:]
                                       + bytes(8 * many))
    return act


def _pipe(name: str) -> Change:
    def act(folder: Path, chance: random.Random) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)
        if name != MANIFEST:
            unlist(folder, name)
    return act


def unlist(folder: Path, name: str) -> None:
    """A manifest that does not name a file."""
    listing = json.loads((folder / MANIFEST).read_text())
    listing.pop(name, None)
    (folder / MANIFEST).write_text(json.dumps(listing))


def _manifest(change: Callable[[dict[str, Any], random.Random], Any]) -> Change:
    return change_json(MANIFEST, change)


def nested(chance: random.Random) -> bytes:
    """JSON of many levels."""
    depth = chance.choice([500, 5000, 200_000])
    return b'{"a":' * depth + b"1" + b"}" * depth


def _values(chance: random.Random) -> bytes:
    """JSON of many small values: each takes a few bytes here, and dozens in memory."""
    return b"[" + chance.choice([b"[],", b"{},", b'"a",', b"1e5,"]) * (MANY * chance.choice([1, 40])) + b"0]"


def _tokenizer(lexicon: dict[str, Any], chance: random.Random) -> None:
    """A tokenizer that is none, or that does not have the words."""
    plain = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    written = chance.choice(["", "{", "[]", "7", nested(chance).decode(), json.dumps({"model": plain}),
                             json.dumps({"version": "1.0", "model": plain, "decoder": chance.choice(ODD)}),
                             json.dumps({"version": "1.0", "model": {**plain, "vocab": chance.choice(ODD)}})])
    marks = chance.choice([[-1, -1, 1, -1, -1], [0] * 5, [10**30] * 5, chance.choice(ODD)])
    lexicon["tokenizer"] = chance.choice([{"tokenizer": written, "marks": marks}] * 4 + [chance.choice(ODD)])


SEALED: dict[str, Change] = {
    **{f"{size}": change_json(CONFIG, lambda head, chance, size=size: head["config"]["model"].update(
        {size: chance.choice(LARGE)})) for size in SIZES},
    "timesteps": change_json(CONFIG, lambda head, chance: head["config"]["diffusion"].update(
        timesteps=chance.choice(LARGE))),
    "widths": change_json(CONFIG, lambda head, chance: head["config"]["model"].update(
        hidden=65_536, heads=chance.choice([64, 512, 1]), ffn=262_144, positions=65_536)),
    "deep": change_json(CONFIG, lambda head, chance: head["config"]["model"].update(layers=512)),
    "max_length": change_json(CONFIG, lambda head, chance: head["config"]["corpus"].update(
        max_length=chance.choice([513, *LARGE]))),
    "positions below": change_json(CONFIG, lambda head, chance: head["config"]["model"].update(positions=16)),
    "any setting": change_json(CONFIG, lambda head, chance: anywhere(
        head, chance, chance.choice([*ODD, *LARGE]))),
    "any packing": change_json(CONFIG, lambda head, chance: anywhere(
        head["packing"], chance, chance.choice([*ODD, *LARGE]))),
    "config nested": replace(CONFIG, nested), "lexicon nested": replace(LEXICON, nested),
    "config bytes": lambda folder, chance: _bytes_of(folder / CONFIG, chance),
    "vocab a mapping": change_json(LEXICON, lambda lexicon, chance: lexicon.update(
        vocab=dict.fromkeys(lexicon["vocab"], 1))),
    "vocab of others": change_json(LEXICON, lambda lexicon, chance: lexicon.update(
        vocab=[*lexicon["vocab"][:-1], chance.choice(ODD)])),
    "vocab longer": change_json(LEXICON, lambda lexicon, chance: lexicon.update(
        vocab=[str(i) for i in range(chance.choice([41, 10_000, 200_000]))])),
    "lexicon of many values": replace(LEXICON, _values), "config of many values": replace(CONFIG, _values),
    "many settings": change_json(CONFIG, lambda head, chance: head["config"]["evaluation"].update(
        control_tasks=[{} for _ in range(chance.choice([MANY // 3, 4 * MANY]))])),
    "long word": change_json(LEXICON, lambda lexicon, chance: lexicon.update(
        vocab=[*lexicon["vocab"][:-1], "w" * (MANY * chance.choice([10, 600]))])),
    "tokenizer": change_json(LEXICON, _tokenizer),
    "lexicon max_length": change_json(LEXICON, lambda lexicon, chance: lexicon.update(
        max_length=chance.choice([*ODD, *LARGE]))),
    "any of the lexicon": change_json(LEXICON, lambda lexicon, chance: anywhere(
        lexicon, chance, chance.choice([*ODD, *LARGE]))),
    "lexicon bytes": lambda folder, chance: _bytes_of(folder / LEXICON, chance),
    "extra tensor": change_tensors(lambda tensors, chance: tensors.update(surprise=torch.ones(3))),
    "extra part": change_tensors(lambda tensors, chance: tensors.update(
        {"word_embedding.weight::surprise": torch.ones(3)})),
    "many tensors": _many("t"), "many parts": _many("word_embedding.weight::t"),
    "missing tensor": change_tensors(lambda tensors, chance: tensors.__delitem__(
        chance.choice(sorted(tensors)))),
    "wide adapter": change_tensors(lambda tensors, chance: tensors.update(
        {"word_embedding.weight::lora_a": torch.ones(4096, 8)})),
    "not finite": change_tensors(_nan),
    "another type": change_tensors(lambda tensors, chance: tensors.update(
        {(name := chance.choice(sorted(tensors))): tensors[name].to(torch.float64)})),
    "weights bytes": lambda folder, chance: _bytes_of(folder / WEIGHTS, chance),
    "weights header": replace(WEIGHTS, lambda chance: chance.choice([
        b"", b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}",
        (10**8).to_bytes(8, "little") + b"{" * 99])),
}
"""What is changed before the manifest is written anew."""
UNSEALED: dict[str, Change] = {
    "sparse": _sparse, **{f"pipe {name}": _pipe(name) for name in (CONFIG, LEXICON, WEIGHTS, MANIFEST)},
    **{f"unlisted {name}": lambda folder, chance, name=name: unlist(folder, name)
       for name in (CONFIG, LEXICON, WEIGHTS)},
    "manifest nested": replace(MANIFEST, nested),
    "manifest odd": _manifest(lambda listing, chance: anywhere(listing, chance, chance.choice(ODD))),
    "manifest up": _manifest(lambda listing, chance: listing.update(
        {chance.choice(["../x", "/etc/hostname", "a/../../b", ".", ""]): {"bytes": 1, "sha256": "0"}})),
    "manifest list": replace(MANIFEST, lambda chance: b"[]"),
    "manifest bytes": lambda folder, chance: _bytes_of(folder / MANIFEST, chance),
}
"""What is changed in the manifest itself, or behind its back."""
KINDS = {**SEALED, **UNSEALED}


def hostile(plain: Path, kind: str, seed: int, to: Path) -> Path:
    """A copy of the artifact `plain` at `to`, with what a kind of `KINDS` and a seed make of it."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(plain, to)
    KINDS[kind](to, random.Random(f"{kind}-{seed}"))
    if kind in SEALED:
        write_manifest(to)
    return to
