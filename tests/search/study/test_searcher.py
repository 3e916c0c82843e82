import os
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from search.samplers import registry
from search.samplers.distributions import Axes
from search.schedulers.registry import SCHEDULERS
from search.study.searcher import LOST, Proposal, Restored, StudySearcher
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective

LOSS, OK = Objective("loss", "minimize"), Objective("ok", "maximize")
SMALL = {"a": Dimension(choice=["x", "y"]), "b": Dimension(**{"int": [1, 2]}, when={"a": ["y"]})}  # 3 points
WIDE = {"a": Dimension(choice=["x", "y"]), "lr": Dimension(log=[1e-4, 1.0])}


def searcher(dimensions=WIDE, **options):
    return StudySearcher(dimensions, [LOSS, OK], options.pop("constraints", ()), **options)


def states(found):
    return [trial.state.name for trial in found.study.trials]


def row(proposal, state, **more):
    return {"trial": proposal.number, "rung": 0, "state": state, **more,
            **{f"config.{path}": value for path, value in proposal.values.items()}}


@pytest.mark.parametrize("choices", [
    ["none", {"name": "fixed", "bits": 4}, ["a"]], [[1], [1, 2]], [1, 2.5], [True, False, None], ["1", 1],
    [None, "none"]])
def test_any_json_value_can_be_a_choice(choices):
    dimensions = {"q": Dimension(choice=choices)}
    found = searcher(dimensions, sampler="grid")
    proposed = [found.ask().values["q"] for _ in choices]
    assert proposed == choices and [type(value) for value in proposed] == [type(value) for value in choices]
    assert found.ask() is None
    axes = Axes(dimensions)
    assert [axes.decode(axes.encode({"q": value}))["q"] for value in choices] == choices


def test_strings_and_numbers_stay_readable_in_the_study():
    assert Axes({"q": Dimension(choice=["none", "binary"])}).encode({"q": "none"}) == {"q": "none"}
    assert Axes({"q": Dimension(choice=[4, 8])}).encode({"q": 8}) == {"q": 8}
    assert Axes({"q": Dimension(choice=["none", {"name": "fixed"}])}).encode({"q": "none"}) == {"q": '"none"'}


def test_dimensions_may_stand_before_what_they_depend_on():
    found = searcher({"b": SMALL["b"], "a": SMALL["a"]}, sampler="grid")
    points = [found.ask().values for _ in range(3)]
    assert sorted(map(str, points)) == sorted(map(str, [{"a": "x"}, {"a": "y", "b": 1}, {"a": "y", "b": 2}]))


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_a_finite_space_is_used_up_without_repeats(sampler):
    found, points = searcher(SMALL, sampler=sampler), []
    while (proposal := found.ask()) is not None:
        points.append(proposal.values)
        found.tell(proposal.number, "complete", {"loss": 1.0, "ok": 1.0})
    assert len(points) == 3 and len({str(point) for point in points}) == 3
    repeats = [trial for trial in found.study.trials if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs["reason"].startswith("not run: same point as trial ") for trial in repeats)


def test_grid_skips_enqueued_points_and_can_be_shuffled():
    found = searcher(SMALL, sampler="grid")
    found.enqueue({"a": "y", "b": 1})
    assert [found.ask().values for _ in range(3)] == [{"a": "y", "b": 1}, {"a": "x"}, {"a": "y", "b": 2}]
    many = {"i": Dimension(**{"int": [0, 19]})}
    orders = [[found.ask().values["i"] for _ in range(20)] for found in (
        searcher(many, sampler="grid", sampler_options={"order": "random"}, seed=seed) for seed in (0, 0, 1))]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(20)) != orders[0]


def test_enqueue_takes_part_of_a_point_and_refuses_what_is_not_in_the_space():
    found = searcher(SMALL)
    assert found.enqueue({"a": "y"}) and not found.enqueue({"a": "y"}), "the same again is skipped"
    proposal = found.ask()
    assert proposal.values["a"] == "y" and proposal.values["b"] in (1, 2)
    assert not found.enqueue(proposal.values) and found.enqueue(proposal.values, again=True)
    assert found.ask() == Proposal(proposal.number + 1, proposal.values)
    for wrong, message in [({"a": "z"}, "a is 'z'"), ({"c": 1}, "c is not searched"),
                           ({"a": "y", "b": 7}, "b is 7")]:
        with pytest.raises(UserError, match=message):
            found.enqueue(wrong)


@pytest.mark.parametrize("metrics, reason", [
    ({"loss": float("nan"), "ok": 1.0}, "objective loss is nan"),
    ({"loss": 1.0, "ok": float("-inf")}, "objective ok is -inf"),
    ({"loss": 1.0}, "objective ok was not measured"), (None, "objective loss was not measured"),
    ({"loss": 1.0, "ok": 1.0}, "metric ms of constraint 'ms <= 40' was not measured")])
