"""The sampler of expected hypervolume improvement: what reaches it, and what it makes of that. The contract
is tested with all samplers', timing and replay in test_replay."""

import numpy as np
import pytest

from search.samplers import acquisition
from search.samplers.acquisition import STEADY, AcquisitionProblem, Surrogate, last_refit
from search.samplers.ehvi import CURVE
from search.samplers.encoding import PointEncoder
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective

SPACE = {"x": Dimension(**{"float": [0.0, 1.0]}), "y": Dimension(**{"float": [0.0, 1.0]}),
         "kind": Dimension(choice=["a", "b"])}
OBJECTIVES = [Objective("loss", "minimize"), Objective("ok", "maximize")]


def measure(values):
    """A front along y = 0.5, kind a, between x = 0 (best loss) and x = 1 (best ok)."""
    off = (values["y"] - 0.5) ** 2 + (0.3 if values["kind"] == "b" else 0.0)
    return {"loss": values["x"] ** 2 + off, "ok": 1.0 - (1.0 - values["x"]) ** 2 - off, "load": values["x"]}


def search(trials=30, rungs=(), space=SPACE, measure=measure, ahead=3, storage=None, **more):
    """Ask and tell with three in flight. With `rungs`, trials are measured there with an error that
    fades, and every other one of them is stopped at the first."""
    searcher = StudySearcher(space, OBJECTIVES, **{"sampler": "ehvi", "seed": 1, "storage": storage, **more})
    asked, flying = [], []
    while len(asked) < trials and (proposal := searcher.ask()) is not None:
        asked.append(proposal.values)
        flying.append(proposal)
        if len(flying) == ahead:
            tell(searcher, flying.pop(0), rungs, measure)
    for proposal in flying:
        tell(searcher, proposal, rungs, measure)
    return searcher, asked


def tell(searcher, proposal, rungs, measure):
    found = measure(proposal.values)
    rungs_of = [(steps, {**found, "loss": found["loss"] + 10.0 / steps}) for steps in rungs]
    stopped = bool(rungs) and proposal.number % 2 == 1
    last = rungs_of[0][1] if stopped else found
    searcher.tell(proposal.number, "stopped" if stopped else "complete", last,
                  rungs=rungs_of[:1] if stopped else [*rungs_of[:-1], (rungs[-1], found)] if rungs else ())


def share(found, test):
    return np.mean([test(values) for values in found])


@pytest.mark.parametrize("rungs", [(), (10, 30, 90)])
def test_it_gathers_at_the_front_and_along_it(rungs):
    _, asked = search(rungs=rungs)
    late = asked[-12:]
    assert share(late, lambda v: v["kind"] == "a" and abs(v["y"] - 0.5) < 0.15) > 0.7
    assert np.ptp([v["x"] for v in late]) > 0.5
    assert not share(asked[:9], lambda v: v["kind"] == "a" and abs(v["y"] - 0.5) < 0.15) > 0.7


def test_a_constraint_reaches_it():
    _, free = search()
    _, bound = search(constraints=[Constraint("load", "<=", 0.4)])
    _, on_objective = search(constraints=[Constraint("ok", ">=", 0.8)])
    assert share(free[-12:], lambda v: v["x"] > 0.4) > 0.4
    assert share(bound[-12:], lambda v: v["x"] > 0.42) < 0.2
    assert share(on_objective[-12:], lambda v: measure(v)["ok"] > 0.75) > 0.8


def test_the_box_says_which_part_of_the_front_counts():
    _, asked = search(box={"loss": [0.0, 0.25], "ok": [1.0, 0.0]})
    assert share(asked[-12:], lambda v: v["x"] > 0.6) < 0.2, (
        "beyond the worst loss of the box nothing is gained")


def test_nothing_is_gained_beyond_the_ideal():
    points = PointEncoder({"x": Dimension(**{"float": [0.0, 1.0]})})
    places = np.linspace(0.3, 1.0, 8)
    curves = [[(0.0, {"loss": x - 0.3, "ok": 0.5})] for x in places]
    # where loss goes on falling, as the process sees it
    candidates = points.features(np.array([[0.05], [0.15]]))

    def gain(ideals):
        problem = AcquisitionProblem(points, OBJECTIVES, corners={"loss": [0.0, 1.0], "ok": [1.0, 0.0]},
                                     ideals=ideals)
        return Surrogate(problem, places[:, None], curves, [True] * 8).acquisition()(candidates)

    assert (gain({"loss": 0.0}) < 0.15 * gain({})).all(), "what is left is what `ok` may still gain"
    assert gain({"loss": -0.1}) - gain({"loss": 0.0}) == pytest.approx(0.1 * 0.5, rel=0.2), (
        "the ideal is where gains end")
    assert gain({"ok": 1.0}) == pytest.approx(gain({}), rel=0.1), "the other objective is far from its ideal"


def test_a_finite_space_is_tried_whole_without_a_repeat():
    space = {"x": Dimension(choice=[0.0, 0.25, 0.5, 0.75, 1.0]), "y": Dimension(choice=[0.0, 0.5, 1.0]),
             "kind": Dimension(choice=["a", "b"])}
    searcher, asked = search(trials=99, space=space)
    assert len(asked) == 30 == len({tuple(values.values()) for values in asked})
    again = [trial.number
             for trial in searcher.study.trials if "not run" in str(trial.user_attrs.get("reason"))]
    assert max(again, default=0) < 20, "only while the first ones are drawn at random"
    on_front = [place for place, values in enumerate(asked) if values["kind"] == "a" and values["y"] == 0.5]
    assert sum(place < 20 for place in on_front) == 5, "the whole front in the first two thirds"


