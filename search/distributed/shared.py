"""How a trial comes by its corpus, teacher, base and supernet: it makes them, or waits for another trial
that does."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import cast

from search.distributed.client import GroupDiedError, JobError, PoolClient, get
from search.distributed.single_flight import SUFFIX, Answer
from spaces.errors import UserError
from trainable.messages import PreparePayload, Progress, SharedWord, TrialPayload

EVERY = 1.0
"""Seconds at least between two words on how far it is."""


def key(kind: str, settings: str, corpus: str = "") -> str:
    """The name of a shared thing: equal names, equal content. `corpus`: the folder of its corpus."""
    return f"{kind} {corpus} {settings}"


def prepared(client: PoolClient, owner: str, payload: TrialPayload) -> Generator[SharedWord, None, None]:
    """Have made what `payload["prepared"]` lacks, and fill it in. What the trial makes itself, it tells of:
    {"kind", "progress", "detail"} now and then, at the end {"kind", "seconds"} with "path" and facts, or with
    "failed".

    `payload["shared"]`: {"cache": folder, "settings": {kind: the settings that decide about it}}, the corpus
    first. Workers are held only while something is made. Raises JobError when something cannot be made,
    whoever tried; PoolError.
    """
    wanted = payload.get("shared")
    if not wanted:
        return
    paths = payload["prepared"]
    for kind, settings in wanted["settings"].items():
        if kind in paths:
            continue
        corpus = "" if kind == "corpus" else paths["corpus"]
        name = key(kind, settings, corpus)
        answer = get(client.broker.claim.remote(name, owner))
        if "make" in answer:
            job: PreparePayload = {"config": payload["config"], "cache": wanted["cache"]}
            if corpus:
                job["corpus"] = corpus
            if kind == "supernet":
                job["base"] = paths["base"]
            answer = yield from _make(client, owner, name, kind, job)
        if "failed" in answer:
            raise JobError(answer["failed"], answer.get("traceback", ""))
        paths[kind] = answer["path"]
        if "reference" in answer:
            paths["reference"] = answer["reference"]


def _make(client: PoolClient, owner: str, name: str, kind: str,
          job: PreparePayload) -> Generator[SharedWord, None, Answer]:
    """Run the job that makes it, twice if its workers die. {"path"} or {"failed"}; all learn it."""
    for last in (False, True):
        word: SharedWord = {}
        answer: SharedWord
        trace, begun = "", time.monotonic()
        try:
            with client.lease(owner + SUFFIX) as group:
                begun = told = time.monotonic()  # waiting for workers is not work
                for event in cast(Iterator[Progress], group.run(kind, job)):  # as every prepare job's
                    word = {"kind": kind, **event}
                    if time.monotonic() - told >= EVERY and "path" not in word:
                        told = time.monotonic()
                        yield word
            answer = {"path": word["path"]}
            if "reference" in word:
                answer["reference"] = word["reference"]
        except GroupDiedError as died:
            if not last:
                continue
            get(client.broker.withdraw.remote(owner))  # others that need it may be luckier
            raise JobError(f"{kind}: its workers died twice: {died}") from died
        except UserError as mistake:
            answer = {"failed": str(mistake)}
        except JobError as failed:
            answer, trace = {"failed": f"{kind}: {failed}"}, failed.traceback
        get(client.broker.settle.remote(name, answer))
        yield {**word, "kind": kind, "seconds": time.monotonic() - begun, **answer}
        return {**answer, "traceback": trace}
    raise AssertionError("unreachable")