def test_a_result_that_cannot_count_fails_with_its_reason(metrics, reason):
    found = searcher(constraints=[Constraint("ms", "<=", 40.0)])
    assert found.tell(found.ask().number, "complete", metrics) == "failed"
    trial = found.study.trials[0]
    assert trial.state == TrialState.FAIL and trial.user_attrs["reason"] == reason and trial.values is None


def test_other_numbers_are_kept_and_infinity_is_written_out():
    found = searcher(constraints=[Constraint("ms", "<=", 40.0)])
    found.tell(found.ask().number, "stopped", {"loss": 2.0, "ms": float("inf"), "bytes": 10,
                                               "oracle": "grammar", "nll": None, "x": float("nan")})
    trial = found.study.trials[0]
    assert trial.user_attrs == {"loss": 2.0, "ms": "inf", "measured": {"bytes": 10.0}}
    assert trial.constraints == {"ms <= 40": 1e9}


def test_telling_twice_or_out_of_nothing_is_an_error():
    found = searcher()
    number = found.ask().number
    found.tell(number, "failed", reason="out of memory")
    for wrong in (number, 99):
        with pytest.raises(ValueError, match=f"trial {wrong} is not running"):
            found.tell(wrong, "failed")


def test_stopped_trials_do_not_break_tpe_under_several_objectives():
    found = searcher(sampler_options={"startup": 3}, constraints=[Constraint("ms", "<=", 40.0)])
    for index in range(12):
        proposal = found.ask()
        found.tell(proposal.number, "stopped" if index % 4 else "complete",
                   {"loss": 1.0, "ok": 1.0, "ms": 50.0 - index})
    assert states(found).count("PRUNED") == 9 and states(found).count("COMPLETE") == 3


def test_tpe_learns_what_random_does_not():
    def late_losses(sampler, seed):
        found, losses = searcher({"u": Dimension(**{"float": [0, 1]}), "v": Dimension(choice=list("abcdef"))},
                                 sampler=sampler, seed=seed), []
        for _ in range(50):
            proposal = found.ask()
            off = (proposal.values["u"] - 0.8) ** 2 + (proposal.values["v"] != "d")
            losses.append(off)
            found.tell(proposal.number, "complete", {"loss": off, "ok": -off})
        return sum(losses[25:]) / 25
    assert (sum(late_losses("tpe", seed) for seed in range(3))
            < 0.5 * sum(late_losses("random", seed) for seed in range(3)))


def test_a_driver_killed_mid_way_leaves_no_zombie(tmp_path):
    """Another process asks four times, tells one, and is killed; the records know how two of them ended."""
    path = tmp_path / "study.journal"
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Objective
found = StudySearcher({{"a": Dimension(choice=["x", "y"]), "lr": Dimension(log=[1e-4, 1.0])}},
                      [Objective("loss", "minimize"), Objective("ok", "maximize")],
                      storage=Path({str(path)!r}), seed=7)
found.enqueue({{"a": "x", "lr": 0.5}}, tag="reference")
for _ in range(4):
    proposal = found.ask()
    print(proposal.number, proposal.values["a"], proposal.values["lr"], flush=True)
