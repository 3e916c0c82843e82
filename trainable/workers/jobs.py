"""The jobs that a warm worker runs. A job is `job(payload, context) -> Iterator[dict]`; payloads and events are JSON-able.

Payload keys: `config` (a dumped TrialConfig); `cache` (folder) for the three prepare jobs, with `corpus` (folder) for
teacher and base; `prepared` {corpus, teacher, base}, `rungs` and `folder` for a trial; `artifact`, `prepared` and
`seed` for remeasure. Prepare jobs yield progress and last `{"progress": 1.0, "path": ...}`; a trial yields `{"ready": True}`
and then one measurement per rung; remeasure yields one measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spaces.config import TrialConfig
from trainable.stages.prepare import Prepared, check_targets, prepare_base, prepare_corpus, prepare_teacher
from trainable.stages.trial import remeasure, run_trial


def _config(payload: dict) -> TrialConfig:
    return TrialConfig.model_validate(payload["config"])


def corpus(payload: dict, context) -> Iterator[dict]:
    """Tokenize the corpus (one worker does, the others have nothing to do), and see that it gives every control target."""
    if context.rank == 0:
        config = _config(payload)
        for event in prepare_corpus(config, Path(payload["cache"]), context.present):
            if "path" in event:
                check_targets(config, Path(event["path"]))
            yield event


def teacher(payload: dict, context) -> Iterator[dict]:
    """Train the teacher."""
    if context.rank == 0:
        yield from prepare_teacher(_config(payload), Path(payload["cache"]), Path(payload["corpus"]), context.device,
                                   context.present)


def base(payload: dict, context) -> Iterator[dict]:
    """Train the base, over all workers of the group."""
    return prepare_base(_config(payload), Path(payload["cache"]), Path(payload["corpus"]), context.device,
                        context.rank, context.world_size, context.agreed)


def trial(payload: dict, context) -> Iterator[dict]:
    """Run one trial, over all workers of the group."""
    return run_trial(_config(payload), Prepared(**payload["prepared"]), payload["rungs"], Path(payload["folder"]),
                     context.device, context.cache, context.rank, context.world_size)


def remeasure_artifact(payload: dict, context) -> Iterator[dict]:
    """Re-measure an exported model."""
    if context.rank == 0:
        yield remeasure(Path(payload["artifact"]), Prepared(**payload["prepared"]), payload["seed"], context.device,
                        context.cache)


JOBS = {"corpus": corpus, "teacher": teacher, "base": base, "trial": trial, "remeasure": remeasure_artifact}
