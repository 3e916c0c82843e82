"""Spaces against the real plug-ins: impossible formats, unknown parameters, metrics, samplers,
missing paths."""

import json
import sys
import types

import pytest
from pydantic import Field, model_validator

from search.run import sweep, validation
from spaces.errors import UserError
from spaces.loading import shipped
from spaces.schema import Space
from trainable.registry import CORPORA, METRICS, QUANTIZERS, Params

HEAD = "objectives: {perplexity: minimize}\nbudget: {trials: 4}\n"
NAME, INT, FRAC = (f"quantization.quantizer.{part}" for part in ("name", "int_bits", "frac_bits"))


def message_of(text: str) -> str:
    space = Space.from_yaml(text, "a.yaml")
    with pytest.raises(UserError) as caught:
        validation.check(space)
    message = str(caught.value)
    assert message.startswith("a.yaml:") and "\n" not in message
    return message


def with_search(*lines: str, trial: str = "{}") -> str:
    return f"{HEAD}trial: {trial}\nsearch:\n" + "".join(f"  {line}\n" for line in lines)


RANK = "lora.rank: {choice: [0, 4]}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            with_search("quantization.quantizer: {choice: [none, 'fixed:Q0i0f']}"),
            ["a.yaml:5: search.quantization.quantizer.choice[1]: quantizer 'fixed'", "Q0i0f has no bits"],
        ),
        (
            with_search("quantization.quantizer: {choice: [none, {name: fixed, frac_bit: 4}]}"),
            ["choice[1]: quantizer 'fixed', parameter 'frac_bit'",
             "parameters: gradient, int_bits, frac_bits"],
        ),
        (
            with_search("quantization.quantizer: {choice: [non]}"),
            ["search.quantization.quantizer.choice[0]: unknown quantizer 'non' (did you mean 'none'?); "
             "legal: none, binary"],
        ),
        (
            with_search("quantization.per_site.ffn: {choice: [none, 'fixed:Q0i0f']}"),
            ["search.quantization.per_site.ffn.choice[1]: quantizer 'fixed': Q0i0f"],
        ),
        (
            with_search("quantization.per_site: {choice: [{}, {ffn: 'fixed:Q0i0f'}]}"),
            ["search.quantization.per_site.choice[1]: quantizer 'fixed': Q0i0f"],
        ),
        (
            with_search(f"{INT}: {{int: [0, 2]}}", f"{FRAC}: {{int: [0, 2]}}",
                        trial="{quantization: {quantizer: fixed}}"),
            [f"a.yaml:6: search.{FRAC}: the space reaches fixed Q0i0f: ",
             "int_bits + frac_bits must be at least 1"],
        ),
        (
            with_search(f"{FRAC}: {{int: [2, 99]}}", trial="{quantization: {quantizer: fixed}}"),
            [f"search.{FRAC}: the space reaches fixed {{frac_bits: 9}}: ", "less than or equal to 8"],
        ),
        (
            with_search(f"{NAME}: {{choice: [none, fixed]}}", f"{FRAC}: {{int: [2, 4]}}"),
            [f"search.{FRAC}: the space reaches none", f"search it with when: {{{NAME}: [fixed]}}"],
        ),
        (
            with_search(
                f"{NAME}: {{choice: [none, fixed, pow2]}}",
                f"{INT}: {{choice: [0], when: {{{NAME}: [fixed, pow2]}}}}",
                f"{FRAC}: {{int: [0, 4], when: {{{NAME}: [pow2]}}}}",
            ),
            [f"search.{FRAC}: the space reaches pow2 Q0i0f"],
        ),
        (
            with_search(f"{NAME}: {{choice: [none, fixd]}}"),
            [f"search.{NAME}: the space reaches fixd: unknown quantizer 'fixd' (did you mean 'fixed'?)"],
        ),
        (
            with_search("sampling.sampler.eta: {float: [0, 2]}", trial="{sampling: {sampler: ddim}}"),
            ["search.sampling.sampler.eta: the space reaches ddim {eta: 2.0}", "less than or equal to 1"],
        ),
        (
            with_search("sampling.sampler.eta: {float: [0, 1]}"),
            ["search.sampling.sampler.eta: the space reaches ancestral", "'eta'"],
        ),
        (
            with_search(RANK, trial="{quantization: {quantizer: 'fixed:Q0i0f'}}"),
            ["a.yaml:3: trial.quantization.quantizer: quantizer 'fixed': Q0i0f has no bits"],
        ),
        (
            with_search(RANK, trial="{quantization: {quantizer: {name: fixed, frac_bits: 40}}}"),
            ["trial.quantization.quantizer.frac_bits: quantizer 'fixed', parameter 'frac_bits'",
             "less than or equal to 8"],
        ),
        (
            with_search(RANK, trial="{quantization: {per_site: {ffn: tern}}}"),
            ["trial.quantization.per_site.ffn.name: unknown quantizer 'tern'"],
        ),
        (
            with_search(f"{NAME}: {{choice: [binary, fixed]}}",
                        trial="{sampling: {sampler: {name: ddim, eta: 3}}}"),
            ["trial.sampling.sampler.eta: sampler 'ddim', parameter 'eta'"],
        ),
        (
            with_search(RANK, trial="{corpus: {source: restauran}}"),
            ["trial.corpus.source.name: unknown corpus 'restauran' (did you mean 'restaurant'?); legal: "
             "restaurant, e2e"],
        ),
        (
            with_search(RANK, trial="{corpus: {source: {name: restaurant, min_words: 20, max_words: 21}}}"),
            ["a.yaml:3: trial.corpus.source: corpus 'restaurant': max_words=21 must be at least min_words + "
             "4 = 24"],
        ),
        (
            with_search(RANK, trial="{evaluation: {control_tasks: [length, lenth]}}"),
            ["trial.evaluation.control_tasks[1].name: unknown control task 'lenth' (did you mean 'length'?)"],
        ),
        (
            with_search(RANK, trial="{evaluation: {control_tasks: [{name: length, tolerance: -1}]}}"),
            ["trial.evaluation.control_tasks[0].tolerance: control task 'length', parameter 'tolerance'"],
        ),
    ],
)
def test_impossible_plugins(text, parts):
    message = message_of(text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("objectives", "parts"),
    [
        ("{perplexty: minimize}",
         ["objectives.perplexty: unknown metric 'perplexty' (did you mean 'perplexity'?); legal:"]),
        ("{perplexity: maximize}",
         ["objectives.perplexity: lower perplexity is better; write perplexity: minimize"]),
        ("{controllability: minimize}",
         ["higher controllability is better; write controllability: maximize"]),
        ("{speed: minimize}", ["unknown metric 'speed'; legal: perplexity, nll_bound, diversity"]),
        ("{perplexity: minimize}\nconstraints: [latency <= 4]",
         ["constraints[0]: unknown metric 'latency'", "'latency_ms'"]),
        ("{perplexity: minimize}\nsampler: {name: tpe, starup: 3}",
         ["sampler.starup: sampler 'tpe': unknown option 'starup'"]),
        ("{perplexity: minimize}\nsampler: bayes", ["sampler: unknown sampler 'bayes'; legal: tpe, random"]),
        ("{perplexity: minimize}\nscheduler: halvin",
         ["scheduler: unknown scheduler 'halvin' (did you mean 'halving'?)"]),
        ("{perplexity: minimize}\nscheduler: {name: halving, eta: 1}",
         ["scheduler.eta: scheduler 'halving': option 'eta'"]),
        ("{perplexity: minimize}\nscheduler: {name: halving, ties: coin}",
         ["'crowding', 'hypervolume' or 'spread', not coin"]),
        ("{perplexity: minimize}\nscheduler: {name: none, eta: 3}",
         ["scheduler 'none': unknown option 'eta'; legal: none"]),
        ("{perplexity: minimize}\nsampler: {name: tpe, startup: many}",
         ["sampler.startup: ", "a whole number, not many"]),
        (
            "{controllability_length: maximize}\ntrial: {evaluation: {control_tasks: []}}",
            ["trial.evaluation.control_tasks: controllability_length needs a control task; legal: length, "
             "semantic, pos, spans, tree, infill, compose"],
        ),
    ],
)
def test_metrics_and_samplers(objectives, parts):
    message = message_of(f"budget: {{trials: 4}}\nsearch: {{lora.rank: {{choice: [0, 4]}}}}\n"
                         f"objectives: {objectives}\n")
    for part in parts:
        assert part in message