found.tell(1, "complete", {{"loss": 1.0, "ok": 1.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    asked = [Proposal(int(number), {"a": a, "lr": float(lr)})
             for number, a, lr in map(str.split, done.stdout.splitlines())]
    with path.open("ab") as journal:
        journal.write(b'{"op_code": 8, "torn')  # the line it was writing
    os.symlink(path, f"{path}.lock")  # the lock it held
    found = searcher(storage=path, seed=7)
    rows = [row(asked[0], "rung", loss=3.0, ok=0.1), row(asked[1], "complete", loss=1.0, ok=1.0),
            row(asked[2], "complete", loss=2.0, ok=2.0)]
    assert found.running == (0, 2, 3)
    assert found.restore(rows) == Restored(recovered=(2,), lost=(0, 3), added=())
    assert states(found) == ["FAIL", "COMPLETE", "COMPLETE", "FAIL", "WAITING", "WAITING"]
    assert found.study.trials[2].values == [2.0, 2.0] and found.study.trials[3].user_attrs["reason"] == LOST
    assert found.restore(rows) == Restored((), (), ()), "again changes nothing"
    assert [(item.values, item.tag) for item in (found.ask(), found.ask())] == [
        (asked[0].values, "reference"), (asked[3].values, None)]


def test_restore_fills_gaps_and_proposes_unfinished_trials_again():
    rows = [{"trial": 0, "rung": 0, "state": "complete", "config.a": "x", "config.lr": 0.1, "loss": 1.0,
             "ok": 1.0},
            {"trial": 2, "rung": 0, "state": "rung", "config.a": "y", "config.lr": 0.2, "loss": 1.0,
             "tag": "reference"},
            {"trial": 3, "rung": 0, "state": "failed", "config.a": "y", "config.lr": 0.3,
             "reason": "no memory"}]
    found = searcher()
    assert found.restore(rows) == Restored(recovered=(), lost=(2,), added=(0, 1, 2, 3))
    assert states(found) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "WAITING"]
    assert found.study.trials[3].user_attrs["reason"] == "no memory"
    assert found.ask() == Proposal(4, {"a": "y", "lr": 0.2}, "reference")


def test_a_record_of_another_space_is_refused():
    with pytest.raises(UserError, match="record of trial 0 does not fit the space: gone is not searched"):
        searcher().restore([{"trial": 0, "state": "complete", "config.gone": 1, "loss": 1.0, "ok": 1.0}])


def test_a_resumed_run_may_enqueue_its_warm_points_again(tmp_path):
    first = searcher(storage=tmp_path / "study.journal")
    first.enqueue({"a": "x"}, tag="reference")
    done = first.ask()
    first.tell(done.number, "complete", {"loss": 1.0, "ok": 1.0})
    again = searcher(storage=tmp_path / "study.journal")
    again.restore([row(done, "complete", loss=1.0, ok=1.0)])
    assert not again.enqueue({"a": "x"}, tag="reference") and again.waiting == 0


def test_a_warm_point_in_part_is_known_again_in_a_rebuilt_study():
    found = searcher()
    found.restore([{"trial": 0, "rung": 0, "state": "complete", "tag": "reference", "config.a": "x",
                    "config.lr": 0.1, "loss": 1.0, "ok": 1.0}])
    assert not found.enqueue({"a": "x"}, tag="reference")
    assert found.enqueue({"a": "x"}, tag="other") and found.enqueue({"a": "y"}, tag="reference")


def test_optuna_itself_can_open_the_journal(tmp_path):
    found = searcher(storage=tmp_path / "study.journal", name="shown")
    found.tell(found.ask().number, "complete", {"loss": 1.0, "ok": 0.5})
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    study = optuna.load_study(study_name="shown", storage=optuna.storages.JournalStorage(backend))
    assert (study.metric_names == ["loss", "ok"]
            and [item.name for item in study.directions] == ["MINIMIZE", "MAXIMIZE"])
    assert study.best_trials[0].values == [1.0, 0.5]


def test_a_journal_of_something_else_is_refused(tmp_path):
    searcher(storage=tmp_path / "study.journal")
    with pytest.raises(UserError, match="study of other objectives: minimize loss, maximize ok; "
                                        "this space has maximize ok"):
        StudySearcher(WIDE, [OK], storage=tmp_path / "study.journal")
    (tmp_path / "text").write_text("hello\nworld\nagain\n")
    with pytest.raises(UserError, match="not an Optuna journal"):
        searcher(storage=tmp_path / "text")


def test_bad_samplers_are_named():
    with pytest.raises(UserError,
                       match=r"unknown sampler 'tpee' \(did you mean 'tpe'\?\); legal: tpe, random"):
        searcher(sampler="tpee")
    with pytest.raises(UserError, match="sampler 'tpe': unknown option 'n'; legal: startup, candidates"):
        searcher(sampler_options={"n": 1})
    with pytest.raises(UserError, match="option 'constant_liar' should be a valid boolean, not 3"):
        searcher(sampler_options={"constant_liar": 3})
    with pytest.raises(UserError, match="sampler 'nsga2': option 'population' should be greater than or "
                                        "equal to 2, not 1"):
        searcher(sampler="nsga2", sampler_options={"population": 1})
    with pytest.raises(UserError, match="sampler 'grid' needs a finite space; continuous: lr"):
        searcher(sampler="grid")
    with pytest.raises(UserError, match="option 'order' should be 'given' or 'random', not up"):
        searcher(SMALL, sampler="grid", sampler_options={"order": "up"})


@pytest.mark.parametrize("methods", [registry.METHODS, SCHEDULERS], ids=["samplers", "schedulers"])
def test_every_method_says_what_it_is_and_what_its_options_mean(methods):
    for name, method in methods.items():
        assert method.__doc__.strip().endswith("."), name
        for option, field in methods.form(name).model_fields.items():
            assert field.description and not field.description.endswith("."), (name, option)
            assert field.default == methods.options(name)[option]
    assert registry.options("tpe")["constant_liar"] is True
