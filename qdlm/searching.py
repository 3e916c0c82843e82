"""A search from Python: the same as `qdlm run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qdlm.results import Run, bounds, run_path
from search.engine.events import EngineEvent
from spaces import extras, overrides
from spaces.complaints import Complaints
from spaces.errors import UserError
from spaces.schema import Space, load
from spaces.uris import is_uri


def run(space: Space | Mapping[str, Any] | str | Path | None = None, *,
        callbacks: Sequence[Callable[[EngineEvent], None]] = (), n_trials: int | None = None,
        timeout: float | None = None, within: Sequence[str] = (), settings: Mapping[str, Any] | None = None,
        seed: int | None = None, deterministic: int | None = None, track: Sequence[str] = (),
        storage: str | Path = "runs",
        address: str | None = None, max_concurrent: int | None = None, resume: str | Path | Run | None = None,
        warm_start: str | Path | Run | None = None, progress: bool = True) -> Run:
    """Search a space, or go on with the run `resume`. The run's `state` is `failed` where no trial was
    complete.

    `space`: a `Space`, the keys of a space file, a file, or a shipped space by name. `n_trials`, `timeout`
    (seconds), `within` (`["size_bytes <= 200kB"]`), `seed`, `deterministic` (trials in flight) and `settings`
    (any key by its path: `{"trial.adapt.optim.batch_size": 8}`) change it. `callbacks`: see `qdlm.Callback`;
    `track`: `["mlflow"]`, tensorboard, wandb.
    `storage`: a folder that all nodes see, or a URI. `address`: a Ray cluster (`auto`, `HOST:PORT`); by
    default one starts here and ends with the run. `progress`: show it on standard error.

    Raises `UserError` for what can be mended, `RunError` where a machine or a disk broke under the run, and
    KeyboardInterrupt; of the last two the run is in order, and `resume` goes on with it.
    """
    extras.check()
    from search.cli.progress import choose
    from search.run import sweep
    from search.run.resuming import resumed
    from search.run.validation import check, check_sources, completed

    if address is not None and address.startswith("ray://"):
        raise UserError(f"address {address}: from Python, a search is driven where it is called; run this on "
                        "the cluster with address='auto', or use: qdlm run --address ray://HOST:PORT")
    if resume is not None and warm_start is not None:
        raise UserError("resume and warm_start contradict each other: a run that goes on knows what it has "
                        "learned")
    for callback in callbacks:
        if not callable(callback):
            raise UserError(f"callbacks: {callback!r} cannot be called; legal: functions of one event, "
                            "objects of qdlm.Callback")
    changes = _changes(n_trials, timeout, within, seed, deterministic, settings or {})
    changes |= {"track": [track] if isinstance(track, str) else list(track)} if track else {}
    given = None if space is None else _space(space, {} if resume is not None else changes)
    if given is not None:
        check(given)
        given = completed(given)
    going_on: str | Path | None = None
    if resume is not None:
        place = resume.path if isinstance(resume, Run) else resume
        going_on = place if is_uri(place) else Path(place).resolve()
        given = resumed(Run(run_path(resume)).space, str(going_on), given, changes)
    if given is None:
        raise UserError("which space? give a qdlm.Space, a file or a shipped space's name, or resume=RUN")
    check_sources(given)
    with choose(given.objectives, quiet=not progress, as_json=False) as observer:
        result = sweep.run(given, storage=storage, address=address, max_concurrent=max_concurrent,
                           resume=going_on,
                           warm_start=None if warm_start is None else run_path(warm_start).resolve(),
                           observer=observer, callbacks=callbacks)
    return Run(result.run_folder)


def _space(space: Space | Mapping[str, Any] | str | Path, changes: Mapping[str, Any]) -> Space:
    if isinstance(space, str | Path):
        return load(space, changes)
    if isinstance(space, Mapping):  # changed before it is read: a space without a budget is none
        data, named = overrides.apply(dict(space), changes)
        return Space.from_dict(data, Complaints("space", overrides=named))
    if not isinstance(space, Space):
        raise UserError(f"space: {type(space).__name__} is none; legal: qdlm.Space, a mapping, a file, a "
                        "shipped space's name")
    return space.with_overrides(changes) if changes else space


def _changes(n_trials: int | None, timeout: float | None, within: Sequence[str], seed: int | None,
             deterministic: int | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that stand for a key, as `--set` has them. Raises `UserError` for one given twice."""
    named = {"budget.trials": ("n_trials", n_trials), "budget.time": ("timeout", timeout),
             "seed": ("seed", seed), "deterministic": ("deterministic", deterministic)}
    found = dict(settings)
    overrides.add_named(found, named, also="settings['{key}']")
    if within:
        asked = [str(bound) for bound in bounds([within] if isinstance(within, str) else within)]
        found["constraints+"] = [*found.get("constraints+", ()), *asked]
    return found
