"""Bad space files: one line each, naming file, line, key and what is legal."""

import pytest

from spaces.errors import UserError
from spaces.schema import Space, load

GOOD = """name: good
trial:
  model: {hidden: 64, heads: 4}
  quantization: {quantizer: fixed}
search:
  lora.rank: {choice: [0, 4]}
  quantization.quantizer.frac_bits: {int: [2, 8]}
objectives: {perplexity: minimize}
budget: {trials: 4}
"""


def broken(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def message_of(text: str) -> str:
    with pytest.raises(UserError) as caught:
        Space.from_yaml(text, "a.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("a.yaml") and len(message) < 600
    return message


def test_the_good_one_is_good():
    assert Space.from_yaml(GOOD, "a.yaml").size() == 14


RANK, FRAC, OBJECTIVES, BUDGET = (
    "lora.rank: {choice: [0, 4]}", "quantization.quantizer.frac_bits: {int: [2, 8]}",
    "objectives: {perplexity: minimize}", "budget: {trials: 4}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("objectives:", "objectves:",
         ["a.yaml:8: objectves: unknown key (did you mean 'objectives'?); legal: name,"]),
        ("budget: {trials", "budget: {trails",
         ["a.yaml:9: budget.trails: unknown key (did you mean 'trials'?); legal: trials, time"]),
        (BUDGET, "budget: {trials: 0}", ["budget.trials: should be greater than or equal to 1, not 0"]),
        (BUDGET, "budget: {trials: '4'}", ['budget.trials: should be a whole number, not "4"']),
        (BUDGET, "budget: {trials: 4.5}", ["budget.trials: should be a whole number"]),
        (BUDGET, "budget: {time: 30 minutes}",
         ["budget.time: '30 minutes' is not a duration; legal: 90s, 30m"]),
        (BUDGET, "budget: {time: 0}", ["budget.time: should be greater than 0"]),
        (BUDGET, "budget: {}",
         ["a.yaml:9: budget: the search would never end; give budget.trials, budget.time"]),
        (BUDGET, BUDGET + "\nbox: {perplexty: [3, 40]}",
         ["box.perplexty: is not an objective", "'perplexity'"]),
        (BUDGET, BUDGET + "\nbox: {perplexity: [40, 3]}",
         ["box.perplexity: [40, 3] is not [best, worst] of a metric to min"]),
        (BUDGET, BUDGET + "\nstart: [{lora.rnk: 4}]",
         ["a.yaml:10: start[0].lora.rnk: is not searched (did you mean 'lora.rank'"]),
        (BUDGET, BUDGET + "\nstart: [{}, {lora.rank: 3}]",
         ["start[1].lora.rank: 3 is not searched; legal: [0, 4]"]),
        (BUDGET, "budget: {money: 3}", ["budget.money: needs budget.price"]),
        (BUDGET, "budget: {trials: 3, trial_time: soon}", ["budget.trial_time: 'soon' is not a duration"]),
        (BUDGET, "budget: 16", ["a.yaml:9: budget: should be a mapping of keys to values, not 16"]),
        (OBJECTIVES, "objectives: {perplexity: minimise}",
         ["objectives.perplexity", "'minimize' or 'maximize'", "did you mean"]),
        (OBJECTIVES, "objectives: {}", ["a.yaml:8: objectives: is empty"]),
        (OBJECTIVES, "objectives: [perplexity]", ["objectives"]),
        (OBJECTIVES, "", ["objectives: is missing; legal: metric to minimize or maximize"]),
        (RANK, "lora.rnk: {choice: [0]}",
         ["a.yaml:6: search.lora.rnk: no such setting (did you mean 'lora.rank'?)", "rank, alpha"]),
        (RANK, "rank: {choice: [0]}", ["search.rank: no such setting (did you mean 'lora.rank'?)"]),
        (RANK, "lora: {choice: [0]}",
         ["search.lora: is a group of settings; pick one of lora.rank, lora.alpha"]),
        (RANK, "lora.rank.x: {choice: [0]}", ["goes too deep: nothing can be named below lora.rank"]),
        (RANK, "lora.rank: {choice: [0, -4]}",
         ["search.lora.rank.choice[1]: should be greater than or equal to 0, not -4"]),
        (RANK, "lora.rank: {choice: [0, four]}",
         ["search.lora.rank.choice[1]: should be a whole number, not four"]),
        (RANK, "lora.rank: {choice: [0, 0]}", ["search.lora.rank: choice holds 0 twice"]),
        (RANK, "lora.rank: {choise: [0, 4]}",
         ["search.lora.rank.choise: unknown key (did you mean 'choice'?); legal: choice, int"]),
        (RANK, "lora.rank: [0, 4]", ["search.lora.rank: should be a mapping of keys to values, not [0, 4]"]),
        (RANK, "lora.rank: {int: [0]}", ["search.lora.rank.int"]),
        (RANK, "lora.rank: {int: [0.5, 2]}", ["search.lora.rank.int[0]: should be a whole number"]),
        (RANK, "lora.rank: {int: [-8, 8]}",
         ["search.lora.rank.int: should be greater than or equal to 0, not -8"]),
        (RANK, "lora.rank: {float: [0, 8]}", ["search.lora.rank.float: takes whole numbers only; use int:"]),
        (RANK, "lora.dropout: {float: [0, 1]}",
         ["search.lora.dropout.float: should be less than 1, not 1.0"]),
        (RANK, "lora.alpha: {log: [0, 1]}", ["search.lora.alpha: log [0.0, 1.0] needs 0 < lowest < highest"]),
        (RANK, "model.dropout: {float: [0, 0.5]}",
         ["search.model.dropout.float: changes the base model", "choice or int"]),
        (RANK, "adapt.optim.steps: {choice: [3]}", ["search.adapt.optim.steps: is set by rungs"]),
        (RANK, "evaluation.samples: {choice: [8, 16]}",
         ["changes how trials are measured", "trial.evaluation.samples"]),
        (RANK, "teacher.hidden: {choice: [64, 128]}", ["different teachers cannot be compared"]),
        (RANK, "runtime.compile: {int: [0, 1]}",
         ["search.runtime.compile.int: should be a valid boolean, not 0"]),
        (RANK, "runtime.precision: {choice: [fp32, fp16]}", ["'fp32' or 'bf16', not fp16"]),
        (RANK, "quantization.sites: {choice: [embedding]}",
         ["search.quantization.sites.choice[0]: should be a list, not embedding"]),
        (RANK, "quantization.sites: {choice: [[emb]]}",
         ["search.quantization.sites.choice[0]: [0]: should be 'embedding'"]),
        (RANK, "quantization.per_site.body: {choice: [none]}",
         ["'body' is not legal here; legal: embedding, projection, attention, ffn"]),
        (RANK, "quantization.per_site.ffn: {choice: ['fixed:8b']}",
         ["'fixed:8b' is not NAME or NAME:Q<int>i<frac>f"]),
        (RANK, "model.hidden: {choice: [64, 128]}",
         ["trial.model.hidden: is fixed here and searched at search.model.hidden"]),
        (RANK, "model.heads: {choice: [4]}", ["trial.model.heads: is fixed here and searched"]),
        (RANK, "quantization.quantizer: {choice: [none]}",
         ["search.quantization.quantizer.frac_bits: is a part of quantization.quantizer"]),
        (RANK, "quantization.quantizer.name: {choice: [none]}",
         ["trial.quantization.quantizer.name: is fixed here and searched"]),
        (RANK, "corpus.max_length: {choice: [8, 512, 600]}",
         ["search.corpus.max_length.choice[2]: should be less than or equal to 512"]),
        (FRAC, "quantization.quantizer.: {choice: [1]}", ["ends with a dot"]),
        (FRAC, "quantization.quantizer.a.b: {choice: [1]}", ["goes too deep"]),
        (RANK, RANK + "\n  lora.rank: {choice: [1]}",
         ["a.yaml:7:3: search.lora.rank: key given twice, first on line 6"]),
        ("{quantizer: fixed}", "{quantizer: 'fixed:Q0i8f'}",
         ["trial.quantization.quantizer.frac_bits: is fixed here and searched"]),
        ("{hidden: 64, heads: 4}", "64", ["trial.model: should be a mapping of keys to values, not 64"]),
        ("  model: {hidden: 64, heads: 4}", "  teacher: {heads: 3}",
         ["teacher.hidden=128 should be a multiple of teacher.heads=3"]),
        ("  model: {hidden: 64, heads: 4}", "  model.hidden: 64",
         ["keys under trial are nested, not dotted; write model: {hidden: ...}"]),
        ("name: good", "name: a/b", ["a.yaml:1: name: should match pattern"]),
        ("name: good", "seed: -1", ["a.yaml:1: seed: should be greater than or equal to 0"]),
        ("name: good", "seed: true", ["seed: should be a whole number, not true"]),
        ("name: good", "rungs: [10, 10]", ["rungs: [10, 10] should increase; legal: [10]"]),
        ("name: good", "rungs: []", ["rungs: is empty"]),
        ("name: good", "rungs: [0, 10]", ["rungs[0]: should be greater than or equal to 1"]),
        ("name: good", "rungs: 300", ["rungs: should be a list, not 300"]),
        ("name: good", "sampler: 3", ["sampler: should be a mapping of keys to values, not 3"]),
        ("name: good", "scheduler: {name: 3}", ["scheduler.name: should be a text, not 3"]),
        ("name: good", "hardware: {gpu: 1}",
         ["hardware.gpu: unknown key (did you mean 'gpus'?); legal: workers, cpus, gpus"]),
        ("name: good", "finish: {repeat: 1}", ["finish.repeat: unknown key (did you mean 'repeats'?)"]),
        ("name: good", "constraints: latency_ms <= 4", ["constraints: should be a list"]),
        ("name: good", "constraints: [latency_ms < 4]",
         ["constraints: 'latency_ms < 4' is not METRIC <= NUMBER"]),
        ("name: good", "constraints: [a <= 1, a >= 2]", ["no value can satisfy both a >= 2 and a <= 1"]),
        ("name: good", "trial: 3", ["key given twice"]),
    ],
)  # fmt: skip
def test_one_line_names_the_key(old, new, parts):
    message = message_of(broken(old, new))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        ("lora.alpha: {choice: [8], when: {lora.rnk: [4]}}",
         ["search.lora.alpha.when.lora.rnk: is not searched", "'lora.rank'"]),
        ("lora.alpha: {choice: [8], when: {lora.rank: [5]}}", ["when.lora.rank: never is 5; legal: [0, 4]"]),
        ("lora.alpha: {choice: [8], when: {lora.rank: 4}}",
         ["search.lora.alpha.when.lora.rank: should be a list, not 4"]),
        ("lora.alpha: {choice: [8], when: {lora.alpha: [8]}}",
         ["conditions go in a circle: lora.alpha -> lora.alpha"]),
        (
            "lora.alpha: {choice: [8], when: {lora.dropout: [0]}}\n  lora.dropout: {choice: [0], when: "
            "{lora.alpha: [8]}}",
            ["conditions go in a circle"],
        ),
        (
            "lora.alpha: {choice: [8], when: {adapt.optim.lr: [1]}}\n  adapt.optim.lr: {log: [0.1, 1]}",
            ["when.adapt.optim.lr: has infinitely many values"],
        ),
        (
            "lora.alpha: {choice: [8], when: {lora.rank: [4]}}\n"
            "  lora.dropout: {choice: [0], when: {lora.rank: [0], lora.alpha: [8]}}",
            ["search.lora.dropout.when: can never hold"],
        ),
    ],
)
def test_conditions(search, parts):
    message = message_of(broken(RANK, f"{RANK}\n  {search}"))
    for part in parts:
        assert part in message


