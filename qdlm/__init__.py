"""qdlm in Python: search a space, read what was found, run an exported model.

Example:
    >>> import qdlm
    >>> space = qdlm.Space.from_dict({"search": {"lora.rank": {"int": [0, 8]}}, "budget": {"trials": 4},
    ...                               "objectives": {"perplexity": "minimize"}})
    >>> space.size()
    9

What is heavy is imported when it is first used (PEP 562); `load` needs neither Ray nor Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spaces.errors import RunError, UserError

if TYPE_CHECKING:
    from qdlm.callbacks import Callback
    from qdlm.generation import Model, load
    from qdlm.results import Run, open
    from qdlm.searching import run
    from search.engine.events import (
        EngineEvent,
        FrontChanged,
        PrepareProgress,
        RunFinished,
        RungMeasured,
        RunStarted,
        TrialFinished,
        TrialStarted,
        WarmStarted,
        WarningRaised,
    )
    from search.reporting.trials import Trial
    from spaces.schema import Space

HOMES = {
    "qdlm.callbacks": ("Callback",),
    "qdlm.generation": ("Model", "load"),
    "qdlm.results": ("Run", "open"),
    "qdlm.searching": ("run",),
    "search.engine.events": ("EngineEvent", "FrontChanged", "PrepareProgress", "RunFinished", "RunStarted",
                             "RungMeasured", "TrialFinished", "TrialStarted", "WarmStarted", "WarningRaised"),
    "search.reporting.trials": ("Trial",),
    "spaces.schema": ("Space",),
}
"""Module by module, the names that come from it when they are first asked for."""
_HOME_OF = {name: module for module, names in HOMES.items() for name in names}

__all__ = [
    "Callback", "EngineEvent", "FrontChanged", "Model", "PrepareProgress", "Run", "RunError", "RunFinished",
    "RunStarted", "RungMeasured", "Space", "Trial", "TrialFinished", "TrialStarted", "UserError",
    "WarmStarted", "WarningRaised", "load", "open", "run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("qdlm")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qdlm' has no attribute {name!r}")
    try:
        found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        from spaces.extras import of_search

        raise of_search(error) or error from None
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
