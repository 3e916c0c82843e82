"""Which figures a choice goes by, and intervals that say what they are around."""

from hypothesis import given, settings
from hypothesis import strategies as st

from search.pareto.front import Front
from spaces.objectives import Constraint, Objective

PPL, OK, MS = Objective("ppl", "minimize"), Objective("ok", "maximize"), Constraint("ms", "<=", 40.0)


def row(trial, ppl, ok, **more):
    return {"trial": trial, "rung": 1, "state": "complete", "ppl": ppl, "ok": ok, **more}


def again(trial, ppl, ok, ppl_again, **more):
    return row(trial, ppl, ok, again=1, ppl_again=ppl_again, ok_again=ok, **more)


def trials(front):
    return [member["trial"] for member in front]


NUMBER = st.floats(1.0, 100.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.fixed_dictionaries({"ppl": NUMBER, "ok": st.floats(0, 1)}, optional={
    "ppl_se": NUMBER, "ppl_again": NUMBER, "ppl_again_sd": NUMBER, "ppl_se_again": NUMBER,
    "ppl_seeds": NUMBER, "ppl_seeds_sd": NUMBER, "ok_se": st.floats(0, 1), "ok_again": st.floats(0, 1),
    "ms_again": NUMBER, "ms_se": NUMBER}), min_size=1, max_size=6), st.integers(1, 4))
def test_a_value_lies_in_every_interval_that_is_named_after_it(measured, repeats):
    rows = [row(trial, one.pop("ppl"), one.pop("ok"), again=repeats, seeds=repeats, ms=20.0, **one)
            for trial, one in enumerate(map(dict, measured))]
    for member in Front.from_rows(rows, [PPL, OK], [MS]).member_rows():
        around = {name.removesuffix("_low") for name in member if name.endswith("_low")}
        assert {"ppl", "ppl_again", "ppl_seeds"} & around == {
            name for name, needs in {"ppl": "ppl_se", "ppl_again": "ppl_again",
                                     "ppl_seeds": "ppl_seeds"}.items() if needs in member}
        for name in around:
            assert member[f"{name}_low"] <= member[name] <= member[f"{name}_high"], name


def test_the_choice_goes_by_the_fresh_figures_and_passes_over_who_lost():
    rows = [again(0, 10.0, 0.5, 10.1, ms=24.0, ms_again=32.8, size=1),
            again(1, 11.0, 0.6, 13.0, ms=22.0, ms_again=23.0, size=2),
            again(2, 12.0, 0.7, 12.5, ms=24.0, ms_again=24.5, size=3),
            row(3, 10.5, 0.5, ms=24.0, size=4), again(4, 9.0, 0.4, 9.0, ms=39.0, ms_again=50.0, size=5)]
    front = Front.from_rows(rows, [PPL, OK], [MS])
    assert trials(front) == [4, 0, 1, 2] and front.stability == ["lost", "held", "lost", "held"]
    assert [one["trial"] for one in front.standing] == [0, 2]
    assert front.best("ppl")["trial"] == 0 and front.knee()["trial"] in (0, 2)
    fast = Constraint("ms", "<=", 25.0)
    found = front.within([fast])
    assert trials(found) == [3, 2], "3 keeps to it by its own figure, and comes to the front without 0"
    assert [(one["trial"], bound) for one, bound in found.left_out] == [(0, fast), (1, None)]
    assert front.best("ppl", [fast])["trial"] == 2, "what was measured again goes before what was not"
    assert found.best("ppl")["ms_again"] == 24.5 and found.knee()["trial"] == 2
    own = front.within([Constraint("size", ">=", 4.0)])
    assert trials(own) == [3] and own.best("ppl")["trial"] == 3
    assert own.member_rows()[0]["figures"] == "own"
