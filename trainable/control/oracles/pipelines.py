"""Trained oracles for English text, both optional: spaCy for tags, benepar for trees."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from spaces.errors import UserError
from trainable.control.oracles.base import Oracle, Reading, refuse_missing
from trainable.control.oracles.brackets import reading_of
from trainable.control.oracles.penn import to_upos


class SpacyOracle(Oracle):
    """A spaCy pipeline's universal tags, written `spacy:en_core_web_sm`: an installed package, or a folder by `nlp.to_disk`."""

    name = "spacy"
    provides = frozenset({"tags"})
    takes_model = True

    def __init__(self, model: str = ""):
        super().__init__(model or "en_core_web_sm")
        refuse_missing(self)

    @cached_property
    def _pipeline(self):
        import spacy

        try:
            return spacy.load(self.model, exclude=["ner", "lemmatizer"])
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"control oracle {self.full_name!r}: the pipeline cannot be loaded "
                            f"({str(error).strip().splitlines()[0]})") from None

    def read(self, words: Sequence[str]) -> Reading:
        """UPOS of the words as they are cut; no spans."""
        from spacy.tokens import Doc

        tags = [token.pos_ for token in self._pipeline(Doc(self._pipeline.vocab, words=list(words)))] if words else []
        if not all(tags):
            parts = ", ".join(self._pipeline.pipe_names) or "empty"
            raise UserError(f"control oracle {self.full_name!r}: the pipeline ({parts}) gives no universal tags; it needs "
                            "a morphologizer, or a tagger and an attribute_ruler")
        return Reading(tuple(tag if tag != "SPACE" else "X" for tag in tags), (), bool(words))

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """spaCy itself comes with qdlm; the pipeline does not."""
        model = model or "en_core_web_sm"
        if not model.isidentifier():
            return None if (Path(model) / "config.cfg").is_file() else f"nlp.to_disk({model!r}) of a trained pipeline"
        return None if importlib.util.find_spec(model) else f"python -m spacy download {model}"


class BeneparOracle(Oracle):
    """The Berkeley parser's trees and tags, written `benepar:benepar_en3`; the published oracle for trees and spans."""

    name = "benepar"
    sample = 600
    provides = frozenset({"tags", "spans"})
    takes_model = True

    def __init__(self, model: str = ""):
        super().__init__(model or "benepar_en3")
        refuse_missing(self)

    @cached_property
    def _parser(self):
        import benepar

        try:
            return benepar.Parser(self.model)
        except (LookupError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"control oracle {self.full_name!r}: the model cannot be loaded "
                            f"({str(error).strip().splitlines()[0]})") from None

    def read(self, words: Sequence[str]) -> Reading:
        """The parse, its top bracket left out, Penn tags as universal ones."""
        import benepar

        if not words:
            return Reading((), (), False)
        tree = self._parser.parse(benepar.InputSentence(words=list(words)))
        found = reading_of(" ".join(str(tree).split()))
        spans = tuple(span for span in found.spans if span[2] not in ("TOP", "ROOT"))
        return Reading(to_upos(words, found.tags), spans, True)

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """The package, and its model: a path, or the name of one that `benepar.download` put among nltk's data."""
        model = model or "benepar_en3"
        if not importlib.util.find_spec("benepar"):
            return "pip install 'qdlm[parse]'"
        if Path(model).exists():
            return None
        import nltk.data

        try:
            nltk.data.find(f"models/{model}")
        except (LookupError, ValueError):
            return f"python -c \"import benepar; benepar.download('{model}')\""
        return None
