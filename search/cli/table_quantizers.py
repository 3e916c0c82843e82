"""The layout `quantizers` of `qdlm table`: every quantizer with intervals over seeds, curves, a map,
a plain answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search.reporting import integer_fraction, quantizers
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.cli.table import TableContent, TableRequest

CURVES, MAP = "convergence.png", "granularity.png"
UNSEEN = 1e-3
"""Share of a mean below which its interval is left out."""
MAPPED = 6
"""Splits of one family from which on a map of them is drawn."""


def layout(request: TableRequest) -> TableContent:
    """Quantizer against loss, bound, lm-score, control, weights that train, bytes and latency ratio.
    Trains nothing."""
    from dashboards.plot_convergence import convergence_png
    from dashboards.plot_splits import splits_png
    from search.cli.format import figure, plain, scaled
    from search.cli.results import opened
    from search.cli.table import TableContent

    folder, _, _ = opened(request.run)
    found = quantizers.arms(folder.rows())

    def cell(metric: str, mean: float, half: float) -> str:
        if not math.isfinite(half) or half <= UNSEEN * abs(mean):
            return figure(metric, mean)
        size, unit = scaled(metric, mean)
        # the mean as far as the interval's second figure
        places = max(0, 1 - math.floor(math.log10(half / size)))
        shown = f"{round(mean / size, places) + 0.0:.{places}f}" if places > 2 else plain(mean / size)
        return f"{shown} ± {float(f'{half / size:.2g}'):g} {unit}".rstrip()
    rows = quantizers.table(found, cell)
    if not rows:
        raise UserError(f"{request.run}: no trial has finished yet, so there is nothing to compare")
    places = {row["rest"] for row in rows}
    if len(places) == 1:
        rows = [{key: value for key, value in row.items() if key != "rest"} for row in rows]
    curves = {arm.name if len(places) == 1 else f"{arm.name} {arm.rest}".strip(): [
        (steps, *quantizers.interval([row["nll_bound"] for row in at]))
        for steps, at in sorted(arm.curve.items())
        if all(isinstance(row.get("nll_bound"), int | float) for row in at)] for arm in found}
    files = [convergence_png(curves, "nll_bound, nats a word", folder.path / CURVES)]
    panels = integer_fraction.splits(found)
    if any(len(one.costs) >= MAPPED for one in panels):
        files.append(splits_png(panels, folder.path / MAP))
    notes = (*integer_fraction.answer(found),
             "mean ± 95% over seeds (Student); differences are taken within a seed")
    title = "Quantizers" + (f", {next(iter(places))}" if len(places) == 1 and None not in places else "")
    return TableContent(title, rows, notes, tuple(files))
