"""Memory that a process has freed but keeps."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Hand what the C heap holds free back to the system (glibc; elsewhere nothing happens).

    Large tensors that are read, repacked and freed raise the size up to which glibc keeps memory for itself:
    after loading a 4-bit model a third of what the process held was free.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return