BATCH = "cannot be shared equally by hardware.workers="
SEVEN = "{base: {optim: {batch_size: 7}}}"
COMPILED, SEARCHED = "{runtime: {compile: true}}", "runtime.compile: {choice: [false, true]}"


def with_hardware(text: str, **hardware: int) -> str:
    return text + f"hardware: {json.dumps(hardware)}\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (with_hardware(with_search(RANK), workers=3),
         [f"a.yaml:6: hardware.workers: base.optim.batch_size=64 {BATCH}3; ",
          "legal: a multiple of 3, such as 63 or 66, or hardware.workers: 2"]),
        (with_hardware(with_search(RANK), workers=128),
         [f"=64 {BATCH}128; ", "such as 128, or hardware.workers: 64"]),
        (with_hardware(with_search(RANK, trial=SEVEN), workers=2),
         [f"a.yaml:3: trial.base.optim.batch_size: base.optim.batch_size=7 {BATCH}2; ",
          "such as 6 or 8, or hardware.workers: 1"]),
        (with_hardware(with_search(RANK, trial="{adapt: {optim: {batch_size: 2}}}"), workers=4),
         [f"a.yaml:3: trial.adapt.optim.batch_size: adapt.optim.batch_size=2 {BATCH}4; ",
          "such as 4, or hardware.workers: 2"]),
        (with_hardware(with_search("adapt.optim.batch_size: {choice: [32, 30]}"), workers=4),
         [f"a.yaml:5: search.adapt.optim.batch_size: adapt.optim.batch_size=30 {BATCH}4; "]),
        (with_hardware(with_search("adapt.optim.batch_size: {int: [8, 16]}"), workers=4),
         [f"a.yaml:5: search.adapt.optim.batch_size: adapt.optim.batch_size=9 {BATCH}4; "]),
        (with_hardware(with_search("base.optim.batch_size: {choice: [32, 30]}"), workers=4),
         [f"a.yaml:5: search.base.optim.batch_size: base.optim.batch_size=30 {BATCH}4; "]),
        (with_hardware(with_search("base.path: {choice: [null, here]}", trial=SEVEN), workers=2),
         [f"a.yaml:3: trial.base.optim.batch_size: base.optim.batch_size=7 {BATCH}2; "]),
    ],
)
def test_batches_that_the_workers_of_a_trial_cannot_share(text, parts):
    message = message_of(text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", [
    with_search("adapt.optim.batch_size: {int: [8, 16], step: 4}"),
    with_search(RANK, trial="{base: {path: here, optim: {batch_size: 7}}}"),  # it is not trained
    with_search(RANK, trial="{teacher: {optim: {batch_size: 7}}}"),  # one worker trains it
])
def test_batches_that_they_can_share(text):
    validation.check(Space.from_yaml(with_hardware(text, workers=4)))


