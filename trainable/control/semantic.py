"""Control of content: a field shall have a value, such as food = Italian."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.control.base import ControlTask, Target, TaskParams
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus, Lexicon, contains, oracle_of, phrases_for
from trainable.control.target_files import Entry
from trainable.corpora.base import Split
from trainable.corpora.tokenized import END, UNK, TokenizedCorpus
from trainable.models.prediction import Prediction, log_sum, probabilities


class PhrasePlaces:
    """Every place in B sentences of L positions at which one of a sentence's phrases may begin, laid out so
    that one gather reads them all. Position 0 holds START and the last one END, so neither is counted."""

    def __init__(self, phrases: Sequence[Sequence[Sequence[int]]], like: Tensor):
        """`phrases`: of each sentence, ids of at least one; `like`: [B, L, V]. Raises ValueError where none
        of a sentence's phrases fits."""
        self.length, vocabulary = like.shape[1:]
        rows = [[(start, ids) for ids in of for start in range(self.length - 1 - len(ids))] for of in phrases]
        for of, row in zip(phrases, rows, strict=True):
            if not row:
                raise ValueError(f"no phrase of {of} fits into {self.length} positions")
        places = max(map(len, rows))
        longest = max(len(ids) for row in rows for _, ids in row)
        starts = torch.zeros(len(rows), places, dtype=torch.long)
        words = torch.zeros(len(rows), places, longest, dtype=torch.long)
        used, there = torch.zeros(words.shape).bool(), torch.zeros(starts.shape).bool()
        for b, row in enumerate(rows):
            for i, (start, ids) in enumerate(row):
                starts[b, i], there[b, i], used[b, i, :len(ids)] = start, True, True
                words[b, i, :len(ids)] = torch.tensor([(start + 1 + k) * vocabulary + word
                                                       for k, word in enumerate(ids)])
        self.starts, self.nowhere = starts.to(like.device), ~there.to(like.device)
        self.words, self.unused = words.flatten(1).to(like.device), ~used.to(like.device)

    def log_count(self, log_probs: Tensor) -> Tensor:
        """[B, L, V] posteriors, positions taken as independent -> [B] log of the expected number of times
        that a sentence's phrases stand in it before it ends."""
        said = log_probs.flatten(1).gather(1, self.words).view(self.unused.shape)
        total = log_alive(log_probs).gather(1, self.starts) + said.masked_fill(self.unused, 0.0).sum(-1)
        return log_sum(total.masked_fill(self.nowhere, -torch.inf))


def log_alive(log_probs: Tensor) -> Tensor:
    """[..., L, V] log-posterior -> [..., L] log-probability that END stands at none of the positions
    1 to this one."""
    end = probabilities(log_probs[..., END][..., 1:]).clamp(max=1 - 1e-6)
    return torch.nn.functional.pad(torch.log1p(-end).cumsum(-1), (1, 0))


def fields_of(corpus: TokenizedCorpus, *splits: Split) -> dict[str, set[str]]:
    """The fields of some splits' text, each with its values."""
    found: dict[str, set[str]] = {}
    for split in splits:
        for row in corpus.rows(split, range(len(corpus.lengths(split)))):
            for field, value in (row.get("fields") or {}).items():
                found.setdefault(field, set()).add(value)
    return found


