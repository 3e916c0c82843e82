"""Spaces: what a file means, round trips, overrides, differences."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces import overrides
from spaces.config import SITES, PluginRef, TrialConfig
from spaces.errors import UserError
from spaces.form import BudgetConfig, seconds
from spaces.loading import shipped
from spaces.objectives import Constraint, Objective
from spaces.paths import at
from spaces.schema import Space, load

TEXT = """
description: for tests
trial:
  corpus: {source: {name: restaurant, max_words: 28}, max_length: 32}
  model: {hidden: 64, heads: 4}
  base: {optim: {steps: 100}}
search:
  quantization.quantizer.name: {choice: [none, binary, fixed, pow2]}
  quantization.quantizer.int_bits: {choice: [0, 4], when: {quantization.quantizer.name: [fixed, pow2]}}
  quantization.quantizer.frac_bits: {int: [2, 8], step: 2, when: {quantization.quantizer.name: [fixed]}}
  quantization.per_site.attention: {choice: [none, "fixed:Q0i8f", {name: binary, scale: one}]}
  quantization.sites: {choice: [[embedding], [embedding, projection]]}
  lora.rank: {int: [0, 8], step: 4}
  lora.alpha: {choice: [8, 16.5], when: {lora.rank: [4, 8]}}
  model.self_conditioning: {choice: [false, true]}
