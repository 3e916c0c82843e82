"""Controls as people write them: `length=14`, `food=Italian`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.control.base import ControlTask, Target
from trainable.control.compose import Compose
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.registry import TASKS


def _folded(key: str) -> str:
    """Case, and the sign between words, make no difference: `Family_Friendly` is `family friendly`."""
    return " ".join(key.replace("_", " ").replace("-", " ").split()).casefold()


def parse_control(text: str, corpus: AnyCorpus) -> tuple[ControlTask, Target]:
    """The control task and the target that `text` asks for; `corpus` is a `TokenizedCorpus` or a `Lexicon`.

    Raises `UserError` naming the legal fields, values or lengths.
    """
    lexicon = Lexicon.of(corpus)
    key, equals, value = (part.strip() for part in text.partition("="))
    known = {_folded(name): (task, name) for task in _tasks() for name in task.keys(lexicon)}
    if not equals or not value:
        raise UserError(f"control {text!r} is not KEY=VALUE, such as length=14; {_legal(known)}")
    if _folded(key) not in known:
        near = difflib.get_close_matches(_folded(key), known, n=1)
        hint = f" (did you mean {known[near[0]][1]!r}?)" if near else ""
        raise UserError(f"control {text!r}: unknown key {key!r}{hint}; {_legal(known)}")
    task, name = known[_folded(key)]
    return task, task.parse(name, value, lexicon)


def parse_controls(texts: Sequence[str], corpus: AnyCorpus) -> tuple[ControlTask, Target]:
    """One control, or several at once, as one task and target. Raises `UserError` as `parse_control`."""
    lexicon = Lexicon.of(corpus)
    found = [parse_control(text, lexicon) for text in texts]
    if len(found) == 1:
        return found[0]
    return Compose.of([task for task, _ in found]), {"parts": [target for _, target in found]}


def _tasks() -> list[ControlTask]:
    return [TASKS.build(PluginRef(name=name)) for name in TASKS]


def _legal(known: dict[str, tuple[ControlTask, str]]) -> str:
    return "legal keys: " + ", ".join(name for _, name in known.values())
