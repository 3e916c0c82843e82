"""What is done with the front when the search is over: its members are trained again with other seeds.

A member won by one training run. Trained anew at the full budget, under fresh seeds for training and
for measuring, it shows what its settings are worth: METRIC_seeds (mean), METRIC_seeds_sd, and `seeds`,
how many there were.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.engine.engine import Engine
from spaces.config import TrialConfig
from trainable.messages import JobEvent, Payload, SharedPaths

if TYPE_CHECKING:  # Ray is imported after `environment.apply`
    from search.distributed.client import PoolClient

Row = dict[str, Any]
_CONTROL = ("rung", "steps", "seconds", "final")
FRESH = 1000
"""Added to the seeds of a trial, so that no seed of the search comes again."""


def not_retrained(engine: Engine, seeds: int) -> list[dict[str, Any]]:
    """Members of the front that are still to be trained again."""
    return [dict(row) for row in engine.front if seeds and row.get("seeds", 0) < seeds]


def reseeded(config: TrialConfig, index: int) -> TrialConfig:
    """The same trial with fresh randomness everywhere: adapter, batches, noise, samples. A member of a
    supernet is trained apart."""
    evaluation = config.evaluation.model_copy(update={"seed": config.evaluation_seed + FRESH + index})
    return config.model_copy(update={"seed": config.seed + FRESH + index, "evaluation": evaluation,
                                     "adapt": config.adapt.apart})


def retrain(engine: Engine, client: PoolClient, seeds: int,
            config_of: Callable[[dict[str, Any]], TrialConfig],
            prepared_of: Callable[[TrialConfig], SharedPaths], folder: Path,
            warn: Callable[[str], None]) -> None:
    """Train the members again and record what they measured. One that fails is warned of, and the
    front stays as it is.

    `folder`: for what the trials leave, which is thrown away.
    """
    members = not_retrained(engine, seeds)
    rung = list(engine.space.rungs)[-1:]
    tasks: list[tuple[str, Payload]] = [
        ("trial",
         {"config": config.model_dump(mode="json"), "rungs": rung,
          "prepared": {kind: str(path) for kind, path in paths.items()},
          "folder": str(folder / f"again-{row['trial']}-{index}"), "number": row["trial"], "values": {}})
        for row in members for index in range(seeds) for config in [reseeded(config_of(row), index)]
        for paths in [prepared_of(config)]]
    if not tasks:
        return
    done = 0

    def on_event(index: int, event: JobEvent) -> None:
        nonlocal done
        if "rung" in event and event.get("final"):
            done += 1
            engine.emit("prepare", stage="training the front again", progress=done / len(tasks), after=True)

    try:
        found = client.map(tasks, on_event, patience=engine.space.budget.trial_time, forgiving=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record_repeats(engine, members, found, seeds, "seeds", "trained", warn)


def record_repeats(engine: Engine, members: Sequence[Row], found: Sequence[Any], repeats: int, suffix: str,
                   done: str, warn: Callable[[str], None]) -> None:
    """Add what the members' repeats measured to their rows. `found`: `repeats` results for each member,
    in order. A member of which one failed (an exception stands there) is warned of and stays as it is;
    `done`: what was to be done again."""
    for index, row in enumerate(members):
        mine = found[index * repeats:(index + 1) * repeats]
        failed = next((one for one in mine if isinstance(one, Exception)), None)
        if failed:
            warn(f"trial {row['trial']} was not {done} again: {failed}")
        else:
            engine.add_measurements(row["trial"], repeat_statistics(mine, suffix))


def repeat_statistics(measured: Sequence[dict[str, Any]], suffix: str) -> dict[str, float]:
    """Means and standard deviations of repeated measurements, as columns NAME_SUFFIX and NAME_SUFFIX_sd;
    SUFFIX is how many there were. What is no number, or not in all of them, is left out."""
    columns: dict[str, float] = {suffix: len(measured)}
    for name in [name for name in measured[0] if name not in _CONTROL]:
        values = [value for one in measured if isinstance(value := one.get(name), (int, float))
                  and not isinstance(value, bool)]
        if len(values) == len(measured):
            columns[f"{name}_{suffix}"] = statistics.fmean(values)
            if len(values) > 1:
                columns[f"{name}_{suffix}_sd"] = statistics.stdev(values)
    return columns
