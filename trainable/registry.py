"""Plug-ins by name. One line here makes a plug-in searchable, listed by `qdlm plugins` and run by
the contract tests.

Entries are import paths, resolved on first use, so that reading the registry costs no torch import. Every
plug-in class has `name`, a one-sentence docstring, and `Params`: a frozen pydantic model of its parameters
(all of them searchable).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spaces.config import PluginRef, TrialConfig
from spaces.errors import UserError
from spaces.values import cut, did_you_mean, show

if TYPE_CHECKING:
    from trainable.adapters.base import AdapterStart
    from trainable.control.base import ControlTask
    from trainable.control.oracles.base import Oracle
    from trainable.control.phrases.base import PhrasePlan
    from trainable.corpora.base import Corpus
    from trainable.diffusion.canvas.samplers import CanvasSampler
    from trainable.diffusion.gaussian.samplers import Sampler
    from trainable.diffusion.masked.samplers.base import Sampler as MaskedSampler
    from trainable.diffusion.process import Process
    from trainable.metrics.base import Metric
    from trainable.models.backbone import Backbone
    from trainable.quantization.body_formats import BodyFormat
    from trainable.quantization.post_training.base import PostTraining
    from trainable.quantization.post_training.corrections import Correction
    from trainable.quantization.post_training.token_weights import TokenWeight
    from trainable.quantizers.base import Quantizer

R = TypeVar("R", bound=PluginRef)


@dataclass(frozen=True)
class Rule:
    """What a plug-in's parameters ask of a setting elsewhere in the trial."""

    setting: str
    """Its dotted path."""
    holds: Callable[[Any, Any], bool]
    """Of the setting's value and the parameters."""
    words: str
    """What follows `setting=value` in the message; `{name}` stands for a parameter."""

    def problem(self, value: Any, params: Params) -> str | None:
        """Why the value does not do; None when it does."""
        if self.holds(value, params):
            return None
        return f"{self.setting}={show(value)} {self.words.format(**params.model_dump())}"


class Params(BaseModel):
    """Base of every plug-in's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rules: ClassVar[tuple[Rule, ...]] = ()


class Plugin(Protocol):
    """What every plug-in class has."""

    name: ClassVar[str]
    Params: ClassVar[Any]
    """A subclass of `registry.Params`; of which one, each kind says."""


P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """Names of one kind of plug-in, all subclasses of `P`, and where each lives."""

    def __init__(self, kind: str, entries: dict[str, str]):
        self.kind, self.entries = kind, entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def get(self, name: str) -> type[P]:
        """The plug-in class. Raises `UserError` naming the legal names."""
        if name not in self.entries:
            raise UserError(f"unknown {self.kind} {cut(name)!r}{did_you_mean(name, self.entries)}; legal: "
                            f"{', '.join(self.entries)}")
        module, _, attribute = self.entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def build_default(self, name: str) -> P:
        """An instance with default parameters."""
        return self.build(PluginRef(name=name))

    def build(self, ref: PluginRef) -> P:
        """An instance from `{name: ..., parameter: ...}`. Raises `UserError` naming the parameter
        and what is legal."""
        make: Callable[[Params], P] = self.get(ref.name)
        return make(self.params(ref))

    def params(self, ref: PluginRef) -> Params:
        """The plug-in's parameters, defaults filled in. Raises `UserError` as `build` does."""
        cls = self.get(ref.name)
        try:
            return cls.Params(**ref.params)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            where = f"{self.kind} {ref.name!r}" + (f", parameter {key!r}" if key else "")
            legal = ", ".join(cls.Params.model_fields) or "none"
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = f"no such parameter{did_you_mean(key, cls.Params.model_fields)}"
            raise UserError(f"{where}: {message}; parameters: {legal}") from None

    def completed(self, ref: R) -> R:
        """The same reference with every default written out, so that a later default changes nothing."""
        return type(ref)(name=ref.name, **self.params(ref).model_dump(mode="json"))


