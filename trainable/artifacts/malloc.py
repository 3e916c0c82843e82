"""Memory that a process has freed but keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

MAPPED, LATER = 1 << 16, 3 << 17
"""Bytes from which on a block is a mapping of its own: inside `large_apart`, and after it."""
LARGEST = 1 << 25
"""Bytes from which on glibc never has a block in the heap."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def trim_heap() -> None:
    """Hand what the C heap holds free back to the system (glibc; elsewhere nothing happens).

    Large tensors that are read, repacked and freed raise the size up to which glibc keeps memory for itself:
    after loading a 4-bit model a third of what the process held was free.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return


def keep_heap() -> None:
    """From now on the C heap keeps what is freed, up to 64 MB at its end, as glibc itself does once a block
    of 32 MB was freed (elsewhere nothing differs). A process that computes the same again and again would
    else hand pages back after each step and be given them anew, zeroed, in the next."""
    _set(_MMAP_THRESHOLD, LARGEST)
    _set(_TRIM_THRESHOLD, 2 * LARGEST)


@contextmanager
def large_apart() -> Iterator[None]:
    """Inside, a large block is no part of the C heap, and gone when it is freed (glibc; elsewhere nothing
    differs). After it that holds of larger ones alone, to the end of the process.

    Large tensors that come and go leave holes in the heap between what stays. `trim_heap` hands their pages
    back, but what is computed later wanders through all holes, until every page is there again; glibc itself
    puts what is below 32 MB there once such a block was freed. To map a block costs time, which small ones,
    of which there are many, need not take.
    """
    _set(_MMAP_THRESHOLD, MAPPED)
    try:
        yield
    finally:
        _set(_MMAP_THRESHOLD, LATER)


def _set(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(option, value)
    except (OSError, TypeError, AttributeError):
        return
