"""Text of the kinds that go wrong, each with what has to become of it: read as it is, read with a warning, or
refused in one line that names the cause."""

from __future__ import annotations

import codecs
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.stages.prepare import prepare_corpus

GOOD = [" ".join(words) for words in itertools.product(
    ("the cat", "a dog", "the old man", "my friend"), ("sat on", "looked at", "ran to"),
    ("the mat", "a house", "the river", "that tree"), (".", "today ."))]
"""Texts of words that come often."""
MARK = codecs.BOM_UTF8
LONG = "word " * 90
CHINESE = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb"


@dataclass(frozen=True)
class Text:
    """A file, and what becomes of it. `says`: words of the warning or of the refusal; `source`: further
    settings of the corpus."""

    file: str
    content: bytes
    end: Literal["read", "warned", "refused"]
    says: str = ""
    source: dict[str, Any] = field(default_factory=dict)


def lines(*texts: str) -> bytes:
    """A text a line."""
    return "".join(f"{text}\n" for text in texts).encode()


def rows(*texts: str | None) -> bytes:
    """A JSON object a line."""
    return lines(*(json.dumps({"id": 1, "text": text}) for text in texts))


def table(sign: str, *texts: str) -> bytes:
    """Two columns."""
    return lines(f"id{sign}text", *(f"1{sign}{text}" for text in texts))


TEXTS: dict[str, Text] = {
    "a byte-order mark": Text("a.txt", MARK + lines(*GOOD), "read"),
    "files with marks, joined": Text("a.txt", MARK + lines(*GOOD[:50]) + MARK + lines(*GOOD[50:]), "read"),
    "JSON lines with a mark": Text("a.jsonl", MARK + rows(*GOOD), "read"),
    "TSV with a mark": Text("a.tsv", MARK + table("\t", *GOOD), "read"),
    "CSV with a mark": Text("a.csv", MARK + table(",", *GOOD), "read"),
    "lists of one, as Diffusion-LM has them": Text("a.json", lines(*(json.dumps([one]) for one in GOOD)),
                                                   "read"),
    "null texts between others": Text("a.jsonl", rows(*GOOD, *[None] * 20), "warned",
                                     "hold none; fill or delete the rows without words"),
    "rows without words between others": Text("a.csv", table(",", *GOOD, *["\u200b"] * 20), "warned",
                                              "hold none; fill or delete the rows without words"),
    "a fifth too long": Text("a.txt", lines(*GOOD, *(f"{LONG}{i}" for i in range(24))), "warned",
                             "raise corpus.max_length"),
    "nothing but rows without words": Text("a.txt", lines("", " ", "\t", "\u200b") * 40, "refused",
                                           "0 different texts with words in 40 rows"),
    "nothing but null texts": Text("a.jsonl", rows(None, "") * 40, "refused", "with words in 80 rows"),
    "one line": Text("a.txt", lines(GOOD[0]), "refused", "1 different text with words in 1 row"),
    "not UTF-8": Text("a.txt", lines(*GOOD[:30]) + b"caf\xe9\n", "refused",
                      "line 31: cannot be read as UTF-8"),
    "UTF-16": Text("a.txt", "\n".join(GOOD).encode("utf-16"), "refused", "iconv -f UTF-16"),
    "no spaces": Text("a.txt", lines(*(CHINESE + one for one in CHINESE)) * 6, "refused",
                      "corpus.source.tokenizer: characters"),
    "mostly too long": Text("a.txt", lines(*GOOD[:8], *(f"{LONG}{i}" for i in range(60))), "refused",
                            "corpus.max_length"),
    "rare words": Text("a.txt", lines(*(f"w{i} v{i} u{i} the" for i in range(80))), "refused",
                       "lower corpus.min_count"),
    "JSON lines under another name": Text("a.txt", rows(*GOOD), "refused", "name it .jsonl"),
    "JSON of many levels": Text("a.jsonl", rows(*GOOD[:3]) + b'{"a":' * 100_000 + b"\n", "refused",
                                "line 4: not JSON"),
    "two columns of text": Text("a.tsv", table("\t", *GOOD).replace(b"text", b"body"), "refused",
                                "give column: one of id, body"),
    "no stories": Text("a.csv", table(",", *GOOD), "refused", "found: id, text", {"name": "rocstories"}),
}


def prepared(text: Text, work: Path) -> str:
    """`fine`, or the warning, of a text prepared as a run does; raises `UserError` as that does. An
    AssertionError says that it did not end as it has to."""
    path = work / text.file
    path.write_bytes(text.content)
    config = TrialConfig.model_validate({"corpus": {
        "source": {"name": "lines", "path": str(path), **text.source}, "max_length": 32, "min_count": 1}})
    try:
        *_, last = prepare_corpus(config, work / "cache")
    except UserError as error:
        assert text.end == "refused", f"it was refused: {error}"
        assert text.says in str(error), f"it does not say {text.says!r}: {error}"
        raise
    warnings = " ".join(last["warnings"])
    assert text.end == ("warned" if warnings else "read"), f"it was read, {warnings or 'without a warning'}"
    assert text.says in warnings, f"it does not say {text.says!r}: {warnings}"
    corpus = TokenizedCorpus.open(last["path"])
    found = [row["text"] for split in ("train", "valid")
             for row in corpus.rows(split, range(len(corpus.lengths(split))))]
    assert sorted(found) == sorted(GOOD), "other texts came out than went in"
    return f"warned: {warnings}" if warnings else "fine"
