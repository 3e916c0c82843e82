"""Imports without Python's garbage collector.

What modules make never dies, yet each few hundred new objects set off another pass through the young ones:
a tenth of the time of `import torch` (docs/log.md).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Inside, nothing is collected; what was imported is left out of later collections, too. So is all else
    that lives by then, and cycles that become garbage later are not freed: for the beginning of a process."""
    on, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:  # else what is frozen would be other things, garbage among them
            gc.freeze()
        if on:
            gc.enable()
