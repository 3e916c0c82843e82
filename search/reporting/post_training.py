"""Post-training methods side by side: rows are methods with what they were calibrated on, columns are bits.

Only trials that ran to the full budget count: others measured fewer texts in fewer states.
"""

from __future__ import annotations

from collections.abc import Collection

COLUMNS = ("W4A16", "W3A16", "W2A16", "W8A8", "W4A8", "W4A4")
"""Bits of weights and of activations that papers print."""


def column(bits: Collection[int], activation_bits: int) -> str:
    """`W4A16`; where weights of parts differ in bits, `W2-4A16`."""
    return f"W{'-'.join(str(each) for each in sorted({min(bits), max(bits)}))}A{activation_bits}"
