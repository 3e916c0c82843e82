"""Plug-ins by name. One line here makes a plug-in searchable, listed by `qdlm plugins` and run by the contract tests.

Entries are import paths, resolved on first use, so that reading the registry costs no torch import. Every plug-in class has
`name`, a one-sentence docstring, and `Params`: a frozen pydantic model of its parameters (all of them searchable).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from spaces.config import PluginRef
from spaces.errors import UserError


class Params(BaseModel):
    """Base of every plug-in's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Registry:
    """Names of one kind of plug-in and where each lives."""

    def __init__(self, kind: str, entries: dict[str, str]):
        self.kind, self.entries = kind, entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def get(self, name: str) -> type:
        """The plug-in class. Raises `UserError` naming the legal names."""
        if name not in self.entries:
            near = difflib.get_close_matches(name, self.entries, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {self.kind} {name!r}{hint}; legal: {', '.join(self.entries)}")
        module, _, attribute = self.entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def build_default(self, name: str):
        """An instance with default parameters."""
        return self.build(PluginRef(name=name))

    def build(self, ref: PluginRef):
        """An instance from `{name: ..., parameter: ...}`. Raises `UserError` naming the parameter and what is legal."""
        cls = self.get(ref.name)
        try:
            params = cls.Params(**ref.params)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            where = f"{self.kind} {ref.name!r}" + (f", parameter {key!r}" if key else "")
            legal = ", ".join(cls.Params.model_fields) or "none"
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{where}: {message}; parameters: {legal}") from None
        return cls(params)


QUANTIZERS = Registry("quantizer", {
    "none": "trainable.quantizers.none:NoQuantizer",
    "binary": "trainable.quantizers.binary:Binary",
    "ternary_twn": "trainable.quantizers.ternary:TernaryTWN",
    "ternary_absmean": "trainable.quantizers.ternary:TernaryAbsmean",
    "fixed": "trainable.quantizers.fixed:FixedPoint",
    "pow2": "trainable.quantizers.pow2:PowerOfTwo",
    "uniform": "trainable.quantizers.uniform:Uniform",
    "float": "trainable.quantizers.floats:SmallFloat",
    "nf4": "trainable.quantizers.nf4:NF4",
    "bfp": "trainable.quantizers.shared_exponent:BlockFloat",
    "mx": "trainable.quantizers.shared_exponent:MX",
    "lut": "trainable.quantizers.lut:LookupTable",
    "vq": "trainable.quantizers.vq:VectorQuantizer",
    "pq": "trainable.quantizers.pq:ProductQuantizer",
    "rvq": "trainable.quantizers.rvq:ResidualVQ",
    "simvq": "trainable.quantizers.simvq:SimVQ",
    "fsq": "trainable.quantizers.fsq:FSQ",
    "adapt": "trainable.quantizers.adapt:AdaPT",
})
BODIES = Registry("body format", {
    "float32": "trainable.quantization.body_formats:Float32",
    "bfloat16": "trainable.quantization.body_formats:BFloat16",
    "int8_dynamic": "trainable.quantization.body_formats:Int8Dynamic",
    "int8_weight": "trainable.quantization.body_formats:Int8Weight",
    "int4_weight": "trainable.quantization.body_formats:Int4Weight",
})
CORPORA = Registry("corpus", {
    "restaurant": "trainable.corpora.restaurant:Restaurant",
    "e2e": "trainable.corpora.e2e:E2E",
    "rocstories": "trainable.corpora.rocstories:ROCStories",
    "lines": "trainable.corpora.lines:Lines",
})
SAMPLERS = Registry("sampler", {
    "ancestral": "trainable.diffusion.gaussian.samplers:Ancestral",
    "ddim": "trainable.diffusion.gaussian.samplers:DDIM",
})
TASKS = Registry("control task", {
    "length": "trainable.control.length:Length",
    "semantic": "trainable.control.semantic:Semantic",
    "pos": "trainable.control.pos:Pos",
    "spans": "trainable.control.spans:Spans",
    "tree": "trainable.control.tree:Tree",
    "infill": "trainable.control.infill:Infill",
    "compose": "trainable.control.compose:Compose",
})
ORACLES = Registry("control oracle", {
    "grammar": "trainable.control.oracles.grammar:GrammarOracle",
    "textblob": "trainable.control.oracles.textblob:TextBlobOracle",
    "nltk": "trainable.control.oracles.nltk:NltkOracle",
    "spacy": "trainable.control.oracles.pipelines:SpacyOracle",
    "benepar": "trainable.control.oracles.pipelines:BeneparOracle",
})
METRICS = Registry("metric", {
    "perplexity": "trainable.metrics.perplexity:Perplexity",
    "nll_bound": "trainable.metrics.nll_bound:NLLBound",
    "diversity": "trainable.metrics.diversity:Diversity",
    "controllability": "trainable.metrics.controllability:Controllability",
    "latency_ms": "trainable.metrics.latency:Latency",
    "generation_flops": "trainable.metrics.generation_flops:GenerationFlops",
    "size_bytes": "trainable.metrics.size:SizeBytes",
    "bits_per_weight": "trainable.metrics.bits:BitsPerWeight",
    "trainable_params": "trainable.metrics.cost:TrainableParams",
    "train_seconds": "trainable.metrics.cost:TrainSeconds",
})
REGISTRIES = {"quantizers": QUANTIZERS, "bodies": BODIES, "corpora": CORPORA, "samplers": SAMPLERS, "tasks": TASKS,
              "oracles": ORACLES, "metrics": METRICS}