class Semantic(ControlTask):
    """A field of the sentence's meaning has a given value, for example food=Italian."""

    name = "semantic"

    class Params(TaskParams):
        """`fields`: which fields targets are drawn from; empty for all."""

        fields: tuple[str, ...] = Field((), description="fields that targets are drawn from; empty: all")

    params: Params
    _fields: tuple[TokenizedCorpus, dict[str, set[str]]] | None = None
    _held: tuple[list[Target], PhrasePlaces] | None = None

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """One field, drawn evenly from those of the row that can be said and scored, with its value.

        Values are left out when a word of theirs is not in the vocabulary, and, where no grammar decides,
        when they are yes or no: these are not said by their own words.
        """
        fields, oracle = corpus.rows(split, [row])[0].get("fields") or {}, oracle_of(corpus)
        made = [self._target(field, value, oracle, corpus) for field, value in fields.items()]
        usable = [target for target in made if target is not None]
        return usable[int(torch.randint(len(usable), (), generator=generator))] if usable else None

    def no_target_reason(self, corpus: TokenizedCorpus) -> str:
        """No fields, or none of the asked ones."""
        wanted, known = (f" {', '.join(self.params.fields)}" if self.params.fields else "",
                         fields_of(corpus, "valid"))
        remedy = f"legal: {', '.join(known)}" if known else \
            "leave the task out of evaluation.control_tasks or use a corpus with fields"
        return f"the corpus's held-out text has no usable fields{wanted}; {remedy}"

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """`["food", ":", "fast", "food"]`: field, colon, the words of the value."""
        field, words = self._written(entry)
        if self._fields is None or self._fields[0] is not corpus:
            self._fields = corpus, fields_of(corpus, "valid")
        known = self._fields[1]
        if known and field not in known:
            raise UserError(f"{entry.where}: the corpus has no field {field!r}; legal: {', '.join(known)}")
        phrases = [way for way in phrases_for(field, " ".join(words), oracle_of(corpus)) or [words]
                   if UNK not in corpus.encode(way)]
        if not phrases:
            strange = [word for word in words if corpus.encode([word]) == [UNK]] or words
            values = fields_of(corpus, "valid", "train").get(field, ()) if known else ()
            said = sorted(value for value in values if UNK not in corpus.encode(value.split()))
            legal = f"; legal values of {field}: {', '.join(said)}" if said else ""
            raise UserError(f"{entry.where}: {field} = {' '.join(words)}: {' '.join(strange)!r} is not in "
                            f"the vocabulary; leave the line out or use another value{legal}")
        return {"field": field, "value": " ".join(words), "oracle": oracle_of(corpus), "phrases": phrases}

    def _written(self, entry: Entry) -> tuple[str, list[str]]:
        """Field and words of the value."""
        value = entry.value
        if not isinstance(value, list) or len(value) < 3 or ":" not in value[1:-1] \
                or not all(isinstance(part, str) for part in value):
            raise UserError(f'{entry.where}: expected ["field", ":", "value", ...], not {str(value)[:60]}')
        colon = value.index(":")
        field = " ".join(value[:colon])
        if self.params.fields and field not in self.params.fields:
            raise UserError(f"{entry.where}: field {field!r} is not among fields: "
                            f"{', '.join(self.params.fields)}")
        return field, value[colon + 1:]

    def size(self, entry: Entry) -> int:
        """Words of the value."""
        return len(self._written(entry)[1])

    def _target(self, field: str, value: str, oracle: str, corpus: TokenizedCorpus) -> Target | None:
        if self.params.fields and field not in self.params.fields:
            return None
        phrases = [phrase for phrase in phrases_for(field, value, oracle) if UNK not in corpus.encode(phrase)]
        return {"field": field, "value": value, "oracle": oracle, "phrases": phrases} if phrases else None

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """-log min(1, expected number of times that the posterior says the target before the sentence ends).

        No classifier: the expectation is a log-sum-exp over phrases and start positions i of sum_k log p(word
        k at i + k). By Markov's inequality it bounds the probability that the phrase is there at all; at 1 it
        has nothing left to ask.
        """
        held, log_probs = self._held, prediction.log_probs
        # guidance comes back with the same list at every step
        if held is None or held[0] is not targets or held[1].length != log_probs.shape[1]:
            asked = [[list(corpus.encode(phrase)) for phrase in target["phrases"]] for target in targets]
            self._held = held = (targets, PhrasePlaces(asked, log_probs))
        return -held[1].log_count(log_probs).clamp(max=0.0)

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """One of the value's phrases, somewhere."""
        made = Layout.free(length)
        made.phrases = [list(corpus.encode(phrase)) for phrase in target["phrases"]]
        return made

    def symbols(self, lexicon: Lexicon) -> list[str]:
        """Each value of each field."""
        return [f"semantic {field} = {value}" for field, values in lexicon.values.items() for value in values]

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """The value, said at every position."""
        return [[f"semantic {target['field']} = {target['value']}"] * positions]

    def said(self, target: Target) -> str:
        """`price: moderate`."""
        return f"{target['field']}: {target['value']}"

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`, and the same under the field's name, so that means per field come out beside the whole.

        Oracle `grammar` reads the meaning back with the grammar that made the corpus; `words` looks
        for the value as a run of whole words in any case (whole, so that "no" is not found in "north",
        as the released scorer does).
        """
        if target["oracle"] == "grammar":
            from trainable.corpora.restaurant.oracle import read_fields
            success = (read_fields(words) or {}).get(target["field"]) == target["value"]
        else:
            success = any(contains(words, phrase) for phrase in target["phrases"])
        return {"success": float(success), target["field"]: float(success)}

    def oracle(self, target: Target) -> str:
        """`grammar` or `words`."""
        return target["oracle"]

    def code(self, target: Target) -> list[str]:
        """The field, and the words of the value."""
        return [f"<{target['field']}>", *target["value"].split()]

    def keys(self, lexicon: Lexicon) -> list[str]:
        """The corpus's fields."""
        return list(lexicon.values)

    def parse(self, key: str, value: str, lexicon: Lexicon) -> Target:
        """`food=Italian`; upper and lower case are the same."""
        legal = lexicon.values[key]
        by_name = {name.casefold(): name for name in legal}
        known = by_name.get(" ".join(value.split()).casefold())
        if known is None:
            near = difflib.get_close_matches(value, legal, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"control {key}={value}: unknown value{hint}; legal: {', '.join(sorted(legal))}")
        phrases = [phrase for phrase in legal[known] if UNK not in lexicon.encode(phrase)]
        if not phrases:
            sayable = [name
                       for name, ways in legal.items() if any(UNK not in lexicon.encode(way) for way in ways)]
            raise UserError(f"control {key}={value}: the vocabulary has no words for it; legal: "
                            f"{', '.join(sayable)}")
        return {"field": key, "value": known, "oracle": lexicon.oracle, "phrases": phrases}
