"""A search that is driven by the cluster that carries it, reached by `ray://HOST:PORT` and by nothing else.

Tune and Train drive a cluster from inside, so the search itself runs there, as a task; its events,
and at the end its result, come back. Paths (storage, data, models) are the cluster's. A client that vanishes
takes the task with it; the run folder stays, and `--resume` goes on. For a search that outlives its terminal,
send a job: `ray job submit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from spaces.errors import RunError, UserError

Event = Mapping[str, Any]
Work = Callable[[Any, Callable[[Event], None]], Any]


def run(address: str, work: Work, request: Any, observer: Callable[[Event], None]) -> Any:
    """What `work(request, tell)` returns there. Its `UserError`, `RunError` and KeyboardInterrupt are
    raised here as such."""
    from search.distributed import client_task

    kind, found = client_task.call(address, partial(_as_outcome, work), request, observer)
    if kind == "interrupted":
        raise KeyboardInterrupt
    if kind == "done":
        return found
    raise {"mistake": UserError, "breakdown": RunError}[kind](found)


def _as_outcome(work: Work, request: Any, tell: Callable[[Event], None]) -> tuple[str, Any]:
    """`work`, with what is told in one line as a value: Ray would wrap it into tracebacks."""
    try:
        return "done", work(request, lambda event: tell(dict(event)))
    except KeyboardInterrupt:
        return "interrupted", None
    except UserError as error:
        return "mistake", " ".join(str(error).split())
    except RunError as error:
        return "breakdown", " ".join(str(error).split())
