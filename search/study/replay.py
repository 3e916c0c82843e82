"""Proposals in a fixed order, and the proof: a run's records fed to a fresh study give the same
proposals again.

The records of a run hold each ask, enqueued point and result in the order in which the study met them,
so any run can be replayed. `DeterministicSearcher` goes further: with it the proposals do not depend on
timing in the first place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from search.pareto.objectives import curve, measurements
from search.records.events import RecordedEvent
from search.records.run_folder import row_of
from search.study.searcher import OUTCOMES, Proposal, Restored, Rungs, State, StudySearcher
from search.study.trials import NotRunningError
from spaces.dimensions import Dimension
from spaces.errors import UserError


class DeterministicSearcher:
    """A searcher whose k-th proposal depends on the results of proposals up to k - W alone,
    told in their own order.

    So any number of workers up to W and any timing give the same proposals; more than W trials never
    run at once. The price: a proposal waits until the (k - W)-th trial has ended, and results that came
    early are not used yet.
    """

    def __init__(self, study: StudySearcher, window: int):
        if window < 1:
            raise ValueError(f"window is {window}; legal: at least 1")
        self.study, self.window = study, window
        self.proposed: list[int] = []
        self.proposals: dict[int, Proposal] = {}
        self.positions: dict[int, int] = {}
        self.results: dict[int, tuple[State, Mapping[str, Any] | None, str | None, Rungs]] = {}
        self.told_count = 0
        self.reproposed: deque[Proposal] = deque()
        self.blocked = False

    @property
    def dimensions(self) -> Mapping[str, Dimension]:
        """Of the study."""
        return self.study.dimensions

    @property
    def exhausted(self) -> bool:
        """As `StudySearcher.exhausted`."""
        return not self.reproposed and self.study.exhausted

    def enqueue(self, values: Mapping[str, Any], tag: str | None = None, again: bool = False) -> bool:
        """As `StudySearcher.enqueue`. To stay reproducible, enqueue before the first ask."""
        return self.study.enqueue(values, tag, again)

    def learn(self, values: Mapping[str, Any], state: State, metrics: Mapping[str, Any],
              rungs: Rungs = ()) -> None:
        """As `StudySearcher.learn`, before the first ask."""
        self.study.learn(values, state, metrics, rungs)

    def ask(self) -> Proposal | None:
        """The next proposal; None when there is none, or none yet: then `blocked` is true."""
        self.blocked = False
        if self.reproposed:
            return self.reproposed.popleft()
        due = len(self.proposed) - self.window + 1
        if any(number not in self.results for number in self.proposed[self.told_count:max(due, 0)]):
            self.blocked = True
            return None
        while self.told_count < due:
            self._tell_next()
        proposal = self.study.ask()
        # all was proposed; a result, in its turn, may free a point again
        while proposal is None and self.study.blocked:
            if self.proposed[self.told_count] not in self.results:
                self.blocked = True
                return None
            self._tell_next()
            proposal = self.study.ask()
        if proposal is not None:
            self.positions[proposal.number] = len(self.proposed)
            self.proposed.append(proposal.number)
            self.proposals[proposal.number] = proposal
        return proposal

    def _tell_next(self) -> None:
        number = self.proposed[self.told_count]
        self.study.tell(number, *self.results[number])
        self.told_count += 1

    def progress(self, number: int, rungs: Rungs) -> None:
        """Passed over: how far a running trial has come is a matter of timing."""

    def tell(self, number: int, state: State, metrics: Mapping[str, Any] | None = None,
             reason: str | None = None, rungs: Rungs = ()) -> State:
        """Keep the result until its turn comes."""
        if number in self.results or number not in self.positions:
            raise NotRunningError(f"trial {number} is not running")
        self.results[number] = (state, metrics, reason, rungs)
        return state

    def horizon(self, number: int) -> int:
        """The last trial whose reports a decision about this trial may look at; -1 = none but its own."""
        place = self.positions[number] - self.window
        return self.proposed[place] if place >= 0 else -1

    def restore(self, events: Iterable[RecordedEvent]) -> Restored:
        """Bring a fresh study to where the records of an earlier session end. Trials that had not
        ended are proposed again, first and under their own numbers. Raises `UserError` when the records do
        not come out again."""
        events = list(events)
        found = replay(self, events)
        if found.different:
            raise UserError("the recorded proposals do not come out again (other versions of the packages?): "
                            f"{found.different}")
        self.reproposed.extend(self.proposals[number]
                               for number in self.proposed if number not in self.results)
        return Restored(tuple(self.results), (), ())

    def flush(self) -> None:
        """Tell the study what has not had its turn, in order, for whoever looks at the study
        after the run."""
        for number in self.proposed[self.told_count:]:
            if number in self.results:
                self.study.tell(number, *self.results[number])
        self.told_count = len(self.proposed)


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found: proposals that came out again, the first that did not, and tags by trial."""

    same: int
    different: str | None
    tags: Mapping[int, str]


def replay(study: StudySearcher | DeterministicSearcher, events: Iterable[RecordedEvent]) -> ReplayResult:
    """Feed a run's records to a fresh study of the same space, sampler and seed, in their order,
    and compare proposals.

    `events`: of `RunFolder.events`. A session that was cut off is restored where the next one begins,
    as it was then.
    """
    rows: list[dict[str, Any]] = []
    own: dict[int, list[dict[str, Any]]] = {}
    ended: set[int] = set()
    tags: dict[int, str] = {}
    asked: set[int] = set()
    same = sessions = 0
    for event in events:
        if event["event"] == "run_started":
            sessions += 1
            if sessions > 1 and isinstance(study, StudySearcher):
                study.restore(rows)
        elif event["event"] == "enqueue":
            study.enqueue(event["values"], event.get("tag"), event.get("again", False))
        elif event["event"] == "learn":
            study.learn(event["values"], event["state"], event["metrics"], event.get("rungs", ()))
        elif event["event"] == "ask":
            if isinstance(study, DeterministicSearcher) and event["trial"] in study.positions:
                continue  # a trial that was lost, handed out once more
            proposal = study.ask()
            if (proposal is None
                    or (proposal.number, proposal.values) != (event["trial"], dict(event["values"]))):
                return ReplayResult(
                    same, f"trial {event['trial']} was {dict(event['values'])}; now "
                    f"{'nothing' if proposal is None else f'trial {proposal.number}: {proposal.values}'}",
                    tags)
            same += 1
            asked.add(proposal.number)
            if proposal.tag:
                tags[proposal.number] = proposal.tag
        elif event["event"] == "row":
            if event["trial"] not in asked:
                return ReplayResult(same, f"trial {event['trial']} has a result, and the records do not tell "
                                          "that it was proposed", tags)
            rows.append(row_of(event))
            own.setdefault(event["trial"], []).append(rows[-1])
            if event["state"] == "rung":
                study.progress(event["trial"], curve(own[event["trial"]]))
            if event["state"] in OUTCOMES and event["trial"] not in ended:
                ended.add(event["trial"])
                try:
                    study.tell(event["trial"], cast(State, event["state"]), measurements(rows[-1]) or None,
                               event.get("reason"), curve(own[event["trial"]]))
                except NotRunningError:  # lines in another order than they were written
                    return ReplayResult(same, f"trial {event['trial']} has a result, and the records tell "
                                              "that it was not running", tags)
    return ReplayResult(same, None, tags)
