"""What is left of a run's text, as its preparation has_facts it: sentences, what was left out, how many
words are unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TOLD = ("sentences", "dropped", "empty", "mean_words", "unk_rate")
"""Keys of a `prepare` event that say so, each a mapping of split to figure; older runs have no `empty`."""


def has_facts(event: Mapping[str, Any]) -> bool:
    """Whether an event tells of a tokenized corpus."""
    return all(isinstance(event.get(key), Mapping) for key in TOLD if key != "empty")


def corpus_line(event: Mapping[str, Any]) -> str:
    """`42,059 + 4,669 sentences (training + held out) of 22.4 words; 2 + 3 too long, 0 + 0 empty;
    UNK 0.6 + 0.5 %`."""
    def both(key: str) -> str:
        return " + ".join(f"{event[key].get(split, 0):,}" for split in ("train", "valid"))

    empty = f", {both('empty')} without words" if isinstance(event.get("empty"), Mapping) else ""
    unknown = " + ".join(f"{100 * event['unk_rate'].get(split, 0.0):.1f}" for split in ("train", "valid"))
    return (f"{both('sentences')} sentences (training + held out) "
            f"of {event['mean_words'].get('train', 0.0):.1f} words; "
            f"left out: {both('dropped')} too long{empty}; UNK {unknown} % of words")


def corpus_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each corpus of a run, the last that was has_facts of each; behind the number where
    there are several."""
    found = {str(event.get("stage")): event
             for event in events if event.get("event") == "prepare" and has_facts(event)}
    return [corpus_line(event) if len(found) == 1 else f"{stage}: {corpus_line(event)}"
            for stage, event in found.items()]


def unknown_line(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """`at most 1.2 % of the words (trial 3); real text 0.6 %`: UNK in what members generated; None where
    it was not counted."""
    shares = [row for row in rows if isinstance(row.get("unk_share"), int | float)]
    if not shares:
        return None
    worst = max(shares, key=lambda row: row["unk_share"])
    real = worst.get("unk_share_heldout")
    beside = f"; real text {100 * real:.1f} %" if isinstance(real, int | float) else ""
    return f"at most {100 * worst['unk_share']:.1f} % of the words (trial {worst['trial']}){beside}"
