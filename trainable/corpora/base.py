"""What a corpus plug-in gives: examples in two splits, and a fingerprint for the cache key."""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from trainable import registry
from trainable.registry import Params

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = get_args(Split)
UNKNOWN = "UNK"
"""A word that the source itself hides. It never becomes a vocabulary entry of its own."""


@dataclass(frozen=True)
class Example:
    """One text, already cut into words, with whatever gold annotation its source carries."""

    words: tuple[str, ...]
    """None for a row that holds no words: it is counted and left out."""
    fields: dict[str, str] | None = None
    """Gold meaning: field name -> value."""
    upos: tuple[str, ...] | None = None
    """Universal part-of-speech tag of each word."""
    tree: str | None = None
    """Constituency tree in brackets, `(S (NP (PROPN Alimentum)) ...)`; its leaves are exactly `words`."""
    where: str = field(default="", compare=False)
    """File and row, for messages."""


class Corpus(ABC):
    """A source of text. A subclass has `name`, a one-sentence docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
    later: ClassVar[frozenset[str]] = frozenset()
    """Parameters that came after the first caches: at their defaults they are left out of the fingerprint."""

    def __init__(self, params: registry.Params):
        self.params = params

    @abstractmethod
    def examples(self, split: Split) -> Iterator[Example]:
        """The examples of one split, the same ones in the same order at every call. Raises
        `UserError` on bad input."""

    def sources(self) -> Sequence[Path]:
        """The files that `examples` reads; `UserError` where one is missing. Generated corpora read none."""
        return ()

    def version(self) -> str:
        """What else the examples depend on: the grammar of a generated corpus, the tokenizer
        of a read one."""
        return ""

    def reserved(self) -> tuple[str, ...]:
        """Words that get a vocabulary entry although no example need hold them."""
        return ()

    def fingerprint(self) -> str:
        """SHA-256 over the plug-in's name, parameters, `version` and the bytes of its source files.

        Two corpora with equal fingerprints give equal examples. Paths do not enter, only what the files hold.
        """
        fields = type(self.params).model_fields
        unused = {name for name in self.later if getattr(self.params, name) == fields[name].default}
        digest = hashlib.sha256()
        params = self.params.model_dump(mode="json", exclude={"path", "valid_path", *unused})
        digest.update(json.dumps([self.name, self.version(), params], sort_keys=True).encode())
        for path in self.sources():
            with path.open("rb") as file:
                if file.read(3) == codecs.BOM_UTF8:
                    digest.update(b"mark left out")  # older caches have it in their first word
                file.seek(0)
                digest.update(b"\0" + path.name.encode() + b"\0"
                              + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
