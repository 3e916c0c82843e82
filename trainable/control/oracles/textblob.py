"""TextBlob's lexicon-and-rules tagger and chunker (Brill's rules; from `pattern`): needs no download
and no model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from trainable.control.oracles.base import Oracle, Reading, Span
from trainable.control.oracles.penn import to_upos


class TextBlobOracle(Oracle):
    """TextBlob offline: Penn tags as universal ones, and flat chunks (NP, VP, PP, ADJP, ADVP) as spans;
    no whole trees."""

    name = "textblob"
    provides = frozenset({"tags", "spans"})

    def read(self, words: Sequence[str]) -> Reading:
        """Tags and chunks; PP is a chunk with the noun chunk that follows it. `whole` is always true:
        rules never fail."""
        return _read(tuple(words)) if words else Reading((), (), False)


# tasks ask for the tags and the spans of the same text, and for several targets of it
@lru_cache(maxsize=1024)
def _read(words: tuple[str, ...]) -> Reading:
    from textblob.en import parser  # loads its lexicon, 0.1 s

    penn = [list(pair) for pair in parser.find_tags(list(words))]
    chunks = parser.find_chunks([pair[:] for pair in penn])
    return Reading(to_upos(words, [tag for _, tag in penn]), _spans([chunk[2] for chunk in chunks]), True)


def _spans(marks: Sequence[str]) -> tuple[Span, ...]:
    """`B-NP I-NP O B-PP ...` as spans; a PP reaches over the NP behind it."""
    found: list[Span] = []
    for i, mark in enumerate(marks):
        label = mark.partition("-")[2]
        if label and mark[0] == "B":
            end = i
            while end + 1 < len(marks) and marks[end + 1] == f"I-{label}":
                end += 1
            found.append((i, end, label))
    joined = [(start, after[1], label) if label == "PP" and after is not None and after[2] == "NP"
              and after[0] == end + 1 else (start, end, label)
              for (start, end, label), after in zip(found, [*found[1:], None], strict=False)]
    return tuple(sorted(joined, key=lambda span: (span[0], -span[1], span[2])))
