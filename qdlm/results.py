"""A run's folder in Python: its trials, its front, the best within what can be afforded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.choosing import check_bounds, chosen, left_out
from search.cli.results import opened
from search.pareto.front import Front
from search.records.run_folder import RunFolder
from search.reporting.trials import Trial, trials
from spaces.errors import UserError
from spaces.objectives import Constraint
from spaces.schema import Space
from spaces.uris import is_uri

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """What a run has found, read anew from its folder at each question, so that one that goes on can be
    watched. `open` and `run` make one."""

    def __init__(self, path: Path):
        """Use `open`."""
        self._folder, self._space, _ = opened(path)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def space(self) -> Space:
        """What was searched, with every default written out."""
        return self._space

    @property
    def state(self) -> str:
        """running, finished, interrupted or failed."""
        return self._folder.state

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return trials(self._folder, self._space, self._front())

    @property
    def front(self) -> list[Trial]:
        """The Pareto front, ordered by the first objective."""
        front = self._front()
        found = {trial.number: trial for trial in trials(self._folder, self._space, front)}
        return [found[row["trial"]] for row in front]

    def best(self, metric: str | None = None, within: Sequence[str] | str = ()) -> Trial:
        """The trial that is best on one objective (None: the first; `knee`: the most balanced member of the
        front) among those within further bounds: `run.best("perplexity", within=["latency_ms <= 20ms"])`. It
        goes by the figures that were measured again, where there are any, and says which in
        `metrics["figures"]`: `seeds`, `again` or `own` (see `Front.best`).

        Raises `UserError` for what is no objective or no bound, and where nothing is within all bounds.
        """
        asked = bounds([within] if isinstance(within, str) else within)
        check_bounds(self._folder, asked, "within ")
        front = self._front().within(asked) if asked else self._front()
        row = chosen(front, metric or front.objectives[0].metric, "best: ")
        if row is None:
            texts = ", ".join(map(str, front.constraints)) or "there is none"
            lost = "".join(f"; {line}" for line in left_out(front))
            raise UserError(f"{self.path}: no complete trial is within all bounds: {texts}{lost}")
        found = {trial.number: trial for trial in trials(self._folder, self._space, front)}
        return found[row["trial"]]

    def to_pandas(self) -> pd.DataFrame:
        """A row per trial: how it ended and why, what it cost, its measurements, its settings
        (`config.PATH`)."""
        import pandas as pd

        return pd.DataFrame([trial.values() for trial in self.trials])

    def _front(self) -> Front:
        return Front.from_rows(self._folder.rows(), self._space.objectives, self._space.constraints)

    def __repr__(self) -> str:
        return f"qdlm.Run({str(self.path)!r}, {self.state})"


def open(run: str | Path) -> Run:
    """The run in a folder, or at a URI, of which a copy is fetched. Raises `UserError` where none is."""
    return Run(run_path(run))


def run_path(run: str | Path | Run) -> Path:
    """The folder of a run that is to be read."""
    if isinstance(run, Run):
        return run.path
    if is_uri(run):
        from search.records.sync import fetch_run

        return fetch_run(str(run))
    RunFolder.open(Path(run))
    return Path(run)


def bounds(texts: Sequence[str]) -> list[Constraint]:
    """`within` as constraints. Raises `UserError` saying what is legal."""
    try:
        return [Constraint.parse(text) for text in texts]
    except ValueError as error:
        raise UserError(f"within: {error}") from None
