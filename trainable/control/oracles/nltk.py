"""nltk's averaged perceptron tagger: between textblob's rules and spaCy's networks, offline once its data is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from trainable.control.oracles.base import Oracle, Reading, refuse_missing
from trainable.control.oracles.penn import to_upos

DATA = "averaged_perceptron_tagger_eng"


class NltkOracle(Oracle):
    """nltk's perceptron tagger (Honnibal's averaged perceptron, trained on WSJ), Penn tags as universal ones; no spans."""

    name = "nltk"
    provides = frozenset({"tags"})

    def __init__(self, model: str = ""):
        super().__init__(model)
        refuse_missing(self)

    @cached_property
    def _tagger(self):
        from nltk.tag.perceptron import PerceptronTagger

        return PerceptronTagger()

    def read(self, words: Sequence[str]) -> Reading:
        """UPOS of the words as they are cut."""
        if not words:
            return Reading((), (), False)
        return Reading(to_upos(words, [tag for _, tag in self._tagger.tag(list(words))]), (), True)

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """nltk itself comes with qdlm; the tagger's data does not."""
        import nltk.data

        try:
            nltk.data.find(f"taggers/{DATA}")
        except LookupError:
            return f"python -m nltk.downloader {DATA}"
        return None
