"""What trials share: tokenized corpus, teacher and base. Each is made once, under a name that is
the hash of its inputs.

Every function here is a generator: it yields `{"progress": 0..1, "detail": text}` while it works, and last
`{"progress": 1.0, "path": folder, ...facts}`. A folder that exists whole is not made again; `present` tells,
and may fetch it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spaces.config import OptimConfig, PluginRef, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.artifacts.packed import CONFIG, LEXICON
from trainable.control.conditions import Conditions, encode_conditions, symbols_of
from trainable.control.lexicon import Lexicon
from trainable.control.tag_shares import tag_shares
from trainable.corpora import shares, subwords
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TOKENS, TokenizedCorpus
from trainable.corpora.tokens import tokenizer_key
from trainable.models.pretrained.loading import is_checkpoint, opened
from trainable.registry import BACKBONES, CORPORA, PROCESSES, TASKS, completed
from trainable.scoring.kneser_ney import count_teacher
from trainable.scoring.teacher import train_teacher
from trainable.scoring.teachers import load_teacher
from trainable.seeds import stream, stream_seed
from trainable.stages.keys import base_settings, without_new_defaults
from trainable.storage.depot import TRAINING
from trainable.storage.folders import content_key, verified, whole_folder
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun
from trainable.training.threads import BorrowedThreads
from trainable.training.transfer import adopted, begin_from, start_key

Present = Callable[[Path], bool]
REPORT_EVERY = 100
CODE = 2
"""Raised when a change in the code makes older cache entries wrong."""
MIXED = 2
"""The same for bases with `diffusion.mixed_times`. 1: a text's place in the corpus decided on its times."""
_JUDGED = {"warn_left_out", "refuse_left_out", "warn_unknown", "refuse_unknown"}
"""Settings of a corpus that judge it and change nothing in it."""


@dataclass(frozen=True)
class Prepared:
    """Where a trial finds what it shares. `teacher` may be a Hugging Face id."""

    corpus: str
    teacher: str
    base: str
    supernet: str = ""
    """Of `adapt.mode: supernet` alone."""
    reference: str = ""
    """What latencies are told by: see `trainable.stages.reference`."""


def corpus_key(config: TrialConfig) -> str:
    """Depends on the text (its bytes, or the grammar's version) and on how it is cut."""
    source, corpus = CORPORA.build(config.corpus.source), config.corpus
    told = {"language"} if corpus.language == "auto" else set()
    cut = []
    if corpus.tokenizer is None:
        told |= {"tokenizer", "tokens", "mask"}
    else:
        told.add("tokenizer")
        cut = [TOKENS, tokenizer_key(corpus.tokenizer, corpus.mask)]
    return content_key(CODE, corpus.model_dump(mode="json", exclude={"source", *_JUDGED, *told}),
                       source.fingerprint(), *cut)


def teacher_key(config: TrialConfig) -> str:
    """Depends on the corpus in words, the teacher's settings and the seed that it starts from."""
    teacher = config.teacher.model_dump(mode="json")
    without_new_defaults(teacher["optim"])
    if config.teacher.name == "kneser_ney":
        teacher = {name: teacher[name] for name in ("name", "order")}
    else:
        del teacher["name"], teacher["order"]
    in_words = {"tokenizer": None, "tokens": "all", "mask": None}
    words = config.model_copy(update={"corpus": config.corpus.model_copy(update=in_words)})
    return content_key(CODE, corpus_key(words), teacher, config.base.seed)


def base_key(config: TrialConfig) -> str:
    """Bases differ by corpus, model, diffusion, base settings and the arithmetic they were trained in."""
    groups = base_settings(config)
    start = groups["base"].pop("start")
    if start:
        groups["base"]["start"] = start_key(start)
    if config.base.path is not None and is_checkpoint(config.base.path):
        groups["base"] = {"path": opened(config.base.path, "base.path")[0].key_of_content()}
    if groups["diffusion"].get("mixed_times"):
        groups["diffusion"]["times"] = MIXED
    return content_key(CODE, corpus_key(config), groups)


def prepare_corpus(config: TrialConfig, cache: Path, present: Present = verified) -> Iterator[dict]:
    """Tokenize the text to Arrow. The last event holds the corpus's shares and `warnings` about them;
    raises `UserError` where too little of the text is left."""
    folder = cache / f"corpus-{corpus_key(config)}"
    if not present(folder):
        yield {"progress": 0.0, "detail": f"tokenizing {config.corpus.source.name}"}
        with whole_folder(folder) as aside:
            (build if config.corpus.tokenizer is None else subwords.build)(config.corpus, aside)
            tokenized = TokenizedCorpus.open(aside)
            (aside / LEXICON).write_text(json.dumps(Lexicon.of(tokenized, tag_shares(tokenized)).to_json()))
    stats = TokenizedCorpus.open(folder).stats
    shares.refuse(stats, config.corpus)
    yield {"progress": 1.0, "path": str(folder), **stats, "warnings": shares.warnings(stats, config.corpus)}


