"""What a job may know of the process that it runs in. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spaces.errors import UserError
from trainable.storage.depot import Depot
from trainable.storage.folders import verified
from trainable.storage.window import Window


@dataclass
class WorkerContext:
    """One worker of a group. `cache` lives as long as the process: read-only objects only.
    `depot`: where nodes share no folder. `window`: in which times are taken on this node; rank 0 of a group
    answers for it, since another that waited at the gate would keep all in a collective operation. `spare`:
    how many CPUs of this node idle and may be used until it is asked again."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1
    cpus: int = 1
    cache: dict[Any, Any] = field(default_factory=dict)
    depot: Depot | None = None
    window: Window = field(default_factory=lambda: Window(None))
    spare: Callable[[], int] = lambda: 0

    def present(self, folder: Path) -> bool:
        """Whether something that trials share is made already, for this worker. For jobs of rank 0 alone.

        Moves a damaged folder aside and raises `UserError`; with a depot, fetches what is not here.
        """
        return verified(folder) if self.depot is None else self.depot.present(folder)

    def agreed(self, folder: Path) -> bool:
        """The same for jobs of all ranks, which must all ask: rank 0 looks, all have its answer or its error.

        Ranks that looked for themselves could disagree, at different moments or on disks of their own; one
        would train and wait for the other, which went on.
        """
        return from_rank_0(lambda: self.present(folder), self.rank, self.world_size) and self._fetched(folder)

    def _fetched(self, folder: Path) -> bool:
        """Have here what rank 0 found, on a node that shares no folder with its own."""
        return self.rank == 0 or self.depot is None or self.depot.need(folder)


def from_rank_0(look: Callable[[], bool], rank: int, world_size: int) -> bool:
    """What `look` answers on rank 0, on every rank of the default group.

    An error is sent too, before it is raised: the others would wait for an answer that never comes.
    """
    if world_size == 1:
        return look()
    answer: list[bool | str | None] = [None]
    failed: Exception | None = None
    if rank == 0:
        try:
            answer = [look()]
        except Exception as error:
            failed, answer = error, [str(error) or type(error).__name__]
    dist.broadcast_object_list(answer, src=0)
    if failed is not None:
        raise failed
    if isinstance(answer[0], str):
        raise UserError(answer[0])
    return bool(answer[0])
