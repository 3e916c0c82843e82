"""The layout `adapters` of `qdlm table`: where an adapter starts against the format of the base under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from search.cli.cells import cell, known, measured_metric, part_name, stopped_note
from search.reporting.cells import Placed, compare

if TYPE_CHECKING:
    from search.cli.table import TableContent, TableRequest
    from spaces.config import Site, TrialConfig
    from spaces.schema import Space

BOUND, PERPLEXITY = "nll_bound", "perplexity"
UNSAMPLED = (BOUND, "kl_to_base", "adapter_error", "adapter_error_zero", "size_bytes", "trainable_params")
"""Metrics on which it has no effect how texts are sampled."""
PLACED = ("quantization.quantizer", "quantization.per_site", "quantization.body", "lora.start", "lora.rank",
          "seed", "calibration.seed")
"""Settings that say where a figure stands, or which repeat it is; whatever else is searched is `rest`."""
BUDGET = frozenset({"budget"})
"""The parameter of a start that gives each matrix a format of its own: a column."""
BODY: tuple[Site, ...] = ("attention", "ffn")
SHAPE = (1024, 1024)
"""Of the weight by which formats are ordered."""


def layout(request: TableRequest) -> TableContent:
    """The bound on held-out text (or another metric) of every start and rank, a column for each format of
    the base. Trains nothing."""
    from search.cli.results import opened
    from search.cli.table import TableContent
    from search.reporting.rows import last_rows

    folder, space, _ = opened(request.run)
    last = last_rows(folder.rows())
    rows = [row for row in last if row.get("state") == "complete"]
    metric = measured_metric(rows, request.metric, (BOUND, PERPLEXITY))
    formats: dict[str, float] = {}
    found = []
    for row in rows:
        if known(row, metric):
            place, bits = placed(space, row, metric)
            formats[place.column] = bits
            found.append((place, float(row[metric])))
    done = compare(found, lambda mean, half: cell(metric, mean, half),
                   sorted(formats, key=formats.__getitem__))
    notes = [about(metric), repeated(space, done.repeats),
             *stopped_note(sum(row.get("state") == "stopped" for row in last), "they trained fewer steps")]
    return TableContent(f"Adapters by the format of the base, {metric}", done.rows, tuple(notes))


def about(metric: str) -> str:
    """What a cell holds."""
    if metric == BOUND:
        return "bound on held-out text, nats a word; columns: fewest stored bits a value first"
    return f"{metric}; columns: fewest stored bits a value first"


def repeated(space: Space, most: int) -> str:
    """Over what a cell's mean is."""
    if most < 2:
        return "one trial a cell, so no intervals: search seed"
    others = sorted(continuous(space))
    return f"mean ± 95% over trials (Student) that differ in seed{''.join(f', {name}' for name in others)}"


def continuous(space: Space) -> set[str]:
    """Searched settings of which no two trials have the same value: their trials are repeats."""
    return {path for path, dimension in space.dimensions.items() if not dimension.finite}


def placed(space: Space, row: Mapping[str, Any], metric: str) -> tuple[Placed, float]:
    """Row and column of a trial, from its settings as they were, and the bits a value of the column's format;
    fixed settings and defaults count too."""
    from search.pareto.objectives import searched
    from trainable.registry import ADAPTER_STARTS

    values = {path: value for path, value in searched(row).items()
              if path in space.dimensions and value is not None}
    config, drawn = space.config(values), continuous(space)
    column, bits = base_format(config)
    start, rank = config.lora.start, config.lora.rank
    head: dict[str, str | None]
    if rank:
        head = {"start": part_name(start, ADAPTER_STARTS, BUDGET), "rank": str(rank)}
        order = (1 + list(ADAPTER_STARTS).index(start.name), rank)
    else:
        head, order = {"start": "no adapter", "rank": None}, (0, 0)
    apart = {path: value for path, value in values.items() if path not in drawn}
    repeat = (config.seed, config.calibration_seed, *(values.get(path) for path in sorted(drawn)))
    return Placed(head, rest(space, apart, metric), column, repeat, order), bits


def base_format(config: TrialConfig) -> tuple[str, float]:
    """The format of the body's weights as a column, and its bits a value: `int4`, or `attention int4, ffn
    nf4_g64` where the two differ; the export format of a float body; `float32` without either. Under a start
    with a budget: the family and the budget."""
    from trainable.registry import ADAPTER_STARTS, BODIES, QUANTIZERS

    if (budget := getattr(ADAPTER_STARTS.params(config.lora.start), "budget", None)) and config.lora.rank:
        families = dict.fromkeys(config.quantization.at(site).name for site in BODY)
        return f"{'+'.join(families)} within {budget:g} bits", budget
    given = config.quantization.body
    if given.name != "float32":
        parts = BODIES.build(given).layout(SHAPE).values()
        return given.name, 8 * sum(part.bytes for part in parts) / (SHAPE[0] * SHAPE[1])
    found = {}
    for site in BODY:
        quantizer = QUANTIZERS.build(config.quantization.at(site))
        found[site] = quantizer.label, quantizer.bits_per_value(SHAPE)
    (one, first), (other, second) = found["attention"], found["ffn"]
    bits = (first + second) / 2
    if one == other:
        return ("float32" if one == "none" else one), bits
    return f"attention {one}, ffn {other}", bits


def rest(space: Space, values: Mapping[str, Any], metric: str) -> str:
    """What else was searched, `lr=0.003`. How texts are sampled does not act on a bound."""
    from search.cli.format import compact, short_names

    names = short_names(list(space.dimensions))
    ignored = (*PLACED, "sampling") if metric in UNSAMPLED else PLACED
    return ", ".join(f"{names[path]}={compact(value)}" for path, value in values.items()
                     if not _within(path, ignored))


def _within(path: str, groups: Iterable[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in groups)
