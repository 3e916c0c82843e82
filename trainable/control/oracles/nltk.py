"""nltk's averaged perceptron tagger: between textblob's rules and spaCy's networks, offline once
its data is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from spaces.shell import python
from trainable.control.oracles.base import Oracle, Reading, refuse_missing
from trainable.control.oracles.penn import to_upos

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger

DATA = "averaged_perceptron_tagger_eng"


class NltkOracle(Oracle):
    """nltk's perceptron tagger (Honnibal's averaged perceptron, trained on WSJ), Penn tags as universal
    ones; no spans."""

    name = "nltk"
    provides = frozenset({"tags"})

    def __init__(self, model: str = ""):
        super().__init__(model)
        refuse_missing(self)

    def read(self, words: Sequence[str]) -> Reading:
        """UPOS of the words as they are cut."""
        if not words:
            return Reading((), (), False)
        import nltk.data

        tagger = _tagger(str(nltk.data.find(f"taggers/{DATA}")))
        return Reading(to_upos(words, [tag for _, tag in tagger.tag(list(words))]), (), True)

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """nltk itself comes with qdlm; the tagger's data does not."""
        import nltk.data

        try:
            nltk.data.find(f"taggers/{DATA}")
        except LookupError:
            return f"{python()} -m nltk.downloader {DATA}"
        return None


@lru_cache(maxsize=1)  # oracles come and go with the targets; the data takes a second to load
def _tagger(folder: str) -> PerceptronTagger:  # by the folder that nltk finds
    from nltk.tag.perceptron import PerceptronTagger

    return PerceptronTagger()