def test_a_rule_between_searched_settings_is_checked_at_every_combination():
    text = broken("  model: {hidden: 64, heads: 4}\n", "").replace(
        RANK, "teacher.hidden: {choice: [64, 96]}\n  teacher.heads: {choice: [4, 12]}"
    ).replace("perplexity", "size_bytes")
    assert ("the space reaches teacher.hidden=64, teacher.heads=12: teacher.hidden=64 should be a multiple"
            in message_of(text))
    Space.from_yaml(text.replace("[4, 12]", "[4, 8]"), "a.yaml")


def test_rungs_and_fixed_steps_must_agree():
    text = "rungs: [5, 10]\n" + broken("  model:", "  adapt: {optim: {steps: 9}}\n  model:")
    assert "trial.adapt.optim.steps: is 9, but the last of rungs is 10" in message_of(text)


def test_grid_needs_a_finite_space():
    text = "sampler: grid\n" + broken(RANK, "lora.dropout: {float: [0, 0.5]}")
    assert ("sampler.name: grid needs finitely many points; use choice or int for lora.dropout"
            in message_of(text))
    Space.from_yaml("sampler: grid\n" + broken(BUDGET, ""), "a.yaml")


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "is empty"), ("- a", "holds [a]"), ("hello", "holds hello"), ("a: [", "malformed"),
     ("search: 3", "search: should")],
)
def test_not_a_space_at_all(text, part):
    assert part in message_of(text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError,
                       match=r"no such space file \(did you mean 'quickstart'\?\); shipped spaces: dllm"):
        load("quikstart.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="b.yaml: is not UTF-8 text"):
        load(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("﻿" + GOOD, encoding="utf-8")
    assert load(tmp_path / "c.yaml").name == "good"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"budgt.trials": 4}, ["--set budgt.trials=4: unknown key 'budgt' (did you mean 'budget'?)"]),
        ({"lora.rank": 4}, ["--set lora.rank=4: unknown key 'lora' (did you mean 'trial.lora.rank'?)"]),
        ({"budget.trials": "many"},
         ["good.yaml, --set budget.trials=many: budget.trials: should be a whole number"]),
        ({"budget.trals": 4}, ["--set budget.trals=4: budget.trals: unknown key (did you mean 'trials'?)"]),
        ({"trial.lora.rank": 4},
         ["--set trial.lora.rank=4: trial.lora.rank: is fixed here and searched at search.lora.rank"]),
        ({"trial.lora.rank.x": 4}, ["trial.lora.rank: should be a whole number, not {x: 4}"]),
        ({"trial.train.lr": 4},
         ["--set trial.train.lr=4: trial.train: no such setting", "legal: seed, corpus"]),
        ({"search.lora.rank.choice": [0, -1]}, ["search.lora.rank.choice[1]: should be greater"]),
        ({"search.train.lr": {"log": [1, 2]}}, ["search.train.lr: no such setting"]),
        ({"search.lora.rnk": None}, ["lora.rnk is not searched (did you mean 'lora.rank'?)"]),
        ({"seed.x": 4}, ["--set seed.x=4: seed holds 3, which has no keys below it"]),
        ({"search": None}, ["search: is missing"]),
        ({"search.lora.rank": None, "search.quantization.quantizer.frac_bits": None}, ["search: is empty"]),
    ],
)  # fmt: skip
def test_overrides_are_blamed_by_name(tmp_path, changes, parts):
    path = tmp_path / "good.yaml"
    path.write_text("seed: 3\n" + GOOD)
    for attempt in (lambda: load(path, changes), lambda: load(path).with_overrides(changes)):
        with pytest.raises(UserError) as caught:
            attempt()
        for part in parts:
            assert part in str(caught.value)


@pytest.mark.parametrize(("given", "shown"), [
    ("'1e-5'", 'not "1e-5"'), ("'null'", 'not "null"'), ('"true"', 'not "true"'),
    ("'007'", 'not "007"'), ("many", "not many"),
    ("[1, 'null']", 'not [1, "null"]'), ("''", 'not ""'), ("null", "not null"), ("'~'", 'not "~"'),
])
def test_a_value_is_shown_as_it_was_written(given, shown):
    """What its quotes made text is not shown as the number, or the null, that it is not."""
    message = message_of(broken("name: good", f"hardware: {{cpus: {given}}}"))
    assert message.endswith(shown), message


def test_an_override_is_shown_as_it_was_written():
    from spaces.overrides import parse

    with pytest.raises(UserError, match=r"--set seed: given twice, as 4 and 5; keep one"):
        parse(["seed=4", "seed=5"])
    with pytest.raises(UserError, match=r'given twice, as "4" and \'5\'; keep one'):
        parse(["seed='4'", "seed='5'"])
