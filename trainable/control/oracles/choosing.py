"""Oracles by name, and which one a corpus gets when none is named."""

from __future__ import annotations

from spaces.errors import UserError
from trainable.control.lexicon import AnyCorpus, language_of, oracle_of
from trainable.control.oracles.base import Oracle
from trainable.corpora.language import UNDETERMINED, readable
from trainable.registry import ORACLES

AUTO = "auto"
DEFAULT = {"grammar": "grammar", "words": "textblob"}
"""By `lexicon.oracle_of`: the built-in corpus is read by its grammar, other English text by what
needs no download."""


def oracle_named(name: str, needs: str | None = None) -> Oracle:
    """From `NAME` or `NAME:MODEL`. Raises `UserError` when it is unknown, not installed or does
    not give `needs`."""
    kind, _, model = name.partition(":")
    found = ORACLES.get(kind)
    if model and not found.takes_model:
        raise UserError(f"control oracle {name!r}: {kind} takes no model; write {kind}")
    if needs and needs not in found.provides:
        able = [other for other in ORACLES if needs in ORACLES.get(other).provides]
        raise UserError(f"control oracle {name!r} gives no {needs}; legal: {', '.join(able)}")
    made = found(model)
    if needs and needs not in made.provides:
        raise UserError(f"control oracle {made.full_name!r} gives no {needs}: its pipeline lacks the part "
                        "for them")
    return made


def oracle_for(name: str, corpus: AnyCorpus, needs: str | None = None) -> Oracle:
    """The named oracle; for `auto` the one that suits the corpus. Raises `UserError` also where it cannot
    read the corpus's language, as the corpus was told or tells it."""
    oracle, language = (oracle_named(DEFAULT[oracle_of(corpus)] if name == AUTO else name, needs),
                        language_of(corpus))
    if not readable(language, oracle.languages):
        asked = f"auto is {oracle.full_name} here, which reads" if name == AUTO else f"{name!r} reads"
        told = "in a language that it does not know" if language == UNDETERMINED else f"{language!r}"
        raise UserError(f"control oracle {asked} {' and '.join(oracle.languages)}, and the corpus's text is "
                        f"{told}; name an oracle of its language (oracle: spacy:MODEL), leave the task out, "
                        "or, if the text is English, set corpus.language: en")
    return oracle