def check_targets(config: TrialConfig, corpus: Path) -> None:
    """Draw the targets that trials will be asked for, before anything is trained for them.
    Raises `UserError`: a line of a target file that asks for a word, a field or a phrase that is not there,
    text that gives no target, a target that the model is never told."""
    tokenized, evaluation = TokenizedCorpus.open(corpus), config.evaluation
    for ref in evaluation.control_tasks:
        task = TASKS.build(ref)
        task.check_file(tokenized, stream("check", task.name))
        # as the metric draws them
        noise = stream("evaluation", f"control/{task.name}", config.evaluation_seed)
        targets = task.targets(tokenized, evaluation.control_samples, noise)
        if task.guidance(evaluation.guidance).by in ("classifier_free", "both"):
            symbols = symbols_of(condition_refs(config), lexicon_of(corpus))
            encode_conditions(task, targets, dict.fromkeys(symbols, 1), config.corpus.max_length)


def check_calibration(config: TrialConfig, corpus: Path) -> None:
    """Raises `UserError` where trials would calibrate on more texts than there are, before anything is
    trained for them."""
    calibration = config.calibration
    if calibration.active and not calibration.source.startswith("rollout"):
        there = len(TokenizedCorpus.open(corpus).ids("train"))
        if calibration.texts > there:
            raise UserError(f"calibration.texts: {calibration.texts} asked for, "
                            f"the training text has {there}")


def prepare_teacher(config: TrialConfig, cache: Path, corpus: Path, device: torch.device,
                    present: Present = verified) -> Iterator[dict]:
    """Train the autoregressive teacher, or count it, or check that the given Hugging Face one loads."""
    tokenized = TokenizedCorpus.open(corpus)
    if config.teacher.path:
        teacher = load_teacher(config.teacher.path, tokenized, device)
        yield {"progress": 1.0, "path": config.teacher.path, "name": teacher.name}
        return
    folder = cache / f"teacher-{teacher_key(config)}"
    if not present(folder):
        with whole_folder(folder) as aside:
            if config.teacher.name == "kneser_ney":
                yield from count_teacher(config.teacher.order, tokenized, aside, seed=config.base.seed)
            else:
                yield from train_teacher(config.teacher, tokenized, aside, device=device,
                                         seed=config.base.seed)
    facts = json.loads((folder / "teacher.json").read_text())
    yield {"progress": 1.0, "path": str(folder), **facts}


def prepare_base(config: TrialConfig, cache: Path, corpus: Path, device: torch.device,
                 rank: int = 0, world_size: int = 1, present: Present = verified,
                 threads: BorrowedThreads | None = None) -> Iterator[dict]:
    """Train the full-precision model and export it (averaged weights) as an artifact of its own. A run
    that is killed leaves a checkpoint in the cache, from which the next one goes on. `threads`: of the
    training, where some may be borrowed."""
    if config.base.path and is_checkpoint(config.base.path):
        yield from _adopt(config, cache, corpus, rank, present)
        return
    if config.base.path:
        loaded = load(config.base.path)
        _check_base(config, loaded.config, TokenizedCorpus.open(corpus).vocab == loaded.lexicon.vocab)
        yield {"progress": 1.0, "path": config.base.path}
        return
    folder = cache / f"base-{base_key(config)}"
    if not present(folder):
        with threads or contextlib.nullcontext():
            yield from _train_base(config, folder, corpus, device, rank, world_size, threads)
    facts = json.loads((folder / CONFIG).read_text())["facts"] if rank == 0 else {}
    yield {"progress": 1.0, "path": str(folder), **facts}


def _adopt(config: TrialConfig, cache: Path, corpus: Path, rank: int, present: Present) -> Iterator[dict]:
    """A Hugging Face checkpoint as an artifact in the cache; nothing is trained."""
    folder = cache / f"base-{base_key(config)}"
    if not present(folder) and rank == 0:
        yield {"progress": 0.0, "detail": f"reading {config.base.path}"}
        lexicon = lexicon_of(corpus)
        model, facts = adopted(config, TokenizedCorpus.open(corpus), lexicon)
        export(model, _of_base(config), lexicon, folder, facts)
    yield {"progress": 1.0, "path": str(folder)}