def test_an_override_and_a_run_from_python_are_refused_before_ray_starts(monkeypatch):
    with pytest.raises(UserError, match=rf"quickstart.yaml:\d+: trial.base.optim.batch_size: .*=64 {BATCH}5"):
        validation.load_checked("quickstart", {"hardware.workers": 5})
    monkeypatch.setattr(sweep.environment, "apply", lambda **_: pytest.fail("Ray is about to start"))
    with pytest.raises(UserError, match=BATCH):
        sweep.run(Space.from_yaml(with_hardware(with_search(RANK), workers=5)))


@pytest.mark.parametrize("text, noted", [
    (with_search(RANK, trial=COMPILED), True), (with_search(SEARCHED), True),
    (with_hardware(with_search(RANK, trial=COMPILED), gpus=1), False), (with_search(RANK), False),
])
def test_compiling_for_a_cpu_is_noted(text, noted):
    found = list(validation.notes(Space.from_yaml(text)))
    assert found == ["runtime.compile is for CUDA, and hardware.gpus is 0: it changes nothing"] * noted


def test_directions_in_the_registry_are_accepted_and_columns_of_metrics_are_free():
    good = ", ".join(f"{name}: {METRICS.get(name).direction}" for name in METRICS)
    for objectives in (good, "controllability_length: maximize, perplexity_se: minimize"):
        text = (f"budget: {{trials: 4}}\nsearch: {{lora.rank: {{choice: [0, 4]}}}}\n"
                f"objectives: {{{objectives}}}\n")
        validation.check(Space.from_yaml(text, "a.yaml"))


def test_a_condition_makes_the_searched_formats_legal():
    validation.check(Space.from_yaml(with_search(
        f"{NAME}: {{choice: [none, fixed, pow2]}}",
        f"{INT}: {{int: [0, 8], when: {{{NAME}: [fixed, pow2]}}}}",
        f"{FRAC}: {{int: [1, 8], when: {{{NAME}: [fixed, pow2]}}}}",
    )))  # fmt: skip


