"""A Hugging Face tokenizer as the vocabulary of a corpus: texts stay lists of words, ids are of its tokens.

Rows are numbered as everywhere here: START, END, UNK, PAD first, then the tokenizer's own ordinary tokens in
order of their ids; MASK is the row behind them. So a model's table is the tokenizer's with its rows in
another order, and whatever reads texts (teacher, oracles, diversity, control) sees words.

Every word is cut by itself, with the space before it, so that its tokens are the same wherever it stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from spaces.errors import UserError
from trainable.corpora.base import UNKNOWN

FILE = "tokenizer.json"
FIRST = 4
"""Rows of the marks START, END, UNK, PAD, which stand before all others."""
UNK = 2
NOWHERE = -1
"""A mark that the tokenizer has no token for: its row starts fresh."""
NEW = "new"
"""Value of `corpus.mask`: MASK gets a row of its own, which is trained."""
_NAMED = {"start": ("bos_token", "cls_token"), "end": ("eos_token", "sep_token"), "unk": ("unk_token",),
          "pad": ("pad_token",), "mask": ("mask_token",)}
_SPELLED = {"start": ("<s>", "[CLS]"), "end": ("</s>", "[SEP]"), "unk": ("<unk>", "[UNK]"),
            "pad": ("<pad>", "[PAD]"), "mask": ("<mask>", "[MASK]", "<|mask|>", "<|mdm_mask|>", "<MASK>")}


class Marks(NamedTuple):
    """Tokenizer ids of the marks; `NOWHERE` where it has none."""

    start: int
    end: int
    unk: int
    pad: int
    mask: int


class Tokens:
    """A tokenizer, which of its tokens a vocabulary has, and which of them are its marks."""

    def __init__(self, source: str, marks: Marks, ids: Sequence[int]):
        """`source`: text of its tokenizer.json. `ids`: tokenizer ids of the rows behind the marks."""
        self.source, self.marks, self.ids = source, marks, np.asarray(ids, dtype=np.int64)
        self._tokenizer = _made(source)
        self._rows = {int(i): row for row, i in enumerate(self.ids, FIRST)}
        self._words: dict[str, list[int]] = {}

    @classmethod
    def open(cls, folder: Path | str, mask: str | None = None, key: str = "corpus.tokenizer") -> Tokens:
        """All ordinary tokens of the tokenizer in a folder. `mask`: the token that is MASK, `NEW` for a row
        of its own; None: the one that the tokenizer names. Raises `UserError` in one line: no tokenizer
        there, one that only runs code of its own, one without MASK."""
        folder = Path(folder).expanduser()
        source = _source(folder, key)
        tokenizer = _parsed(source, folder, key)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        marks = _marks(_settings(folder), vocabulary, special, folder, mask, key)
        ordinary = sorted(i for token, i in vocabulary.items() if token not in special and i not in marks)
        return cls(source, marks, ordinary)

    @classmethod
    def from_json(cls, value: dict[str, Any], vocab: Sequence[str]) -> Tokens:
        """The inverse of `to_json`, for a vocabulary as `vocab` gave it. Raises ValueError where it is
        none."""
        try:
            marks = Marks(*value["marks"])
            if not all(type(mark) is int and NOWHERE <= mark < 1 << 31 for mark in marks):
                raise ValueError("marks are no numbers of tokens")
            numbers = _made(value["tokenizer"]).get_vocab(with_added_tokens=True)
            made = cls(value["tokenizer"], marks, [numbers[token] for token in vocab[FIRST:]])
            made._tokenizer.encode("\ua014", add_special_tokens=False)  # a rare letter: UNK has to be there
            return made
        except Exception as error:  # the library raises Exception itself for whatever it cannot read
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"its tokenizer cannot be read ({type(error).__name__}: {reason})") from None

    def to_json(self) -> dict[str, Any]:
        """What a file keeps of it beside the vocabulary."""
        return {"tokenizer": self.source, "marks": list(self.marks)}

    def only(self, rows: Iterable[int]) -> Tokens:
        """The same with some of its rows alone, in their order."""
        return Tokens(self.source, self.marks, [int(self.ids[row - FIRST]) for row in sorted(rows)])

    def spellings(self) -> list[str]:
        """The tokens as the tokenizer writes them, in order of the rows."""
        return [self._tokenizer.id_to_token(int(i)) or "" for i in self.ids]

    def names(self) -> dict[int, str]:
        """Tokenizer id -> token, of the rows behind the marks."""
        return dict(zip(map(int, self.ids), self.spellings(), strict=True))

    def table_rows(self) -> list[int]:
        """Tokenizer id of every row, the marks first and MASK last; `NOWHERE` for a fresh one."""
        return [*self.marks[:FIRST], *map(int, self.ids), self.marks.mask]

    def sources(self, vocab: Sequence[str] | None = None) -> list[list[int]]:
        """For every row of a table its rows in the tokenizer's, MASK last; none for a fresh one. With
        a `vocab` of words, those of each word's tokens."""
        if vocab is None:
            return [[] if i == NOWHERE else [i] for i in self.table_rows()]
        marks = [[] if i == NOWHERE else [i] for i in self.marks]
        words = [[int(self.ids[row - FIRST]) for row in self.word(word) if row >= FIRST]
                 for word in vocab[FIRST:]]
        return [*marks[:FIRST], *words, marks[-1]]

    # ---- words and rows ----

    def word(self, word: str) -> list[int]:
        """Rows of one word; UNK for a token that the vocabulary lacks."""
        found = self._words.get(word)
        if found is None:
            found = [UNK]
            if word != UNKNOWN:
                ids = self._tokenizer.encode(self._lead + word, add_special_tokens=False).ids
                found = [self._rows.get(i, UNK) for i in ids] or [UNK]
            self._words[word] = found
        return found

    def encode(self, words: Sequence[str]) -> list[int]:
        """Rows of the words, one after another."""
        return [row for word in words for row in self.word(word)]

    def word_rows(self, words: Sequence[str]) -> list[int]:
        """One row for each word: its token, where that alone says it, else UNK."""
        each = [self.word(word) for word in words]
        return [rows[0] if len(rows) == 1 and self.starts[rows[0]] else UNK for rows in each]

    def decode(self, rows: Sequence[int]) -> list[str]:
        """Words of rows that are no START, END or PAD. What is UNK is a word of its own."""
        words: list[str] = []
        part: list[int] = []
        for row in [*rows, UNK]:
            if row != UNK:
                part.append(int(self.ids[row - FIRST]))
                continue
            if part:
                words += self._tokenizer.decode(part, skip_special_tokens=True).split()
                part = []
            words.append(UNKNOWN)
        return words[:-1]

    @cached_property
    def starts(self) -> np.ndarray:
        """[V] bool: rows that begin a word (all marks do): behind another token they are a word of their
        own. Where every position holds one, texts have as many words as tokens."""
        begins = self._tokenizer.decode_batch([[self._anchor, int(i)] for i in self.ids],
                                              skip_special_tokens=True)
        return np.array([True] * FIRST + [len(text.split()) == 2 for text in begins])

    @cached_property
    def _anchor(self) -> int:
        """A token that writes letters, to stand before others."""
        spelled = zip(self.ids, self._tokenizer.decode_batch([[int(i)] for i in self.ids]), strict=True)
        return next((int(i) for i, text in spelled if text.strip().isalpha()), int(self.ids[0]))

    @cached_property
    def _lead(self) -> str:
        """What stands before a word so that it is cut as one within a text: a space, unless the tokenizer
        has that from its own rules."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        behind = self._tokenizer.decode([self._anchor, *bare], skip_special_tokens=True)
        return "" if len(behind.split()) == 2 else " "


def tokenizer_key(folder: Path | str, mask: str | None) -> str:
    """What the tokenizer in a folder decides, wherever the folder is. Raises `UserError` as `Tokens.open`."""
    tokens = Tokens.open(folder, mask)
    said = json.dumps([tokens.to_json(), tokens.ids.tolist()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _source(folder: Path, key: str) -> str:
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    if not folder.is_dir():
        raise UserError(f"{key}: {folder}: no such folder; expected a Hugging Face tokenizer")
    if "auto_map" in _settings(folder):
        raise UserError(f"{key}: {folder / 'tokenizer_config.json'}: auto_map asks for code of its own, "
                        f"which is never run; put the {FILE} of the tokenizer there")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return loaded.backend_tokenizer.to_str()
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{key}: {folder}: holds no tokenizer that can be read, such as {FILE} "
                        f"({reason})") from None


def _parsed(source: str, folder: Path, key: str) -> Tokenizer:
    try:
        return _made(source)
    except Exception as error:  # the library raises Exception itself for whatever it cannot read
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{key}: {folder / FILE}: cannot be read as a tokenizer ({reason})") from None


def _made(source: str) -> Tokenizer:
    """The tokenizer, as it cuts whole words: nothing cut off or filled up, no space moved by its decoder."""
    settings = json.loads(source)
    decoder = settings.get("decoder") or {}
    for part in (decoder, *decoder.get("decoders", ())):
        if "cleanup" in part:
            part["cleanup"] = False
    made = Tokenizer.from_str(json.dumps(settings))
    made.no_truncation()
    made.no_padding()
    return made


def _settings(folder: Path) -> dict[str, Any]:
    """What the folder says of the tokenizer beside its tokenizer.json."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                value = json.loads((folder / name).read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{folder / name}: cannot be read as JSON ({str(error)[:80]})") from None
            found |= value if isinstance(value, dict) else {}
    return found


def _marks(settings: dict[str, Any], vocabulary: dict[str, int], special: set[str], folder: Path,
           mask: str | None, key: str) -> Marks:
    """By the names that the folder gives, else by the usual spellings of special tokens."""
    found = {}
    for mark, names in _NAMED.items():
        said = [settings.get(name) for name in names]
        texts = [text["content"] if isinstance(text, dict) else text for text in said if text]
        texts += [text for text in _SPELLED[mark] if text in special]
        found[mark] = next((vocabulary[text] for text in texts if text in vocabulary), NOWHERE)
    if mask == NEW:
        found["mask"] = NOWHERE
    elif mask is not None and mask not in vocabulary:
        raise UserError(f"corpus.mask: the tokenizer in {folder} has no token {mask!r}; legal: a token of "
                        f"it, or {NEW} for a row of its own")
    elif mask is not None:
        found["mask"] = vocabulary[mask]
    elif found["mask"] == NOWHERE:
        raise UserError(f"{key}: {folder / FILE}: a tokenizer without MASK; name one of its tokens as "
                        f"corpus.mask, or set corpus.mask: {NEW} for a row that is trained")
    return Marks(**found)
