"""Control targets are looked at as soon as the corpus is there: nothing is trained for targets that
cannot be asked for."""

import json

import pytest

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

CORPUS = {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 40, "max_words": 18},
          "max_length": 20, "min_count": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def prepared(cache, tasks, corpus=CORPUS, **changes):
    """The corpus job, as a run does it first."""
    settings = {"corpus": corpus, "evaluation": {"control_tasks": tasks, **changes.pop("evaluation", {})},
                **changes}
    config = TrialConfig.model_validate(settings).model_dump(mode="json")
    context = WorkerContext()
    return list(JOBS["corpus"]({"config": config, "cache": cache}, context))[-1]["path"]


def written(tmp_path, *lines):
    path = tmp_path / "targets.json"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def words(*tags):
    return {"words_": ["START", *(f"w{i}" for i in range(len(tags))), "END"], "pos": ["START", *tags, "END"]}


FOOD = ["food", ":", "Italian"]
MISTAKES = [
    ("semantic", (FOOD, ["food", ":", "Klingon", "food"]),
     r"targets.json, line 2: food = Klingon food: 'Klingon' is not in "
     r"the vocabulary; leave the line out or use another value; legal values of food: .*Italian"),
    ("semantic", (["weather", ":", "Italian"],), r"line 1: the corpus has no field 'weather'; legal: .*food"),
    ("semantic", (FOOD, "food = Italian"),
     r"line 2: expected \[\"field\", \":\", \"value\", ...\], not food = Italian"),
    ("length", (12, {"words": 12}), r"line 2: no field 'length' \(found: words\)"),
    ("length", (12, 40), r"line 2: asks for 40 words, but corpus.max_length=20 holds 18"),
    ("pos", (words("DET", "NN"),), r"line 1: 'NN' is no tag"),
    ("spans", ({"words_": ["START", "it", "END"], "spans": [[0, 3, "NP"]]},),
     r"line 1: span \[0, 3, 'NP'\] reaches beyond"),
    ("spans", ({"words_": ["START", "w", "END"], "spans": [[0, 0, "NP"]]},),
     r"line 1: oracle grammar reads no span"),
    ("infill", ({"words_": ["one"]},), "line 1: "),
]


@pytest.mark.parametrize(("name", "lines", "message"), MISTAKES)
def test_a_mistake_in_a_target_file_is_told_before_anything_is_trained(cache, tmp_path, name, lines, message):
    more = {"file_tags": True} if name == "pos" else {}
    task = {"name": name, "targets": written(tmp_path, *lines), **more}
    with pytest.raises(UserError, match=message) as error:
        prepared(cache, [{"name": "length"}, task])
    assert "\n" not in str(error.value)


def test_also_within_a_composition(cache, tmp_path):
    part = {"name": "semantic", "targets": written(tmp_path, FOOD, ["food", ":", "Klingon"])}
    with pytest.raises(UserError, match="line 2: food = Klingon"):
        prepared(cache, [{"name": "compose", "tasks": ["length", part]}])


def test_good_files_and_drawn_targets_pass(cache, tmp_path):
    tasks = ["length", {"name": "semantic", "targets": written(tmp_path, FOOD)}, "pos", "spans", "tree",
             "infill", "compose"]
    assert prepared(cache, tasks)


def test_a_field_that_the_corpus_lacks_lists_those_it_has(cache):
    with pytest.raises(UserError, match="no usable fields weather; legal: .*food"):
        prepared(cache, [{"name": "semantic", "fields": ["weather"]}])


def test_text_without_fields_says_what_to_do(cache, tmp_path):
    (tmp_path / "text").write_text("one two three\nfour five six\n" * 40)
    lines = {"source": {"name": "lines", "path": str(tmp_path / "text")}, "max_length": 10,
             "refuse_unknown": 1.0}
    with pytest.raises(UserError,
                       match="leave the task out of evaluation.control_tasks or use a corpus with fields"):
        prepared(cache, ["semantic"], corpus=lines)
    assert prepared(cache, ["length"], corpus=lines)


def test_a_value_that_the_model_is_never_told(cache, tmp_path):
    """Words of the vocabulary, and of the field, but in no text of this corpus."""
    task = {"name": "semantic", "targets": written(tmp_path, FOOD, ["food", ":", "cheap", "Italian"])}
    model = {"conditions": ["semantic"]}
    assert prepared(cache, [task], model=model)
    with pytest.raises(UserError,
                       match="never told 'semantic food = cheap Italian' .* it knows .*food = Italian"):
        prepared(cache, [task], model=model, evaluation={"guidance": {"by": "both"}, "control_samples": 4})
