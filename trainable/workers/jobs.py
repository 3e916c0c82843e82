"""The jobs that a warm worker runs. A job is `job(payload, context) -> Iterator[JobEvent]`; payloads and
events are JSON-able and stand in `trainable.messages`.

Prepare jobs yield their progress, the last time with the folder that they made; a trial is ready, and then
yields a result per rung; remeasure yields one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from spaces.config import TrialConfig
from trainable.messages import (
    PreparePayload,
    Progress,
    Ready,
    RemeasurePayload,
    RungResult,
    SensitivityPayload,
    TrialPayload,
)
from trainable.stages.prepare import (
    Prepared,
    check_calibration,
    check_targets,
    prepare_base,
    prepare_corpus,
    prepare_teacher,
)
from trainable.stages.reference import reference, times_wanted
from trainable.stages.sensitivity import prepare_sensitivity
from trainable.stages.supernet import prepare_supernet
from trainable.stages.trial import remeasure, run_trial
from trainable.training.threads import BorrowedThreads
from trainable.workers.context import WorkerContext


def load_adapters() -> None:
    """What the first trial with an adapter would wait seconds for."""
    importlib.import_module("peft")


def _config(payload: PreparePayload | TrialPayload | SensitivityPayload) -> TrialConfig:
    return TrialConfig.model_validate(payload["config"])


def corpus(payload: PreparePayload, context: WorkerContext) -> Iterator[Progress]:
    """Tokenize the corpus (one worker does, the others have nothing to do), and see that it gives every
    control target."""
    if context.rank == 0:
        config = _config(payload)
        for event in prepare_corpus(config, Path(payload["cache"]), context.present):
            if "path" in event:
                check_targets(config, Path(event["path"]))
                check_calibration(config, Path(event["path"]))
            yield cast(Progress, event)


def teacher(payload: PreparePayload, context: WorkerContext) -> Iterator[Progress]:
    """Train the teacher."""
    if context.rank == 0:
        trained = False
        for event in prepare_teacher(_config(payload), Path(payload["cache"]), Path(payload["corpus"]),
                                     context.device, context.present):
            trained = trained or event["progress"] < 1
            yield cast(Progress, event)
        if trained:  # most often the base, trained beside it, takes longer
            load_adapters()


def base(payload: PreparePayload, context: WorkerContext) -> Iterator[Progress]:
    """Train the base, over all workers of the group, and see what it takes where latency is asked for. A
    single worker on a CPU may be lent those that idle."""
    config, cache = _config(payload), Path(payload["cache"])
    borrows = payload.get("borrow", False) and context.world_size == 1 and context.device.type == "cpu"
    threads = BorrowedThreads(context.cpus, context.spare) if borrows else None
    for event in prepare_base(config, cache, Path(payload["corpus"]), context.device,
                              context.rank, context.world_size, context.agreed, threads):
        if "path" in event and context.rank == 0 and times_wanted(config):
            found = reference(config, cache, Path(event["path"]), context.device, context.window)
            event = {**event, "reference": found.text()}
        yield cast(Progress, event)


def supernet(payload: PreparePayload, context: WorkerContext) -> Iterator[Progress]:
    """Train the supernet that a trial is a member of, over all workers of the group."""
    prepared = Prepared(payload["corpus"], "", payload["base"])
    events = prepare_supernet(_config(payload), prepared, Path(payload["cache"]), context.device,
                              context.rank, context.world_size, context.agreed)
    return cast(Iterator[Progress], events)


def sensitivity(payload: SensitivityPayload, context: WorkerContext) -> Iterator[Progress]:
    """Measure what each part of a base loses at each number of bits."""
    if context.rank == 0:
        corpus, base = Path(payload["corpus"]), Path(payload["base"])
        for folder in (corpus, base):
            context.present(folder)  # fetches what another node made
        yield from cast(Iterator[Progress], prepare_sensitivity(
            _config(payload), payload["choices"], Path(payload["cache"]), corpus, base, context.device,
            context.present))


def trial(payload: TrialPayload, context: WorkerContext) -> Iterator[Ready | RungResult]:
    """Run one trial, over all workers of the group."""
    events = run_trial(_config(payload),
                       Prepared(**payload["prepared"]), payload["rungs"], Path(payload["folder"]),
                       context.device, context.cache, context.rank, context.world_size, context.window)
    return cast(Iterator[Ready | RungResult], events)


def remeasure_artifact(payload: RemeasurePayload, context: WorkerContext) -> Iterator[RungResult]:
    """Re-measure an exported model."""
    if context.rank == 0:
        values = remeasure(Path(payload["artifact"]), Prepared(**payload["prepared"]), payload["seed"],
                           context.device, context.cache, context.window)
        yield cast(RungResult, values)


JOBS = {"corpus": corpus, "teacher": teacher, "base": base, "supernet": supernet, "sensitivity": sensitivity,
        "trial": trial, "remeasure": remeasure_artifact}