objectives: {perplexity: minimize, diversity: maximize}
constraints: [latency_ms <= 40, diversity >= 0.2]
budget: {trials: 16, time: 1h30m}
rungs: [40, 120]
sampler: {name: tpe, startup: 5}
"""
INFINITE = TEXT.replace("model.self_conditioning: {choice: [false, true]}",
                        "adapt.optim.lr: {log: [1e-4, 1e-2]}")


@pytest.fixture
def space() -> Space:
    return Space.from_yaml(TEXT, "folder/my space.yaml")


def test_fields(space):
    assert (space.name == "my-space" and space.description == "for tests"
            and space.source == "folder/my space.yaml")
    assert space.objectives == [Objective("perplexity", "minimize"), Objective("diversity", "maximize")]
    assert space.constraints == [Constraint("latency_ms", "<=", 40.0), Constraint("diversity", ">=", 0.2)]
    assert (space.budget.trials, space.budget.time) == (16, 5400.0)
    assert (space.rungs == (40, 120) and space.sampler.name == "tpe"
            and space.sampler.options == {"startup": 5})
    assert ((space.scheduler.name, space.scheduler.options, space.finish.repeats, space.seed)
            == ("halving", {}, 1, 0))
    assert space.size() == (1 + 1 + 2 * 4 + 2) * 3 * 2 * (1 + 2 + 2) * 2


def test_config_applies_fixed_then_values_and_keeps_other_defaults(space):
    values = {
        "quantization.quantizer.name": "fixed",
        "quantization.quantizer.int_bits": 4,
        "quantization.quantizer.frac_bits": 8.0,
        "quantization.per_site.attention": {"name": "binary", "scale": "one"},
        "quantization.sites": ["embedding", "projection"],
        "lora.rank": 8,
        "lora.alpha": 16.5,
        "model.self_conditioning": True,
    }
    config = space.config(values)
    assert config.quantization.quantizer == PluginRef(name="fixed", int_bits=4, frac_bits=8)
    assert config.quantization.at("attention") == PluginRef(name="binary", scale="one")
    assert config.quantization.sites == ("embedding", "projection")
    assert config.adapt.optim.steps == 120 and config.model.self_conditioning is True
    assert config.corpus.source.params == {"max_words": 28}
    # Only `steps` of the base was fixed: the rest keeps the base's own defaults, not those
    # of any training run.
    assert config.base.optim == TrialConfig().base.optim.model_copy(update={"steps": 100})


def test_parameters_of_another_quantizer_do_not_leak(space):
    values = {
        "quantization.quantizer.name": "binary",
        "quantization.quantizer.int_bits": 4,
        "quantization.quantizer.frac_bits": 8,
        "quantization.per_site.attention": "none",
        "quantization.sites": ["embedding"],
        "lora.rank": 0,
        "lora.alpha": 8,
        "model.self_conditioning": False,
    }
    assert space.config(values).quantization.quantizer == PluginRef(name="binary")
    assert space.config(values).lora.alpha == TrialConfig().lora.alpha
    assert "lora.alpha" not in space.point(values)
    values["quantization.quantizer.name"] = "pow2"
    assert space.config(values).quantization.quantizer == PluginRef(name="pow2", int_bits=4)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"lora.rnk": 4}, ["search.lora.rnk: is not searched", "did you mean 'lora.rank'"]),
        ({"lora.rank": 3}, ["search.lora.rank: 3 is not in it; legal: 0 to 8 in steps of 4"]),
        ({"lora.rank": True}, ["search.lora.rank: true is not in it"]),
        ({"quantization.sites": ["ffn"]},
         ["search.quantization.sites", "[[embedding], [embedding, projection]]"]),
        ({"lora.alpha": None}, ["search.lora.alpha"]),
    ],
)
def test_illegal_points(space, change, parts):
    point = next(point for point in space.enumerate() if point["lora.rank"] == 4)
    with pytest.raises(UserError) as caught:
        space.config({**point, **change})
    assert all(part in str(caught.value) for part in parts)
    del point["lora.rank"]
    with pytest.raises(UserError, match="search.lora.rank: has no value; legal: 0 to 8"):
        space.config(point)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1d 2h", 93600),
     (" 45 ", 45), ("0.5", 0.5)],
)
def test_durations(text, expected):
    assert seconds(text) == expected
    assert BudgetConfig(time=text).time == expected


@pytest.mark.parametrize("text", ["", "m", "30 minutes", "-5m", "1h-", "inf", "nan", "1e3"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is not a duration; legal: 90s, 30m"):
        seconds(text)


def test_every_point_builds_and_reads_back(space):
    seen = set()
    for point in space.enumerate():
        config = space.config(point)
        assert space.point(point) == point
        for path, value in point.items():
            found = at(config, path)
            found = list(found) if isinstance(found, tuple) else found
            assert found == (PluginRef.model_validate(value) if path.endswith("attention") else value)
        assert TrialConfig.model_validate_json(config.model_dump_json()) == config
        seen.add(config.model_dump_json())
    assert len(seen) == space.size()


def test_infinite_space_has_no_size_and_cannot_be_enumerated():
    space = Space.from_yaml(INFINITE, "a.yaml")
    assert space.size() is None
    with pytest.raises(UserError, match="a.yaml:.*: search: has infinitely many points; .* adapt.optim.lr"):
        space.enumerate()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_values_to_config_to_values(data):
    space = Space.from_yaml(INFINITE, "a.yaml")
    values = {}
    for path, dimension in space.dimensions.items():
        if dimension.finite:
            values[path] = data.draw(st.sampled_from(list(dimension.values())))
        else:
            values[path] = data.draw(st.floats(dimension.low, dimension.high))
    point = space.point(values)
    config = space.config(values)
    assert config == space.config(point) and space.point(point) == point
    scalar = [path for path in point
              if not isinstance(point[path], (list, dict)) and not path.endswith("attention")]
    assert {path: at(config, path) for path in scalar} == {path: point[path] for path in scalar}
    inactive = [path for path in values if path not in point and path.startswith("quantization.quantizer.")]
    assert all(at(config, path) is None for path in inactive)


@st.composite
def searches(draw):
    """Random legal `search` trees over a few settings."""
    number = st.integers(0, 64)
    bounds = st.tuples(number, number).map(sorted)
    forms = {
        "lora.rank": st.one_of(
            st.lists(number, min_size=1, max_size=4, unique=True).map(lambda v: {"choice": v}),
            bounds.map(lambda v: {"int": v}),
        ),
        "lora.alpha": st.tuples(st.floats(1e-6, 1), st.floats(2, 100)).map(lambda v: {"log": list(v)}),
        "lora.dropout": st.tuples(st.floats(0, 0.4), st.floats(0.5, 0.9)).map(lambda v: {"float": list(v)}),
        "quantization.sites": st.lists(
            st.lists(st.sampled_from(SITES), unique=True, max_size=4), min_size=1, max_size=4, unique_by=tuple
        ).map(lambda v: {"choice": v}),
        "quantization.quantizer": st.lists(
            st.sampled_from(["none", "binary", "fixed:Q0i8f", "fixed:Q4i4f"]), min_size=1, max_size=4,
            unique=True
        ).map(lambda v: {"choice": v}),
    }
    chosen = draw(st.lists(st.sampled_from(list(forms)), min_size=1, unique=True))
    return {path: draw(forms[path]) for path in chosen}


@settings(max_examples=40, deadline=None)
@given(searches(), st.integers(1, 10**6), st.floats(1, 1e6),
       st.lists(st.integers(1, 10**5), min_size=1, unique=True))
def test_yaml_round_trip(search, trials, time, rungs):
    data = {
        "name": "r", "search": search, "objectives": {"perplexity": "minimize"},
        "budget": {"trials": trials, "time": time}, "rungs": sorted(rungs), "trial": {"seed": trials},
    }  # fmt: skip
    space = Space.from_dict(data)
    again = Space.from_yaml(space.to_yaml())
    assert again.resolved() == space.resolved() and again.to_yaml() == space.to_yaml()
    assert again.difference(space) == [] and again.size() == space.size()
    assert again.dimensions == space.dimensions and again.rungs == space.rungs


def test_resolved_holds_every_default_but_what_is_searched(space):
    resolved = space.resolved()
    assert resolved["trial"]["base"]["optim"]["lr"] == TrialConfig().base.optim.lr
    assert "rank" not in resolved["trial"]["lora"] and "steps" not in resolved["trial"]["adapt"]["optim"]
    assert set(resolved["trial"]["quantization"]) == {"body", "embedding_rms"}  # the rest of it is searched
    again = Space.from_yaml(space.to_yaml(), "run/space.yaml")
    for point in space.enumerate():
        assert again.config(point) == space.config(point)


def test_rungs_default_to_the_steps_of_adapt():
    plain = {"search": {"lora.rank": {"choice": [0]}}, "objectives": {"perplexity": "minimize"},
             "budget": {"trials": 1}}
    assert Space.from_dict(plain).rungs == (TrialConfig().adapt.optim.steps,)
    assert Space.from_dict({**plain, "trial": {"adapt": {"optim": {"steps": 7}}}}).rungs == (7,)
    both = {**plain, "trial": {"adapt": {"optim": {"steps": 7}}}, "rungs": [3, 7]}
    assert Space.from_dict(both).config({"lora.rank": 0}).adapt.optim.steps == 7


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"budget.trials": 99, "budget.time": None, "name": "other", "description": "x"}, []),
        ({"seed": 3}, ["seed: 3 here, 0 in the run"]),
        ({"rungs": [1, 2]}, ["rungs: [1, 2] here, [40, 120] in the run"]),
        ({"trial.base.optim.steps": 7}, ["trial.base.optim.steps: 7 here, 100 in the run"]),
        ({"search.lora.rank.step": 8, "search.lora.alpha.when": {"lora.rank": [8]}},
         ["search.lora.rank: {int: [0, 8], step: 8}"]),
        ({"objectives.size_bytes": "minimize"}, ["objectives.size_bytes: minimize here, absent in the run"]),
        ({"sampler": "random"}, ["sampler.name: random here, tpe in the run"]),
        ({"search.lora.alpha": None}, ["search.lora.alpha: absent here"]),
    ],
)
def test_difference(space, changes, lines):
    found = space.with_overrides(changes).difference(space)
    assert bool(found) == bool(lines)
    for line in lines:
        assert any(line in item for item in found)


def test_overrides_change_any_key(space):
    changed = space.with_overrides({
        "budget.trials": 4, "sampler.startup": 2, "scheduler": "none", "hardware.cpus": 2,
        "search.lora.rank.choice": [4, 8], "search.sampling.temperature": {"float": [0.5, 1]},
        "trial.corpus.source.max_words": 20, "trial.quantization.per_site.ffn.name": "binary",
        "constraints": ["size_bytes <= 1e6"], "objectives.diversity": None,
        "search.model.self_conditioning": None, "trial.model.self_conditioning": True,
    })  # fmt: skip
    assert (changed.budget.trials == 4 and changed.budget.time == 5400
            and changed.sampler.options == {"startup": 2})
    assert changed.scheduler.name == "none" and changed.hardware.cpus == 2
    assert changed.dimensions["lora.rank"].choice == (4, 8) and changed.dimensions["lora.rank"].step is None
    assert changed.dimensions["sampling.temperature"].kind == "float"
    assert changed.constraints == [Constraint("size_bytes", "<=", 1e6)] and len(changed.objectives) == 1
    config = changed.example
    assert (config.corpus.source == PluginRef(name="restaurant", max_words=20)
            and config.model.self_conditioning)
    assert config.quantization.per_site["ffn"] == PluginRef(name="binary")
    assert space.budget.trials == 16 and space.dimensions["lora.rank"].kind == "int"


def test_overrides_add_to_a_list(space):
    changed = space.with_overrides(overrides.parse(["constraints+=size_bytes <= 200kB"]))
    assert changed.constraints == [*space.constraints, Constraint("size_bytes", "<=", 2e5)]
    assert len(changed.with_overrides({"constraints+": ["a >= 1", "b <= 2"]}).constraints) == 5
    with pytest.raises(UserError, match="budget holds .* which is no list"):
        space.with_overrides({"budget+": 4})


def test_override_of_a_parameter_keeps_the_rest_of_a_short_form(space):
    changed = (space.with_overrides({"trial.sampling.sampler": "ddim"})
               .with_overrides({"trial.sampling.sampler.eta": 0.5}))
    assert changed.example.sampling.sampler == PluginRef(name="ddim", eta=0.5)
    assert space.with_overrides({"trial.corpus.source.path": None}).example.corpus.source.name == "restaurant"


def test_parse_reads_yaml_values():
    found = overrides.parse(["budget.trials=4", "trial.adapt.optim.lr=1e-3",
                             "rungs=[1, 2]", "name=a=b", "seed=", "x= y "])
    assert found == {
        "budget.trials": 4,
        "trial.adapt.optim.lr": 0.001, "rungs": [1, 2], "name": "a=b", "seed": None, "x": "y",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["budget.trials", "=4", "rungs=[1", "a=1"])
def test_parse_refuses(text):
    with pytest.raises(UserError, match="--set"):
        overrides.parse([text, "a=1"])


def test_shipped_spaces_load_by_name_by_path_and_from_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(shipped()) == {"quickstart", "masked", "masked_e2e", "dllmquant", "low_bit", "e2e",
                              "e2e_paper", "families", "granularity", "supernet", "transfer"}
    for name in shipped():
        space = load(name)
        assert space.name == name and space.source == f"spaces/{name}.yaml" and space.description
        assert load(f"spaces/{name}.yaml") == space == load(shipped()[name])
        again = Space.from_yaml(space.to_yaml())
        assert again.resolved() == space.resolved() and again.difference(space) == []


def test_a_file_at_hand_wins_over_a_shipped_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "quickstart.yaml").write_text(TEXT)
    assert load("spaces/quickstart.yaml").description == "for tests"
    assert load("quickstart").description != "for tests"


def test_overrides_on_load_may_mend_what_the_file_lacks(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT.replace("budget: {trials: 16, time: 1h30m}", ""))
    with pytest.raises(UserError, match="budget: the search would never end; give budget.trials"):
        load(path)
    assert load(path, {"budget.trials": 3}).budget.trials == 3


def test_paper_grid():
    space = load("e2e_paper")
    found = list(space.enumerate())
    assert space.size() == len(found) == 54
    pairs = {(point["quantization.quantizer"], point["lora.rank"]) for point in found}
    formats = ["none", "binary", "ternary_twn",
               *(f"fixed:{f}" for f in "Q0i4f Q0i8f Q4i0f Q8i0f Q4i4f Q8i8f".split())]
    assert pairs == {(form, rank) for form in formats for rank in (0, 8)}
    assert {point["seed"] for point in found} == {0, 1, 2}
    config = space.config(found[-1])
    assert config.model == TrialConfig().model and config.quantization.sites == ("projection",)
    assert config.base.optim.lr == 1e-4 and config.diffusion.loss == "mse"


def test_granularity_holds_every_split_of_one_to_eight_bits_of_both_families():
    space = load("granularity")
    found = list(space.enumerate())
    splits = {f"{family}:Q{i}i{bits - i}f" for family in ("fixed", "pow2") for bits in range(1, 9)
              for i in range(bits + 1)}
    assert len(splits) == 88 and {point["quantization.quantizer"] for point in found} == splits | {"none"}
    assert {tuple(point["quantization.sites"]) for point in found} == {("embedding",), SITES}
    assert {point["seed"] for point in found} == {0, 1, 2} and len(found) == 89 * 2 * 3
    first = found[:89]  # what stopped early is of use: seed by seed
    assert (len({point["quantization.quantizer"] for point in first}) == 89
            and {point["seed"] for point in first} == {0})
    e2e = load("e2e").example  # whose base is trained by Muon since the tables were made
    optim = e2e.base.optim.model_copy(update={"name": "adamw", "steps": 12000, "lr": 0.008})
    assert (space.config(found[0]).base == e2e.base.model_copy(update={"optim": optim})
            and space.config(found[0]).model == e2e.model)