QUANTIZERS: Registry[Quantizer] = Registry("quantizer", {
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
BODIES: Registry[BodyFormat] = Registry("body format", {
    "float32": "trainable.quantization.body_formats:Float32",
    "bfloat16": "trainable.quantization.body_formats:BFloat16",
    "int8_dynamic": "trainable.quantization.int8_body:Int8Dynamic",
    "int8_weight": "trainable.quantization.body_formats:Int8Weight",
    "int4_weight": "trainable.quantization.body_formats:Int4Weight",
})
POST_TRAINING: Registry[PostTraining] = Registry("post-training method", {
    "none": "trainable.quantization.post_training.none:NoRounding",
    "rtn": "trainable.quantization.post_training.rtn:RoundToNearest",
    "gptq": "trainable.quantization.post_training.gptq:GPTQ",
    "awq": "trainable.quantization.post_training.awq:AWQ",
    "smoothquant": "trainable.quantization.post_training.smoothquant:SmoothQuant",
    "hqq": "trainable.quantization.post_training.half_quadratic:HalfQuadratic",
    "rotation": "trainable.quantization.post_training.rotation:HadamardRotation",
    "quant_dllm": "trainable.quantization.post_training.multi_binary:MultiBinary",
})
ADAPTER_STARTS: Registry[AdapterStart] = Registry("adapter start", {
    "zero": "trainable.adapters.zero:Zero",
    "loftq": "trainable.adapters.loftq:LoftQ",
    "lq_lora": "trainable.adapters.lq_lora:LQLoRA",
    "apiq": "trainable.adapters.apiq:ApiQ",
    "int2.1": "trainable.adapters.int21:Int21",
    "pissa": "trainable.adapters.pissa:PiSSA",
    "eva": "trainable.adapters.eva:EVA",
})
TOKEN_WEIGHTS: Registry[TokenWeight] = Registry("token weight", {
    "uniform": "trainable.quantization.post_training.token_weights:UniformWeight",
    "cgq_survey": "trainable.quantization.post_training.token_weights:CgqSurvey",
    "cgq_thirdparty": "trainable.quantization.post_training.token_weights:CgqThirdParty",
    "fair": "trainable.quantization.post_training.token_weights:FairWeight",
    "rsq": "trainable.quantization.post_training.token_weights:RsqWeight",
})
CORRECTIONS: Registry[Correction] = Registry("correction", {  # in the order in which they act
    "interval_scales": "trainable.quantization.post_training.interval_scales:IntervalScaling",
    "state_clip": "trainable.quantization.post_training.input_ranges:StateClip",
    "softmax_bias": "trainable.quantization.post_training.softmax_bias:SoftmaxBias",
    "ia_aq": "trainable.quantization.post_training.ia_aq:InteractionAware",
    "tac": "trainable.quantization.post_training.tac:TAC",
})
CORPORA: Registry[Corpus] = Registry("corpus", {
    "restaurant": "trainable.corpora.restaurant:Restaurant",
    "e2e": "trainable.corpora.e2e:E2E",
    "rocstories": "trainable.corpora.rocstories:ROCStories",
    "lines": "trainable.corpora.lines:Lines",
})
BACKBONES: Registry[Backbone] = Registry("backbone", {
    "diffusion_lm": "trainable.models.diffusion_lm.denoiser:DiffusionLM",
    "masked_lm": "trainable.models.masked_lm.backbone:MaskedLM",
    "diffusion_gemma": "trainable.models.diffusion_gemma.backbone:DiffusionGemma",
})
PROCESSES: Registry[Process] = Registry("diffusion process", {
    "gaussian": "trainable.diffusion.gaussian.process:Gaussian",
    "masked": "trainable.diffusion.masked.process:Masked",
    "canvas": "trainable.diffusion.canvas.process:Canvas",
})
GAUSSIAN_SAMPLERS: Registry[Sampler] = Registry("sampler", {
    "ancestral": "trainable.diffusion.gaussian.samplers:Ancestral",
    "ddim": "trainable.diffusion.gaussian.samplers:DDIM",
})
MASKED_SAMPLERS: Registry[MaskedSampler] = Registry("sampler", {
    "ancestral": "trainable.diffusion.masked.samplers.ancestral:Ancestral",
    "quota": "trainable.diffusion.masked.samplers.quota:Quota",
    "threshold": "trainable.diffusion.masked.samplers.adaptive:Threshold",
    "factor": "trainable.diffusion.masked.samplers.adaptive:Factor",
    "entropy_bound": "trainable.diffusion.masked.samplers.adaptive:EntropyBound",
    "remdm": "trainable.diffusion.masked.samplers.remdm:ReMDM",
    "chain": "trainable.diffusion.masked.samplers.chain:Chain",
})
CANVAS_SAMPLERS: Registry[CanvasSampler] = Registry("sampler", {
    "entropy_bound": "trainable.diffusion.canvas.samplers:EntropyBound",
})
TASKS: Registry[ControlTask] = Registry("control task", {
    "length": "trainable.control.length:Length",
    "semantic": "trainable.control.semantic:Semantic",
    "pos": "trainable.control.pos:Pos",
    "spans": "trainable.control.spans:Spans",
    "tree": "trainable.control.tree:Tree",
    "infill": "trainable.control.infill:Infill",
    "compose": "trainable.control.compose:Compose",
})
ORACLES: Registry[Oracle] = Registry("control oracle", {
    "grammar": "trainable.control.oracles.grammar:GrammarOracle",
    "textblob": "trainable.control.oracles.textblob:TextBlobOracle",
    "nltk": "trainable.control.oracles.nltk:NltkOracle",
    "spacy": "trainable.control.oracles.pipelines:SpacyOracle",
    "benepar": "trainable.control.oracles.pipelines:BeneparOracle",
})
PHRASES: Registry[PhrasePlan] = Registry("phrase plan", {
    "bank": "trainable.control.phrases.bank:Bank",
    "tags": "trainable.control.phrases.tag_rows:TagRows",
})
METRICS: Registry[Metric] = Registry("metric", {
    "perplexity": "trainable.metrics.perplexity:Perplexity",
    "nll_bound": "trainable.metrics.nll_bound:NLLBound",
    "diversity": "trainable.metrics.diversity:Diversity",
    "unk_share": "trainable.metrics.unk_share:UnkShare",
    "controllability": "trainable.metrics.controllability:Controllability",
    "latency_ms": "trainable.metrics.latency:Latency",
    "nfe": "trainable.metrics.nfe:NFE",
    "generation_flops": "trainable.metrics.generation_flops:GenerationFlops",
    "kl_to_base": "trainable.metrics.kl_to_base:KLToBase",
    "commit_flips": "trainable.metrics.rollouts:CommitFlips",
    "stability_lag": "trainable.metrics.rollouts:StabilityLagMetric",
    "error_by_step": "trainable.metrics.rollouts:ErrorByStep",
    "size_bytes": "trainable.metrics.size:SizeBytes",
    "bits_per_weight": "trainable.metrics.bits:BitsPerWeight",
    "trainable_params": "trainable.metrics.cost:TrainableParams",
    "train_seconds": "trainable.metrics.cost:TrainSeconds",
})
REGISTRIES: dict[str, Registry[Any]] = {
    "backbones": BACKBONES, "processes": PROCESSES, "quantizers": QUANTIZERS, "bodies": BODIES,
    "adapter_starts": ADAPTER_STARTS, "methods": POST_TRAINING, "token_weights": TOKEN_WEIGHTS,
    "corrections": CORRECTIONS, "corpora": CORPORA, "tasks": TASKS, "oracles": ORACLES,
    "phrase_plans": PHRASES, "metrics": METRICS}


def completed(config: TrialConfig) -> TrialConfig:
    """The trial with the parameters of its backbone and process written out. Raises `UserError` for one
    that is not legal."""
    return config.model_copy(update={"model": BACKBONES.completed(config.model),
                                     "diffusion": PROCESSES.completed(config.diffusion)})
