"""`TrialConfig`: every setting of one trial, typed, frozen and JSON round-trippable.

A space (`spaces.schema`) gives some of these settings fixed values and searches others by their dotted path,
such as `quantization.quantizer.name`. Nothing here imports torch, Ray or Optuna.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from spaces.adapting import AdaptConfig
from spaces.settings import OptimConfig, PluginRef, Settings, of_teacher

Site = Literal["embedding", "projection", "attention", "ffn"]
SITES: tuple[Site, ...] = ("embedding", "projection", "attention", "ffn")
MIXED: tuple[Site, ...] = ("attention", "ffn")
"""The sites that may have bit-widths of their own in a member of a supernet (`adapt.mixtures`)."""


class CorpusConfig(Settings):
    """The text: which corpus plug-in, and how it becomes fixed-length token ids."""

    source: PluginRef = Field(PluginRef(name="restaurant"),
                              description="the corpus plug-in and its parameters")
    max_length: int = Field(64, ge=8, le=512, description="positions per sentence, START and END included")
    min_count: int = Field(10, ge=0, description="a word is in the vocabulary when seen more often than this")
    tokenizer: str | None = Field(None, description="folder of a Hugging Face tokenizer: ids are of its "
                                                    "tokens, texts stay words; null: ids are of words")
    tokens: Literal["all", "seen"] = Field(
        "all", description="with a tokenizer, what the vocabulary has of its tokens: all, or those that "
                           "training text has more often than min_count")
    mask: str | None = Field(None, description="with a tokenizer: the token of it that is MASK; new: a row "
                                               "of its own; null: the one that it names")
    language: str = Field("auto", pattern=r"^(auto|[a-z]{2,3})$",
                          description="ISO 639 code of the text's language (en, de): control oracles that "
                                      "cannot read it are refused; auto: told from its commonest words")
    warn_left_out: float = Field(0.05, ge=0, le=1,
                                 description="share of a split's texts, too long or without words, beyond "
                                             "which a run warns")
    refuse_left_out: float = Field(0.5, ge=0, le=1, description="share beyond which it does not begin")
    warn_unknown: float = Field(0.05, ge=0,
                                le=1, description="share of a split's words that are outside the vocabulary "
                                                  "(UNK), beyond which a run warns")
    refuse_unknown: float = Field(0.3, ge=0, le=1, description="share beyond which it does not begin")


class BackboneRef(PluginRef):
    """The network, by name; a file without a name means the first one that there was."""

    name: str = "diffusion_lm"


class ProcessRef(PluginRef):
    """The noising process with its training loss, by name; a file without a name means the first
    one that there was."""

    name: str = "gaussian"


class TeacherConfig(Settings):
    """The autoregressive LM behind lm-score: a small GPT-2 trained on the corpus, an n-gram model counted
    in it, or any Hugging Face path."""

    name: Literal["gpt2", "kneser_ney"] = Field(
        "gpt2",
        description="gpt2: trained; kneser_ney: counts alone, modified Kneser-Ney, the same for every seed")
    order: int = Field(5, ge=1, le=8, description="kneser_ney: words of the longest n-gram")

    path: str | None = Field(None, description="HF folder or hub id; then nothing below is used")
    hidden: int = Field(128, ge=8, description="width; a multiple of heads")
    layers: int = Field(3, ge=1, description="transformer layers")
    heads: int = Field(4, ge=1, description="attention heads")
    optim: Annotated[OptimConfig, AfterValidator(of_teacher)] = OptimConfig(steps=1500, lr=3e-3, ema=0.0)


class QuantizationConfig(Settings):
    """Which quantizer acts where. `per_site` wins over `quantizer` on the sites that it names."""

    quantizer: PluginRef = Field(PluginRef(name="none"),
                                 description="the quantizer plug-in and its parameters")
    sites: tuple[Site, ...] = Field(("embedding",), description="where the quantizer acts")
    per_site: dict[Site, PluginRef] = Field({}, description="a quantizer of its own for a site")
    body: PluginRef = Field(PluginRef(name="float32"),
                            description="format of the trained body, adapter merged, at export")
    embedding_rms: float | None = Field(
        None, gt=0, description="RMS at which a trial stores rows of a normalized table: moves "
        "them in a fixed range, changes nothing else. null: as the base has them, 0.5")

    @model_validator(mode="after")
    def _body_once(self) -> QuantizationConfig:
        rounded: tuple[Site, ...] = ("attention", "ffn")
        twice = [site for site in rounded if self.at(site).name != "none"]
        if self.body.name != "float32" and twice:
            raise ValueError(f"body {self.body.name} rounds attention and ffn after training, "
                             f"and {self.at(twice[0]).name} "
                             f"is on site {twice[0]} while training: keep one of the two")
        return self

    def at(self, site: Site) -> PluginRef:
        """The quantizer that acts on `site`; `none` where nothing is asked for."""
        if site in self.per_site:
            return self.per_site[site]
        return self.quantizer if site in self.sites else PluginRef(name="none")


CalibratedSite = Literal["projection", "attention", "ffn"]
BitsKey = Annotated[str, StringConstraints(pattern=r"^(projection|attention|ffn)(_\d{1,4})?$")]
Bits = Annotated[int, Field(ge=1, le=8)]


class CalibrationConfig(Settings):
    """Post-training quantization of Linears, after a trial has trained or instead of it."""

    method: PluginRef = Field(
        PluginRef(name="none"), description="how weights are rounded, with its bits and groups")
    transforms: tuple[PluginRef, ...] = Field(
        (), description="what is done to weights and inputs before the rounding, first to last: awq, "
                        "smoothquant, rotation")
    bits: dict[BitsKey, Bits] = Field(
        {}, description="weight bits of a site (ffn), or of one block of it (ffn_0), instead of the "
                        "method's; searched as calibration.bits.ffn_0")
    source: Literal["clean", "corrupted", "rollout", "rollout_quota"] = Field(
        "corrupted", description="what the model is calibrated on: training text as it is; the same at all "
                                 "noise levels; states of its own generations, all alike or by quotas of the "
                                 "noise level (TMAS)")
    token_weight: PluginRef = Field(
        PluginRef(name="uniform"), description="how much a token counts in second moments")
    texts: int = Field(96, ge=1, description="calibration states, each a text at one noise level; fewer "
                                             "below the top rung of a trial that does not train")
    levels: int = Field(8, ge=1, description="noise levels that corrupted texts are spread over")
    sites: tuple[CalibratedSite, ...] = Field(("attention", "ffn"), description="whose Linears are rounded")
    activation_bits: Literal[4, 8, 16] = Field(
        16, description="of the inputs of those Linears, a scale per token; 16 = not rounded")
    activation_range: Literal["dynamic", "static"] = Field(
        "dynamic", description="range of rounded inputs: dynamic: each token's own; static: one a layer, "
                               "found in calibration")
    intervals: int = Field(
        1, ge=1, le=16, description="equal intervals of the noise level, each with static ranges and numbers "
                                    "of corrections of its own")
    corrections: tuple[PluginRef, ...] = Field(
        (), description="what is corrected beyond the rounding of weights: interval_scales, state_clip, "
                        "softmax_bias, ia_aq, tac")
    offload: bool | None = Field(
        None, description="weights stay in the host's memory, and one block is on the device at a time while "
                          "it is calibrated; null: where a GPU has no room for the whole")
    seed: int | None = Field(
        None, ge=0, description="of the calibration texts and their noise; null: the trial's seed")

    def bits_at(self, site: str, block: int | None) -> int | None:
        """Weight bits of the Linears of a site in a block, where they have their own; a block's win."""
        return self.bits.get(f"{site}_{block}", self.bits.get(site))

    @property
    def active(self) -> bool:
        """Whether anything is rounded."""
        return self.method.name != "none" or self.activation_bits < 16 or bool(self.corrections)

    def problem(self, quantization: QuantizationConfig) -> str | None:
        """Why both cannot act on one model, in one line; None where they can."""
        if not self.active:
            return None
        name = self.method.name if self.method.name != "none" else (
            f"activation_bits {self.activation_bits}" if self.activation_bits < 16
            else f"corrections {', '.join(ref.name for ref in self.corrections)}")
        for site in self.sites:
            if quantization.at(site).name != "none":
                return (f"calibration ({name}) and quantizer {quantization.at(site).name} would both round "
                        f"site {site}; keep one of the two")
        if quantization.body.name != "float32":
            return (f"calibration ({name}) and quantization.body {quantization.body.name} both round after "
                    f"training; keep one")
        return None