def _of_base(config: TrialConfig) -> TrialConfig:
    """The settings that a base is exported with."""
    return TrialConfig(**completed(config).model_dump(include={"corpus", "model", "diffusion", "base",
                                                               "runtime", "sampling"}))


def lexicon_of(corpus: Path) -> Lexicon:
    """What control needs of a prepared corpus."""
    return Lexicon.from_json(json.loads((corpus / LEXICON).read_text()))


def condition_refs(config: TrialConfig) -> Sequence[PluginRef]:
    """The control tasks whose targets the model is told while it trains."""
    return getattr(BACKBONES.params(config.model), "conditions", ())


def conditions_of(config: TrialConfig, corpus: Path) -> Conditions | None:
    """What the model is told of the training texts, kept beside the prepared corpus; None where it
    is told nothing."""
    refs = condition_refs(config)
    if not refs:
        return None
    folder = (corpus.parent
              / f"conditions-{content_key(CODE, corpus.name, [ref.model_dump(mode='json') for ref in refs])}")
    if not verified(folder):
        with whole_folder(folder) as aside:
            Conditions.write(refs, TokenizedCorpus.open(corpus), lexicon_of(corpus), aside)
    return Conditions.open(folder, PROCESSES.build(config.diffusion).params.condition_drop)


def _train_base(config: TrialConfig, folder: Path, corpus_folder: Path, device: torch.device, rank: int,
                world_size: int, between: Callable[[], None] | None) -> Iterator[dict[str, Any]]:
    corpus = TokenizedCorpus.open(corpus_folder)
    optim, seed = config.base.optim, config.base.seed
    config = completed(config)
    backbone, process = BACKBONES.get(config.model.name), PROCESSES.build(config.diffusion)
    symbols = symbols_of(condition_refs(config), lexicon_of(corpus_folder)) if condition_refs(config) else ()
    model = backbone.from_config(BACKBONES.params(config.model), process.params, corpus.vocab,
                                 seed=stream_seed("base", seed), symbols=symbols).to(device)
    begun = begin_from(model, config, corpus) if config.base.start else {}
    if symbols:
        yield {"progress": 0.0, "detail": "what the model is told of each text"}
    run = TrainingRun(model, process, corpus.ids("train"), optim, config.runtime, seed, device, rank,
                      world_size, conditions_of(config, corpus_folder))
    run.between = between
    checkpoint = Checkpoint(folder.with_name(f".{folder.name}{TRAINING}"), run)
    if checkpoint.restore():
        yield {"progress": run.step / optim.steps, "detail": f"going on from step {run.step:,}"}
    parts: dict[str, float] = {}
    while run.step < optim.steps:
        checkpoint.save_when_due()
        try:
            parts = run.advance(min(run.step + REPORT_EVERY, optim.steps))
        except FloatingPointError as error:
            checkpoint.drop()
            raise diverged(error, "base", optim) from error
        yield {"progress": run.step / optim.steps,
               "detail": f"step {run.step:,}, loss {parts['train_loss']:.3f}", **parts}
    if not all(bool(value.isfinite().all()) for value in (*run.trained.values(), *run.average.values())):
        checkpoint.drop()
        raise diverged(f"weights that are not finite after step {run.step:,}", "base", optim)
    if rank:
        return
    with run.averaged():
        model.finish_base()
        facts = {"steps": run.step, "train_seconds": run.seconds, "workers": world_size, "seed": seed,
                 **parts, **begun}
        export(model, _of_base(config), lexicon_of(corpus_folder), folder, facts)
    checkpoint.drop()


def diverged(what: object, group: str, optim: OptimConfig) -> UserError:
    """Training came to nothing finite: what happened, and the settings under `group` to change."""
    clip = f"set {group}.optim.clip above 0" if not optim.clip else f"lower {group}.optim.clip={optim.clip:g}"
    return UserError(f"{group}: training diverged ({what}); lower {group}.optim.lr={optim.lr:g}, raise "
                     f"{group}.optim.warmup={optim.warmup} or {clip}")


def _check_base(config: TrialConfig, base: TrialConfig, same_words: bool) -> None:
    config = completed(config)
    for group in ("model", "diffusion"):
        ours, theirs = (getattr(one, group).model_dump(mode="json") for one in (config, base))
        unlike = [key for key in ours if ours[key] != theirs.get(key) and not key.startswith("pretrained")]
        if unlike:
            key = unlike[0]
            raise UserError(f"base.path: {config.base.path} has {group}.{key}={theirs.get(key)!r}, "
                            f"the space asks for {ours[key]!r}")
    if not same_words:
        raise UserError(f"base.path: {config.base.path} was trained on another vocabulary than this "
                        "corpus has")
