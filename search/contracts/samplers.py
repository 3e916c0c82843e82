"""The contract of a search method, for a plug-in's tests to inherit; see `search.contracts.schedulers`.

    class TestMine(SearcherContract):
        @pytest.fixture
        def method(self):
            return "mine"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.study.searcher import Proposal, Restored, StudySearcher
from search.study.trials import State
from spaces.dimensions import Dimension
from spaces.objectives import Constraint, Objective

OBJECTIVES = [Objective("loss", "minimize"), Objective("ok", "maximize")]
CONSTRAINTS = [Constraint("ms", "<=", 40.0)]
FIXED = {"name": "fixed", "bits": 4}
FINITE = {
    "q": Dimension(choice=["none", FIXED, "binary"]),
    "sites": Dimension(choice=[["table"], ["table", "ffn"]], when={"q": [FIXED, "binary"]}),
    "rank": Dimension(**{"int": [0, 8], "step": 2}),
}
RANGES = {"lr": Dimension(log=[1e-4, 1e-1]),
          "drop": Dimension(**{"float": [0.0, 0.5]}, when={"rank": [4, 6, 8]})}


def measure(values: Mapping[str, Any]) -> dict[str, float]:
    """A smooth made-up trade-off over the searched values."""
    loss = (values["rank"] / 8 + {"none": 0.0, "binary": 1.0}.get(str(values["q"]), 0.5)
            + values.get("lr", 0.0))
    ok = 1 - values["rank"] / 9 + 0.1 * len(values.get("sites", ""))
    return {"loss": loss, "ok": ok, "ms": 30.0 + values["rank"] * 2}


def outcome(number: int, values: Mapping[str, Any]) -> tuple[State, dict[str, float] | None, str | None]:
    """Every fourth trial is stopped, every seventh fails, every ninth measures NaN."""
    metrics = measure(values)
    if number % 9 == 8:
        return "complete", {**metrics, "loss": math.nan}, None
    if number % 7 == 6:
        return "failed", None, "out of memory"
    return ("stopped" if number % 4 == 3 else "complete"), metrics, None


def run(searcher: StudySearcher, trials: int, ahead: int = 3) -> list[Proposal]:
    """Ask and tell with up to `ahead` trials in flight; the proposals in order."""
    asked: list[Proposal] = []
    flying: list[Proposal] = []
    while len(asked) < trials:
        proposal = searcher.ask()
        if proposal is None:
            break
        asked.append(proposal)
        flying.append(proposal)
        if len(flying) == ahead:
            done = flying.pop(0)
            searcher.tell(done.number, *outcome(done.number, done.values))
    for done in flying:
        searcher.tell(done.number, *outcome(done.number, done.values))
    return asked


class SearcherContract:
    """Contract of ask, tell and restore. A subclass gives the fixture `method`: a name of the catalogue."""

    def space(self, method: str) -> dict[str, Dimension]:
        """Conditional and mixed; finite for a grid."""
        return FINITE if method == "grid" else FINITE | RANGES

    def build(self, method: str, seed: int = 0, storage: Path | None = None) -> StudySearcher:
        """A searcher."""
        options = {"startup": 4} if method == "gp" else {}
        return StudySearcher(self.space(method), OBJECTIVES, CONSTRAINTS, storage=storage, sampler=method,
                             sampler_options=options, seed=seed)

    def count(self, method: str) -> int:
        """Trials of a test."""
        return 8 if method == "gp" else 24

    def test_same_seed_same_proposals(self, method: str) -> None:
        first, second = (run(self.build(method, seed=3), self.count(method)) for _ in range(2))
        assert first == second and len(first) == self.count(method)

    def test_another_seed_gives_others(self, method: str) -> None:
        if method == "grid":
            pytest.skip("a grid in file order has no randomness")
        assert run(self.build(method, seed=3), 6) != run(self.build(method, seed=4), 6)

    def test_proposals_are_legal_and_conditional_dimensions_come_and_go(self, method: str) -> None:
        seen = set()
        for proposal in run(self.build(method), self.count(method)):
            for path, value in proposal.values.items():
                assert self.space(method)[path].contains(value), (path, value)
            assert ("sites" in proposal.values) == (proposal.values["q"] != "none")
            assert ("drop" in proposal.values) == ("lr" in proposal.values and proposal.values["rank"] >= 4)
            seen.add("sites" in proposal.values)
        assert seen == {True, False}

    def test_every_trial_ends_in_the_study_and_only_full_results_are_complete(self, method: str) -> None:
        searcher = self.build(method)
        for proposal in run(searcher, self.count(method)):
            trial = searcher.study.trials[proposal.number]
            state, metrics, reason = outcome(proposal.number, proposal.values)
            if metrics is None:
                assert trial.state == TrialState.FAIL and trial.user_attrs["reason"] == reason
            elif math.isnan(metrics["loss"]):
                assert (trial.state == TrialState.FAIL
                        and trial.user_attrs["reason"] == "objective loss is nan")
            elif state == "stopped":
                assert trial.state == TrialState.PRUNED and trial.values is None
                assert trial.user_attrs["loss"] == metrics["loss"]
            else:
                assert trial.state == TrialState.COMPLETE and trial.values == [metrics["loss"], metrics["ok"]]
                assert trial.constraints == {"ms <= 40": pytest.approx((metrics["ms"] - 40) / 40)}
        assert not searcher.running
        front = searcher.study.best_trials
        assert front and all(trial.user_attrs["ms"] <= 40 for trial in front), (
            "constraints reach Optuna's own front")

    def test_a_warm_point_comes_first_with_its_tag(self, method: str) -> None:
        searcher = self.build(method)
        values = ({"q": FIXED, "sites": ["table", "ffn"], "rank": 2}
                  | ({} if method == "grid" else {"lr": 0.01}))
        assert searcher.enqueue(values, tag="reference")
        proposal = searcher.ask()
        assert proposal and proposal.values == values and proposal.tag == "reference"
        after = searcher.ask()
        assert after and after.tag is None

    def test_a_resumed_search_proposes_what_an_unbroken_one_would(self, method: str, tmp_path: Path) -> None:
        whole = run(self.build(method, seed=5), self.count(method), ahead=1)
        half = self.count(method) // 2
        first = run(self.build(method, seed=5, storage=tmp_path / "study.journal"), half, ahead=1)
        rows = [{"trial": item.number, "rung": 0, "state": outcome(item.number, item.values)[0],
                 **{f"config.{path}": value for path, value in item.values.items()}} for item in first]
        resumed = self.build(method, seed=5, storage=tmp_path / "study.journal")
        assert resumed.restore(rows) == Restored((), (), ())
        second = run(resumed, self.count(method) - half, ahead=1)
        assert first + second == whole

    def test_a_study_is_rebuilt_from_the_records_alone(self, method: str) -> None:
        original = self.build(method, seed=2)
        asked = run(original, self.count(method) // 2, ahead=1)
        rows = []
        for item in asked:
            state, metrics, reason = outcome(item.number, item.values)
            rows.append({"trial": item.number, "rung": 0, "state": state, "reason": reason, **(metrics or {}),
                         **{f"config.{path}": value for path, value in item.values.items()}})
        rebuilt = self.build(method, seed=2)
        assert rebuilt.restore(rows).added == tuple(range(len(original.study.trials)))
        for old, new in zip(original.study.trials, rebuilt.study.trials, strict=True):
            assert (old.state, old.values, old.params) == (new.state, new.values, new.params)
            assert old.constraints == new.constraints