def test_every_combination_is_built_once(monkeypatch):
    built = []
    build = type(QUANTIZERS).build

    def count(self, ref):
        built.append((self.kind, ref.model_dump_json()))
        return build(self, ref)

    monkeypatch.setattr(type(QUANTIZERS), "build", count)
    validation.check(Space.from_yaml(with_search(
        f"{INT}: {{int: [0, 8]}}", f"{FRAC}: {{int: [1, 8]}}", RANK,
        trial="{quantization: {quantizer: fixed}}"
    )))  # fmt: skip
    assert len(built) == len(set(built)) and len([kind for kind, _ in built if kind == "quantizer"]) == 9 * 8


class _FolderParams(Params):
    path: str | None = None
    split: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _given(self):
        if not self.path:
            raise ValueError("where is the text?")
        return self


class _StrictFolderParams(Params):
    path: str


@pytest.mark.parametrize("params", [_FolderParams, _StrictFolderParams])
@pytest.mark.parametrize("source", ["{name: folder, path: null}", "folder"])
def test_a_missing_path_says_how_to_give_it(monkeypatch, params, source):
    module = types.ModuleType("folder_plugins")
    module.Folder = type("Folder", (),
                         {"Params": params, "name": "folder", "__init__": lambda self, params: None})
    monkeypatch.setitem(sys.modules, "folder_plugins", module)
    monkeypatch.setitem(CORPORA.entries, "folder", "folder_plugins:Folder")
    text = with_search(RANK, trial=f"{{corpus: {{source: {source}}}}}")
    if source == "folder" and params is _FolderParams:
        assert "trial.corpus.source: corpus 'folder': where is the text?" in message_of(text)
    else:
        message = message_of(text)
        why = "corpus 'folder': where is the text?" if params is _FolderParams else "corpus 'folder' needs it"
        assert f"trial.corpus.source.path: {why}; " in message
        assert message.endswith("give it with --set trial.corpus.source.path=DIR")
    given = Space.from_yaml(text).with_overrides({"trial.corpus.source.path": "somewhere"})
    validation.check(given)


def test_e2e_spaces_ask_for_the_folder():
    for name in ("e2e", "e2e_paper", "granularity", "masked_e2e"):
        assert (validation.load_checked(name, {"trial.corpus.source.hub": True})
                .example.corpus.source.params["hub"] is True)
        with pytest.raises(UserError,
                           match=rf"spaces/{name}.yaml:\d+: trial.corpus.source.path: .*--set \S+path=DIR"):
            validation.load_checked(name)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_spaces_pass(name, tmp_path):
    built_in = name in ("quickstart", "masked", "dllmquant", "low_bit", "supernet")
    changes = {} if built_in else {"trial.corpus.source.path": str(tmp_path)}
    space = validation.load_checked(f"spaces/{name}.yaml", {**changes, "seed": 3})
    assert (space.seed == 3
            and validation.METRICS.get(space.objectives[0].metric).name == space.objectives[0].metric)


def test_a_folder_that_is_not_there_is_told_before_anything_starts(tmp_path):
    space = validation.load_checked("e2e", {"trial.corpus.source.path": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"trial\.corpus\.source: .*none") as error:
        validation.check_sources(space)
    assert "\n" not in str(error.value)
    validation.check_sources(validation.load_checked("quickstart", {}))


@pytest.mark.parametrize(("task", "message"), [
    ({"name": "pos", "oracle": "spacy:xx_none"}, "'spacy:xx_none' is not installed; get it with: "),
    ({"name": "tree", "oracle": "spacy:xx_none"}, "spacy:xx_none"),
    ({"name": "spans", "targets": "none.json"}, "none.json: cannot be read"),
    ({"name": "compose", "tasks": ["length", {"name": "pos", "oracle": "nobody"}]},
     "unknown control oracle 'nobody'"),
])
def test_what_a_control_task_needs_is_looked_for_before_anything_starts(task, message):
    space = validation.load_checked("quickstart", {"trial.evaluation.control_tasks": ["length", task]})
    with pytest.raises(UserError,
                       match=r"quickstart.yaml, --set .*: trial\.evaluation\.control_tasks\[1\]: ") as error:
        validation.check_sources(space)
    assert message in str(error.value) and "\n" not in str(error.value)

