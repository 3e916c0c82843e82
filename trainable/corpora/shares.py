"""How much of a text is left: what is warned of, and what is refused, by the settings of the corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from spaces.config import CorpusConfig
from spaces.errors import UserError

SPLITS = {"train": "training", "valid": "held-out"}


class Concern(NamedTuple):
    """A share of one split that says that a corpus may not be what was meant."""

    share: float
    warn: float
    refuse: float
    setting: str
    """The end of the names of the two settings."""
    text: str
    remedy: str


def concerns(stats: Mapping[str, Any], config: CorpusConfig) -> Iterator[Concern]:
    """Every share that has a bound. `stats`: of a tokenized corpus; older ones lack `empty`."""
    most = config.max_length - 2
    for split, kind in SPLITS.items():
        kept, long = stats["sentences"][split], stats["dropped"][split]
        empty = stats.get("empty", {}).get(split, 0)
        why = [f"{long:,} have more than {most} words"] * (long > 0) + [f"{empty:,} hold none"] * (empty > 0)
        longer = f"raise corpus.max_length (now {config.max_length}), or cut the texts shorter"
        fuller = "fill or delete the rows without words, or name another column"
        remedies = [longer] * (long > 0) + [fuller] * (empty > 0)
        total = kept + long + empty
        yield Concern((long + empty) / total, config.warn_left_out, config.refuse_left_out, "left_out",
                      f"of {total:,} {kind} texts are left out: {' and '.join(why)}",
                      "; ".join(remedies))
    for split, kind in SPLITS.items():
        yield Concern(stats["unk_rate"][split], config.warn_unknown, config.refuse_unknown, "unknown",
                      f"of the {kind} words are outside the vocabulary of {stats['vocabulary']:,} and "
                      "become UNK", f"lower corpus.min_count (now {config.min_count}), or give more text")


def refuse(stats: Mapping[str, Any], config: CorpusConfig) -> None:
    """Raises `UserError` where too little of the text is left to search on."""
    for one in concerns(stats, config):
        if one.share > one.refuse:
            raise UserError(f"corpus {stats['corpus']!r}: {one.share:.0%} {one.text}; {one.remedy}, "
                            f"or accept it: corpus.refuse_{one.setting} (now {one.refuse:g})")


def warnings(stats: Mapping[str, Any], config: CorpusConfig) -> list[str]:
    """One line for each kind of share that is larger than it should be, in the training split first."""
    found: dict[str, str] = {}
    for one in concerns(stats, config):
        if one.share > one.warn:
            found.setdefault(one.setting,
                             f"corpus {stats['corpus']}: {one.share:.0%} {one.text}; {one.remedy} (warned of "
                             f"beyond corpus.warn_{one.setting}={one.warn:g})")
    return list(found.values())
