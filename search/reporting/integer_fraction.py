"""Does a fraction bit beat an integer bit, and is it the range that decides? The answer that
a run's formats give.

A split of `fixed` or `pow2` is too narrow where it clips below `REACH` times the RMS of the table, and
(`fixed` only, since the steps of `pow2` shrink with the value) too coarse where its step exceeds `RESOLVES`
times that RMS. If it is the range that decides, splits inside both bounds cost little whichever bits they
have, and all others much.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.reporting.quantizers import Arm, interval, unquantized, values_of

FAMILIES = ("fixed", "pow2")
REACH, RESOLVES = 1.5, 0.5
"""Least clip and largest step, in RMS of the table, of a format that counts as in range."""
_SITES = re.compile(r"sites=([\w+]+)")
_FORMAT = re.compile(r"(fixed|pow2):Q(\d+)i(\d+)f")


@dataclass
class Splits:
    """The integer/fraction splits of one family on one place: nats a word above the unquantized
    arm, by seed."""

    family: str
    rest: str
    rms: float
    """RMS of the unquantized table; NaN where it was not measured or the quantizer acts elsewhere too."""
    costs: dict[tuple[int, int], dict[Any, float]] = field(default_factory=dict)
    """(integer bits, fraction bits) -> seed -> cost."""

    @property
    def title(self) -> str:
        """Family and what else was chosen."""
        return f"{self.family}, {self.rest}" if self.rest else self.family

    def mean(self, split: tuple[int, int]) -> float:
        """Cost of a split, mean over its seeds."""
        return statistics.fmean(self.costs[split].values())

    def fault(self, split: tuple[int, int]) -> str:
        """Where a split lies beside the RMS of the table: `in range`, `too narrow`, `too coarse` or
        `neither` (both)."""
        i, f = split
        if self.family == "fixed":
            clip, step = 2.0**i, 2.0**-f
        else:
            clip, step = (2.0 ** (i - 1) if i else 0.0) + (1 - 2.0**-f if f else 0.0), 0.0
        narrow, coarse = clip < REACH * self.rms, step > RESOLVES * self.rms
        return ("neither" if narrow and coarse else "too narrow" if narrow else "too coarse" if coarse
                else "in range")


def splits(found: Sequence[Arm]) -> list[Splits]:
    """Every family and place of which splits have finished, with an unquantized arm beside them."""
    made: dict[tuple[str, str], Splits] = {}
    for arm in found:
        match, plain = _FORMAT.fullmatch(arm.name), unquantized(arm, found)
        if match is None or plain is None:
            continue
        apart = {seed: row["nll_bound"] - plain.finals[seed]["nll_bound"] for seed, row in arm.finals.items()
                 if seed in plain.finals and all(isinstance(one.get("nll_bound"), int | float)
                                                 for one in (row, plain.finals[seed]))}
        place = _SITES.search(arm.rest)
        rms = values_of(plain, "embedding_rms") if place is None or place[1] == "embedding" else []
        one = made.setdefault((match[1], arm.rest),
                              Splits(match[1], arm.rest, statistics.fmean(rms or [math.nan])))
        if apart:
            one.costs[int(match[2]), int(match[3])] = apart
    return sorted((one for one in made.values() if one.costs),
                  key=lambda one: (one.rest, FAMILIES.index(one.family)))


def answer(found: Sequence[Arm]) -> list[str]:
    """Does a fraction beat an integer, under `fixed` and under `pow2`, and is it the range that decides?"""
    lines = [line for one in splits(found) for line in (_verdict(one), _range(one)) if line]
    return lines or ["fraction or integer: no `fixed` or `pow2` arm beside an unquantized one has finished"]


def _over_seeds(groups: Mapping[Any, Sequence[float]]) -> tuple[float, float]:
    """Mean and 95 % half-width over seeds of the mean in each."""
    return interval([statistics.fmean(values) for values in groups.values()])


def _apart(worse: Mapping[Any, Sequence[float]], better: Mapping[Any, Sequence[float]]) -> bool:
    """Whether, within seeds, one group costs more than the other beyond the interval (with
    one seed: at all)."""
    apart = [statistics.fmean(worse[seed]) - statistics.fmean(better[seed])
             for seed in worse.keys() & better.keys()]
    if not apart:
        return False
    mean, half = interval(apart)
    return mean > (half if math.isfinite(half) else 0.0)


def _cost_text(mean: float, half: float) -> str:
    return f"{mean:+.2f}" + (f" ± {half:.2f}" if math.isfinite(half) else "")


def _verdict(one: Splits) -> str:
    """Integer-only against fraction-only at equal bits."""
    bits = sorted(i for i, f in one.costs if f == 0 and (0, i) in one.costs)
    apart: dict[Any, list[float]] = {}
    for count in bits:
        integer, fraction = one.costs[count, 0], one.costs[0, count]
        for seed in integer.keys() & fraction.keys():
            apart.setdefault(seed, []).append(integer[seed] - fraction[seed])
    if not apart:
        return ""
    mean, half = _over_seeds(apart)
    verdict = "no difference beyond the interval" if math.isfinite(half) and abs(mean) <= half else (
        "fraction beats integer" if mean > 0 else "integer beats fraction")
    return (f"{one.title}: at equal bits ({', '.join(map(str, bits))}) "
            f"integer-only costs {_cost_text(mean, half)} nats a word more than fraction-only: {verdict}")


def _range(one: Splits) -> str:
    """Mean cost of formats by where they lie beside the RMS of the table."""
    if math.isnan(one.rms):
        return ""
    groups: dict[str, dict[Any, list[float]]] = {}
    counts: dict[str, int] = {}
    for split, costs in one.costs.items():
        name = one.fault(split)
        counts[name] = counts.get(name, 0) + 1
        for seed, cost in costs.items():
            groups.setdefault(name, {}).setdefault(seed, []).append(cost)
    means = {name: _over_seeds(groups[name])
             for name in ("in range", "too narrow", "too coarse", "neither") if name in groups}
    costs_text = ", ".join(f"{name} {_cost_text(*pair)} ({counts[name]})" for name, pair in means.items())
    outside = [name for name in means if name != "in range"]
    end = ""
    if "in range" in means and outside:
        ends = all(means["in range"][0] < 0.25 * means[name][0] for name in outside)
        end = ": the range decides, not the kind of bit" if ends else ": range alone does not explain it"
        if not all(_apart(groups[name], groups["in range"]) for name in outside):
            end = ": these seeds do not tell whether the range decides"
    bounds = f"too narrow: clips below {REACH:g} RMS"
    if one.family == "fixed":
        bounds += f"; too coarse: steps above RMS x {RESOLVES:g}"
    return (f"{one.title}, by range: rows have RMS {one.rms:.2g}; nats a word above none ({bounds}): "
            f"{costs_text}{end}")
