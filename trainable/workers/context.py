"""What a job may know of the process that it runs in. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainable.storage.depot import Depot
from trainable.storage.folders import verified


@dataclass
class WorkerContext:
    """One worker of a group. `cache` lives as long as the process: read-only objects only.
    `depot`: where nodes share no folder."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1
    cpus: int = 1
    cache: dict[Any, Any] = field(default_factory=dict)
    depot: Depot | None = None

    def present(self, folder: Path) -> bool:
        """Whether something that trials share is made already. All ranks answer alike; only rank 0 looks at its bytes (and
        moves a damaged folder aside)."""
        if self.depot is not None:
            return self.depot.present(folder)
        return verified(folder) if self.rank == 0 else folder.exists()
