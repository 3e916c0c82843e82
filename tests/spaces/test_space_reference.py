"""The generated reference names every key; the JSON schema accepts the shipped spaces and refuses
typing mistakes."""

import jsonschema
import pytest

from spaces import yaml_text
from spaces.form import SpaceForm
from spaces.loading import shipped
from spaces.paths import PathError, all_paths, resolve
from spaces.reference import json_schema, markdown


def test_every_key_is_documented_with_a_meaning():
    text = markdown()
    for path in all_paths():
        if not path.endswith(".name") and not path.startswith("quantization.per_site."):
            assert f"| `{path}` |" in text, path
    for name in SpaceForm.model_fields:
        assert f"| `{name}` |" in text or f"| `{name}." in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert [row for row in rows if row.split(" | ")[-1].rstrip(" |") == ""] == []
    # the base's own default, not that of the class
    assert "| `base.optim.lr` | number | `0.005` | > 0 |" in text


def test_all_paths_resolve_and_defaults_are_legal():
    for path in all_paths():
        resolve(path)
    assert resolve("quantization.quantizer.frac_bits").kind == "parameter"
    assert resolve("quantization.per_site.ffn.frac_bits").plugin == "quantization.per_site.ffn"
    for path in ("", ".", "lora.", "lora", "a.b", "seed.x", "quantization.per_site.x",
                 "evaluation.control_tasks.length"):
        with pytest.raises(PathError):
            resolve(path)


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_json_schema_accepts_what_is_shipped(validator):
    for path in shipped().values():
        data = yaml_text.read(path.read_text(), path.name).data
        assert [error.message for error in validator.iter_errors(data)] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objectves", {}),
        ("search", {"lora.rnk": {"choice": [1]}}),
        ("search", {"lora.rank": {"choise": [1]}}),
        ("search", {"adapt.optim.lrr": {"choice": [1]}}),
        ("search", {"teacher.hiden": {"choice": [64]}}),
        ("search", {"calibration.bits.ffm_0": {"choice": [2, 3]}}),
        ("budget", {"trials": 0}),
        ("budget", {"time": "soon"}),
        ("sampler", {"name": 3}),
        ("trial", {"lora": {"rank": -1}}),
    ],
)
def test_json_schema_refuses(validator, key, value):
    good = {
        "search": {"quantization.quantizer.frac_bits": {"int": [1, 2]}},
        "objectives": {"perplexity": "minimize"},
        "budget": {"time": "1h30m"}, "sampler": "tpe", "trial": {"quantization": {"quantizer": "fixed"}},
    }  # fmt: skip
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, key: value})