class LoraConfig(Settings):
    """Low-rank adapter on the body (peft). Rank 0 = no adapter."""

    rank: int = Field(0, ge=0, description="0 = no adapter")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / rank")
    variant: Literal["lora", "rslora", "dora"] = Field(
        "lora", description="rslora: scaled by alpha / sqrt(rank) instead; dora: the adapter turns rows of "
                            "the weight, and their lengths are learned apart")
    targets: tuple[Literal["query", "key", "value", "output", "ffn"], ...] = Field(
        ("query", "value"), description="matrices of the body that get an adapter"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input of the adapter, while training")
    intervals: int = Field(
        1, ge=1, le=16, description="equal intervals of the noise level, each with an adapter of its own, "
                                    "chosen by the level of each row; 1: one for all levels")
    start: PluginRef = Field(
        PluginRef(name="zero"), description="where the adapter begins: adding nothing, or repairing what "
                                            "quantizers of its layers do, on calibration texts")


class RuntimeConfig(Settings):
    """How the arithmetic is done."""

    precision: Literal["fp32", "bf16"] = Field("fp32", description="of matrix products; weights stay fp32")
    compile: bool = Field(False, description="torch.compile of training steps, on CUDA; nothing on a CPU")


class SamplingConfig(Settings):
    """Generation."""

    sampler: PluginRef = Field(PluginRef(name="ancestral"),
                               description="the sampler plug-in and its parameters")
    steps: int = Field(50, ge=1, le=10_000, description="denoising steps, at most diffusion.timesteps")
    temperature: float = Field(1.0, gt=0,
                               description="of the token posterior in ce models and of the final rounding")
    clamp: bool = Field(
        True, description="published clamping: predicted x0 replaced by its nearest embedding (mse)")


class GuidanceConfig(Settings):
    """How generation is led to a control target."""

    by: Literal["gradient", "classifier_free", "both", "reweight"] = Field(
        "gradient", description="gradient: of the task's loss, latents; classifier_free: "
                                "a model with model.conditions is "
        "told the target; both; reweight: masked diffusion, what is asked for is kept or weighs on each word")
    power: float = Field(1.0, ge=0, description="reweight: exponent of a task's weights on words")
    repairs: int = Field(0, ge=0, le=1000,
                         description="reweight: times that texts which their oracle finds short of "
                                     "the target are masked in part and filled in anew")
    phrases: PluginRef = Field(PluginRef(name="bank"), description="reweight: how phrases of a target "
                                                                   "come into a text")
    scale: float = Field(1.0, ge=0, description="classifier-free guidance: (1 + scale) "
                                                "x told - scale x untold; 0: told alone")
    optimizer: Literal["sign", "adagrad"] = Field(
        "sign", description="adagrad: its state lives from the first guided step to the last; sign: "
        "a new Adagrad for every update, as released, which moves by strength times the gradient's sign")
    strength: float = Field(0.1, ge=0, description="step size of one inner update")
    inner_steps: int = Field(3, ge=0, le=1000,
                             description="gradient steps per denoising step; 0 = no guidance")
    fluency: float = Field(0.05, ge=0, description="weight of the pull back to the denoiser's own mean")
    start: float = Field(0.0, ge=0, le=1,
                         description="first share of the denoising steps that is left unguided")
    stop: float = Field(0.05, ge=0, le=1,
                        description="last share of the denoising steps that is left unguided")
    candidates: int = Field(1, ge=1, le=1000,
                            description="sentences per target; the one with the highest BLEU "
                                        "against the others is kept (minimum Bayes risk)")


class EvaluationConfig(Settings):
    """How much is measured. Every count is per rung at the top rung; lower rungs use `rung_share` of it."""

    samples: int = Field(128, ge=4, description="generated sentences for perplexity and diversity")
    heldout: int = Field(256, ge=4, description="held-out sentences for nll_bound")
    times: int = Field(16, ge=1, description="noise levels per held-out sentence for nll_bound")
    metrics: tuple[str, ...] | None = Field(
        None, description="metrics to measure beside those that objectives and constraints name and those "
                          "that cost little; null outside a search: all")
    control_tasks: tuple[PluginRef, ...] = Field(
        (PluginRef(name="length"), PluginRef(name="semantic")),
        description="control tasks behind controllability"
    )
    control_samples: int = Field(32, ge=1, description="controlled sentences per task")
    guidance: GuidanceConfig = GuidanceConfig()
    latency_batch: int = Field(8, ge=1, description="sentences generated at once when timing")
    latency_repeats: int = Field(9, ge=2, description="timed generations")
    rung_share: float = Field(0.5, gt=0, le=1, description="share of the counts used below the top rung")
    seed: int | None = Field(None, ge=0, description="of the sampling noise and of the fixed times and noise "
                                                     "of nll_bound; null: the trial's seed")


class BaseConfig(Settings):
    """The full-precision model that trials start from, trained once per corpus, model and
    diffusion setting."""

    path: str | None = Field(
        None,
        description="what trials start from, nothing trained: an artifact, or a Hugging Face checkpoint "
                    "(BERT, ModernBERT, Llama, Qwen2, LLaDA, Dream)")
    start: str | None = Field(
        None,
        description="what training begins with: body and shared words of an artifact of another corpus, or "
                    "of a Hugging Face checkpoint")
    optim: OptimConfig = OptimConfig(steps=5000, lr=5e-3, ema=0.995)
    seed: int = Field(0, ge=0, description="of the initial weights, the batches and the noise")


class TrialConfig(Settings):
    """Everything that decides what one trial computes."""

    seed: int = Field(0, ge=0, description="of the adapter, the batches and the noise of a trial")
    corpus: CorpusConfig = CorpusConfig()
    model: BackboneRef = Field(BackboneRef(), description="the backbone plug-in and its parameters")
    diffusion: ProcessRef = Field(ProcessRef(),
                                  description="the diffusion process plug-in and its parameters")
    teacher: TeacherConfig = TeacherConfig()
    base: BaseConfig = BaseConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    lora: LoraConfig = LoraConfig()
    adapt: AdaptConfig = AdaptConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _goes_together(self) -> TrialConfig:
        problem = self.problem
        if problem:
            raise ValueError(problem)
        return self

    @property
    def problem(self) -> str | None:
        """Why groups of settings do not go together, in one line; None where they do."""
        if self.corpus.tokenizer is None and (self.corpus.mask is not None or self.corpus.tokens != "all"):
            return "corpus.mask and corpus.tokens are of a tokenizer, and corpus.tokenizer is null"
        if self.adapt.mode == "supernet" and (problem := self._no_member()):
            return problem
        if self.lora.variant == "dora" and self.lora.dropout and self.adapt.hold == "codes":
            return (f"lora.dropout={self.lora.dropout:g} under lora.variant: dora would keep a float copy of "
                    "every weight, and adapt.hold is codes; legal: lora.dropout: 0, or adapt.hold: floats")
        if self.lora.intervals > 1 and self.lora.rank and (problem := self._no_intervals()):
            return problem
        if not self.adapt.train and self.lora.rank:
            return f"lora.rank={self.lora.rank} needs training, and adapt.train is false; legal: lora.rank: 0"
        return self.calibration.problem(self.quantization)

    def _no_member(self) -> str | None:
        """Why the supernet of `adapt` has no such model, in one line."""
        rank, quantizer = self.lora.rank, self.quantization.quantizer
        if self.lora.variant != "lora":
            return (f"lora.variant={self.lora.variant}: a supernet's adapters are plain ones, whose prefixes "
                    "are plain again; legal: lora.variant: lora")
        if rank not in self.adapt.ranks:
            return (f"lora.rank={rank} is not among the supernet's; "
                    f"legal: {', '.join(map(str, self.adapt.ranks))} (adapt.ranks)")
        bits = quantizer.params.get("bits")
        if bits is not None and bits not in self.adapt.bits:
            return (f"quantization.quantizer.bits={bits} is not among the supernet's; "
                    f"legal: {', '.join(map(str, self.adapt.bits))} (adapt.bits)")
        if self.adapt.mixtures:
            return self._no_mixture()
        if all(self.quantization.at(site) != quantizer for site in MIXED):
            return ("a supernet's bit-widths are quantization.quantizer's, which acts neither on attention "
                    "nor on ffn; legal: quantization.sites with one of the two")
        return None

    def _no_intervals(self) -> str | None:
        """What cannot be beside adapters that differ between intervals of the noise level, in one line."""
        asked = f"lora.intervals={self.lora.intervals}"
        if self.adapt.mode == "supernet":
            return f"{asked}: a supernet's adapters are for all noise levels; legal: lora.intervals: 1"
        if self.lora.variant == "dora" or self.lora.start.name == "apiq":
            what = "variant: dora" if self.lora.variant == "dora" else "start: apiq"
            return (f"{asked}: lora.{what} reads one weight for all noise levels; legal: lora.intervals: 1, "
                    "or another")
        if self.quantization.body.name != "float32" or self.calibration.active:
            what = "calibration" if self.calibration.active else "quantization.body"
            return (f"{asked}: {what} rounds merged weights after training, and these adapters are never "
                    "merged; legal: lora.intervals: 1, or a quantizer on attention and ffn")
        return None

    def _no_mixture(self) -> str | None:
        """Why the supernet of `adapt`, whose sites may differ in bits, has no such model, in one line."""
        family = self.quantization.quantizer.name
        for site in MIXED:
            ref = self.quantization.at(site)
            if ref.name != family:
                return (f"adapt.mixtures: {site} has quantizer {ref.name}, and a mixture's sites are of "
                        f"quantization.quantizer ({family}), each with its own bits; legal: "
                        f"quantization.sites: [attention, ffn]")
            if (bits := ref.params.get("bits", self.adapt.bits[0])) not in self.adapt.bits:
                return (f"quantization.per_site.{site}.bits={bits} is not among the supernet's; "
                        f"legal: {', '.join(map(str, self.adapt.bits))} (adapt.bits)")
        for site in SITES:
            if site in self.quantization.sites and site not in MIXED + tuple(self.quantization.per_site):
                return (f"adapt.mixtures: bits are drawn for {' and '.join(MIXED)}, and {site} would follow "
                        f"one of them; legal: a quantizer of its own (quantization.per_site.{site})")
        return None

    @property
    def calibration_seed(self) -> int:
        """Of calibration texts and noise: `calibration.seed`, or the trial's own where that is left open."""
        return self.seed if self.calibration.seed is None else self.calibration.seed

    @property
    def evaluation_seed(self) -> int:
        """Of targets and sampling noise: `evaluation.seed`, or the trial's own where that is left open."""
        return self.seed if self.evaluation.seed is None else self.evaluation.seed


class HardwareConfig(Settings):
    """What one trial holds while it runs."""

    workers: int = Field(1, ge=1, description="Ray Train workers per trial (DDP when above 1)")
    cpus: float = Field(1, gt=0, description="CPUs per worker; torch threads follow it")
    gpus: float = Field(0, ge=0, description="GPUs per worker")
