"""What a fault may not have done to a run: lost a trial, run one twice, or led the searcher elsewhere.
Told by its records."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from search.records.run_folder import SPACE, STUDY, RunFolder
from search.run.validation import problem
from search.study.opening import replayed
from search.study.searcher import OUTCOMES, StudySearcher
from spaces.schema import load


def audit(run: Path, log: Path, acknowledged: Collection[tuple[int, str]],
          trials: int | None = None) -> dict[str, object]:
    """Trials `lost` and run `twice`, and where the searcher went another way, if anywhere.

    `log`: the jobs' own notes. `acknowledged`: (trial, state) that drivers have told of. `trials`: how many
    have to have ended, for a run that is over; then what was asked for and did not end must have come again.
    """
    folder = RunFolder.open(run)
    events, rows = list(folder.events()), folder.rows()
    ends = [row for row in rows if row["state"] in OUTCOMES]
    ended = {row["trial"]: row for row in ends}
    lost = [number
            for number, state in acknowledged if number not in ended or ended[number]["state"] != state]
    twice = [number for number, count in Counter(row["trial"] for row in ends).items() if count > 1]
    for line in log.read_text().splitlines() if log.exists() else ():
        what, number, at, *_ = line.split()
        if what == "begin" and int(number) in ended and float(at) > ended[int(number)]["time"]:
            twice.append(int(number))
    if trials is not None:
        done = {_point({name.removeprefix("config."): value
                        for name, value in row.items() if name.startswith("config.")})
                for row in ends}
        lost += [event["trial"]
                 for event in events if event["event"] == "ask" and _point(event["values"]) not in done]
        if len(ended) != trials:
            lost.append(f"{len(ended)} of {trials} trials ended")
    space = load(run / SPACE)
    found = replayed(space, problem(space), folder)
    other = found.different or (_study(run, ended) if trials is not None else None)
    return {"ended": len(ended), "lost": lost, "twice": sorted(set(twice)), "searcher": other}


def _point(values: dict) -> str:
    return json.dumps(values, sort_keys=True)


def _study(run: Path, ended: dict[int, dict]) -> str | None:
    """Where the study on disk tells of a trial what the records do not."""
    space = load(run / SPACE)
    with tempfile.TemporaryDirectory() as scratch:
        journal = Path(shutil.copy(run / STUDY, scratch))
        study = StudySearcher(space.dimensions, space.objectives, space.constraints, storage=journal).study
        for number, row in ended.items():
            if study.trials[number].state != OUTCOMES[row["state"]]:
                return (f"trial {number} is {row['state']} in the records and "
                        f"{study.trials[number].state.name} in the study")
    return None
