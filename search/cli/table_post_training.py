"""The layout `post_training` of `qdlm table`: methods with their calibration against bits, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.cli.cells import cell, counted, known, measured_metric, part_name, stopped_note
from search.reporting.cells import Placed, compare
from search.reporting.post_training import COLUMNS, column
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.cli.table import TableContent, TableRequest
    from spaces.config import TrialConfig
    from spaces.schema import Space

KL, PERPLEXITY = "kl_to_base", "perplexity"
BITS = frozenset({"bits"})
"""Parameters of a method that are a column."""
FLOAT = 32
"""Bits of a weight that is not rounded."""
PLACED = ("calibration.method", "calibration.bits", "calibration.transforms", "calibration.source",
          "calibration.token_weight", "calibration.activation_bits", "calibration.seed", "seed")
"""Settings that say where a figure stands, or which repeat it is; whatever else is searched is `rest`."""


def layout(request: TableRequest) -> TableContent:
    """KL to the full-precision model (or perplexity) of every method at the papers' bits. Trains nothing."""
    from search.cli.results import opened
    from search.cli.table import TableContent
    from search.reporting.rows import last_rows

    folder, space, _ = opened(request.run)
    last = last_rows(folder.rows())
    rows = [row for row in last if row.get("state") == "complete"]
    metric = measured_metric(rows, request.metric, (KL, PERPLEXITY))
    found = [(placed(space, row, metric), float(row[metric])) for row in rows if known(row, metric)]
    done = compare(found, lambda mean, half: cell(metric, mean, half), COLUMNS)
    if not done.rows:
        raise UserError(f"{request.run}: no trial at the bits of the table has finished yet"
                        + (f"; finished: {counted(done.aside)}" if done.aside else ""))
    notes = [about(metric), "mean ± 95% over calibration seeds (Student)"
             if done.repeats > 1 else "one calibration seed each, so no intervals: search calibration.seed"]
    if done.aside:
        notes.append(f"finished at other bits, not shown: {counted(done.aside)}")
    notes += stopped_note(sum(row.get("state") == "stopped" for row in last), "they measured fewer texts")
    return TableContent(f"Post-training quantization, {metric}", done.rows, tuple(notes))


def about(metric: str) -> str:
    """What a cell holds."""
    if metric == KL:
        return "KL to the full-precision model, nats a position, at corrupted positions of held-out text"
    return f"{metric} of the rounded model"


def placed(space: Space, row: Mapping[str, Any], metric: str) -> Placed:
    """Row and column of a trial, from its settings as they were: fixed ones and defaults count too."""
    from search.pareto.objectives import searched
    from trainable.quantization.post_training.statistics import SECOND_MOMENT
    from trainable.quantization.post_training.stored import chain_of
    from trainable.registry import POST_TRAINING

    values = {path: value for path, value in searched(row).items()
              if path in space.dimensions and value is not None}
    config = space.config(values)
    calibration = config.calibration
    chain = chain_of(calibration.method, calibration.transforms)
    acts = bool(chain.needs) or corrected(config)
    names = list(POST_TRAINING)
    parts = [part_name(ref, POST_TRAINING, BITS) for ref in (calibration.method, *calibration.transforms)]
    rank = tuple(names.index(ref.name) for ref in (calibration.method, *calibration.transforms))
    weights = part_name_of(calibration.token_weight) if SECOND_MOMENT in chain.needs else None
    head = {"method": " + ".join(parts), "calibrated on": calibration.source if acts else None,
            "weights": weights}
    return Placed(head, rest(values, metric, acts and calibration.source.startswith("rollout")),
                  column(weight_bits(config), calibration.activation_bits),
                  (config.seed, config.calibration_seed), rank)


def weight_bits(config: TrialConfig) -> set[int]:
    """All that the Linears of the calibrated sites have: one, unless parts have their own."""
    from trainable.registry import BACKBONES, POST_TRAINING

    calibration = config.calibration
    usual = getattr(POST_TRAINING.params(calibration.method), "bits", FLOAT)
    blocks = range(getattr(BACKBONES.params(config.model), "layers", 1))
    return {calibration.bits_at(site, block) or usual for site in calibration.sites for block in blocks}


def corrected(config: TrialConfig) -> bool:
    """Whether a correction is on that looks at calibration states whatever the method."""
    from spaces.config import CalibrationConfig

    plain = CalibrationConfig()
    own = set(CalibrationConfig.model_fields) - {"method", "bits", "transforms", "source", "token_weight",
                                                 "texts", "levels", "sites", "activation_bits", "seed"}
    return any(getattr(config.calibration, name) != getattr(plain, name) for name in own)


def part_name_of(ref: Any) -> str:
    """A token weight as it would be typed."""
    from search.cli.format import compact

    return compact({"name": ref.name, **ref.params})


def rest(values: Mapping[str, Any], metric: str, generated: bool) -> str:
    """What else was searched, `steps=20, rank=4`. How texts are sampled does not act on a KL, unless the
    model was calibrated on its own generations."""
    from search.cli.format import compact

    found = []
    for path, value in values.items():
        if any(path == name or path.startswith(f"{name}.") for name in PLACED):
            continue
        if path.startswith("sampling.") and metric == KL and not generated:
            continue
        if value not in ([], ()):  # nothing in a list of steps
            found.append(f"{path.removeprefix('calibration.')}={compact(value)}")
    return ", ".join(found)