def test_a_point_in_part_keeps_what_it_says():
    searcher, _ = search(trials=15)
    searcher.enqueue({"kind": "a", "x": 0.25})
    values = searcher.ask().values
    assert values["kind"] == "a" and values["x"] == 0.25 and abs(values["y"] - 0.5) < 0.3, (
        "the rest is chosen well")


def test_rungs_are_kept_with_the_trial_and_come_back_from_the_records(tmp_path):
    searcher, asked = search(trials=12, rungs=(10, 30), ahead=1, storage=tmp_path / "study.journal")
    trials = searcher.study.trials
    assert (trials[0].user_attrs[CURVE]
            == [[10, pytest.approx({"loss": trials[0].values[0] + 1.0, "ok": trials[0].values[1]})],
                [30, dict(zip(("loss", "ok"), trials[0].values, strict=True))]])
    assert [len(trial.user_attrs[CURVE]) for trial in trials[:4]] == [2, 1, 2, 1]
    rows = []
    for trial, values in zip(trials, asked, strict=True):
        config = {f"config.{path}": value for path, value in values.items()}
        for steps, metrics in trial.user_attrs[CURVE]:
            last = steps == trial.user_attrs[CURVE][-1][0]
            state = ("complete" if trial.values else "stopped") if last else "rung"
            rows.append({"trial": trial.number, "rung": 0, "fidelity": steps, "state": state, **config,
                         **metrics})
    rebuilt = StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", seed=1)
    rebuilt.restore(rows)
    assert ([trial.user_attrs[CURVE] for trial in rebuilt.study.trials]
            == [trial.user_attrs[CURVE] for trial in trials])
    reopened = StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", seed=1, storage=tmp_path / "study.journal")
    assert rebuilt.ask() == reopened.ask()


def test_after_many_results_tpe_proposes():
    few = {"startup": 4, "most": 8, "first": "random"}
    both = [search(trials=14, sampler=name, sampler_options=options, ahead=1)[1]
            for name, options in (("ehvi", few), ("tpe", {"startup": 4}))]
    assert both[0][:4] == both[1][:4] and both[0][4:8] != both[1][4:8]
    searcher, _ = search(trials=12, sampler_options=few, ahead=1)
    searcher.options, searcher.sampler = {"startup": 4}, "tpe"
    assert searcher.ask().values == search(trials=13, sampler_options=few, ahead=1)[1][-1]


@pytest.mark.parametrize("options", [{"startup": 1}, {"candidates": 1}, {"startup": 10, "most": 5}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError,
                       match=r"sampler 'ehvi': (option '\w+' should be greater|most is 5; legal: at least)"):
        StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", sampler_options=options)


def surrogate(values, **more):
    problem = AcquisitionProblem(PointEncoder(SPACE), OBJECTIVES, **more)
    curves = [[(0.0, measure(point))] for point in values]
    return Surrogate(problem, problem.points.rows(values), curves, [True] * len(values))


def test_predictions_hold_and_a_running_trial_is_not_proposed_again():
    points = PointEncoder(SPACE)
    values = [points.point(row) for row in points.drawn(40, np.random.default_rng(0))]
    fresh = points.drawn(200, np.random.default_rng(1))
    found = surrogate(values)
    predicted, holds = found.predicted(points.features(fresh))
    truth = (np.array([[measure(points.point(row))[name] for name in ("loss", "ok")] for row in fresh])
             * [1, -1])
    truth = (truth - found.low) / (found.high - found.low)
    assert np.corrcoef(predicted[0].middle, truth[:, 0])[0, 1] > 0.98
    assert np.corrcoef(predicted[1].middle, truth[:, 1])[0, 1] > 0.98 and (holds == 1.0).all()
    gain = found.acquisition()(points.features(fresh))
    best = points.features(fresh[[np.argmax(gain)]])
    assert found.acquisition(best)(best)[0] < 0.2 * gain.max()


def test_settings_are_fitted_again_when_results_have_grown_by_a_tenth():
    marks = [last_refit(rungs_of) for rungs_of in range(1, 301)]
    assert (marks[:3] == [0, 0, 0]
            and all(mark <= rungs_of < mark * 1.1 + 1 for rungs_of, mark in enumerate(marks[3:], 4)))
    assert len(set(marks)) < 50


def test_most_proposals_fit_no_settings_and_none_those_of_two_metrics(monkeypatch):
    """However many measurements there are: 450 of 150 trials are more than are learned from."""
    points = PointEncoder(SPACE)
    rows = points.drawn(170, np.random.default_rng(0))
    curves = [[(np.log(90 / steps), {name: value + 1 / steps for name, value in measure(point).items()})
               for steps in (10, 30, 90)] for point in map(points.point, rows)]
    problem, fits, pairs = AcquisitionProblem(points, OBJECTIVES), [], acquisition.Pairs
    monkeypatch.setattr(acquisition, "FITTED", 20)
    monkeypatch.setattr(acquisition, "Pairs", lambda *given: fits.append(1) or pairs(*given))
    counts = []
    for told in range(STEADY, 170):
        fits.clear()
        Surrogate(problem, rows[:told], curves[:told], [True] * told)
        counts.append(len(fits))
    assert counts[0] <= 2 and max(counts[1:]) == 1
    assert sum(counts[1:]) == 2 * len({last_refit(told) for told in range(STEADY + 1, 169)}) - 2
