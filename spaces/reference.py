"""Documentation made from the types: `markdown()` for docs/spaces.md, `json_schema()` for editors.

`python -m spaces.reference` prints the first, `python -m spaces.reference schema` the second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from spaces.config import PluginRef, TrialConfig
from spaces.dimensions import Dimension
from spaces.form import SpaceForm
from spaces.paths import all_paths, is_group, key_pattern, number_type, resolve, type_text
from spaces.values import show

_INTRO = """# Space files

Made from the types by `python -m spaces.reference`; do not edit.

A space file says what is fixed (`trial`), what is searched (`search`), what it is judged by (`objectives`,
`constraints`) and when it ends (`budget`). It is strict YAML: an unknown key, a key given twice or a value out of range
is an error that names the file, the line and what is legal, before anything runs. `1e-3` is a number, and only `true`
and `false` are true and false. Any key can be changed on the command line: `--set budget.trials=4`,
`--set trial.lora.rank=8`; `--set search.lora.rank=null` takes a key away, `--set "constraints+=diversity >= 0.3"` adds to a
list. A bound may carry a unit: `size_bytes <= 200kB`, `latency_ms <= 1.5s`, `controllability >= 90%`.

```yaml
trial:
  model: {hidden: 64, layers: 2, heads: 4, ffn: 256}
search:
  quantization.quantizer.name: {choice: [none, binary, fixed]}
  quantization.quantizer.frac_bits: {int: [2, 8], step: 2, when: {quantization.quantizer.name: [fixed]}}
  lora.rank: {choice: [0, 4, 8]}
  adapt.optim.lr: {log: [1e-4, 1e-2]}
objectives: {perplexity: minimize, size_bytes: minimize}
constraints: [latency_ms <= 40]
budget: {trials: 16, time: 30m}
```
"""
_DIMENSIONS = """Each key of `search` is a dotted trial setting from the tables below, each value one of these forms:
`{choice: [...]}`, `{int: [lowest, highest], step: 1}`, `{float: [lowest, highest]}`, `{log: [lowest, highest]}`.
A plug-in is searched as a whole (`quantization.quantizer: {choice: [none, "fixed:Q0i8f"]}`), or by its name and its
parameters
(`quantization.quantizer.name`, `quantization.quantizer.frac_bits`). A setting is fixed or searched, not both.

These are not searched: `adapt.optim.steps` (set by `rungs`), `evaluation.*` other than `evaluation.guidance.*` (scores
would not be comparable), and `teacher.*` where perplexity is judged. Settings of the corpus, the model, the diffusion
and the base are searched by `choice` or `int`: a base is trained for each combination of their values that a
trial asks for, when the first one does. `budget.bases` bounds how many there can be, which is checked before
the search begins.
"""
_TRIAL = """Under `trial` they are nested, under `search` dotted. A plug-in is written
`{name: fixed, int_bits: 0, frac_bits: 8}`, or in short `binary` or `fixed:Q0i8f`; `qdlm plugins` lists the plug-ins
and their parameters.
"""
_HEAD = "| key | type | default | legal | meaning |\n|---|---|---|---|---|\n"


def markdown() -> str:
    """Every key of a space file: path, type, default, legal range and meaning."""
    parts = [_INTRO, "## Keys of a space file\n", _HEAD + "\n".join(_rows(SpaceForm, "")) + "\n"]
    parts += ["## Searched dimensions\n", _DIMENSIONS, _HEAD + "\n".join(_rows(Dimension, "")) + "\n"]
    parts += ["## Trial settings\n", _TRIAL, _HEAD + "\n".join(_rows(TrialConfig, "", nested=False)) + "\n"]
    for path, group, instance in _groups(TrialConfig(), ""):
        parts += [f"### {path}\n", f"{_first_paragraph(group)}\n"]
        parts.append(_HEAD + "\n".join(_rows(group, f"{path}.", nested=False, instance=instance)) + "\n")
    return "\n".join(parts)


def _groups(node: BaseModel, prefix: str) -> Iterator[tuple[str, type[BaseModel], BaseModel]]:
    for name, field in type(node).model_fields.items():
        if is_group(field.annotation):
            child = getattr(node, name)
            yield prefix + name, field.annotation, child
            yield from _groups(child, f"{prefix}{name}.")


def _rows(
    group: type[BaseModel], prefix: str, nested: bool = True, instance: BaseModel | None = None
) -> Iterator[str]:
    """Table rows; `instance` holds the defaults where they differ from those of the class."""
    for name, field in group.model_fields.items():
        path = prefix + (field.alias or name)
        if is_group(field.annotation):
            if nested:
                yield from _rows(field.annotation, f"{path}.")
            continue
        default = (getattr(instance, name) if instance is not None
                   else field.get_default(call_default_factory=True))
        cells = [f"`{path}`", type_text(field.annotation), _default(default), _legal(field),
                 field.description or ""]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, PluginRef):
        value = value.name if not value.params else value.model_dump()
    if isinstance(value, tuple):
        value = [item.name if isinstance(item, PluginRef) else item for item in value]
    return f"`{show(value)}`" if value != "" else ""


def _legal(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    parts = [
        f"{sign} {getattr(bound, name):,.12g}"
        for bound in field.metadata
        for name, sign in signs.items()
        if getattr(bound, name, None) is not None
    ]
    return ", ".join(parts)


def _first_paragraph(group: type[BaseModel]) -> str:
    return " ".join((group.__doc__ or "").split("\n\n")[0].split())


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a space file, short forms included, for editors that
    check YAML by it."""
    schema = SpaceForm.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    trial = TrialConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= trial.pop("$defs")
    schema["properties"]["trial"] = {**trial, "description": schema["properties"]["trial"]["description"]}
    for name in ("PluginRef", "SamplerConfig", "SchedulerConfig"):
        definitions[name] = {"anyOf": [{"type": "string"}, definitions[name]]}
    time = definitions["BudgetConfig"]["properties"]["time"]
    time["anyOf"] = [{"type": "string", "pattern": r"^(\d+(\.\d+)?[smhd]\s*)+$"}, *time["anyOf"]]
    parameters = [path.replace(".", r"\.") for path in all_paths()
                  if path.endswith(".name") and resolve(path).kind == "name"]
    inside = "|".join(path.removesuffix("name") + r"\w+" for path in parameters)
    numbers = ((path, number_type(resolve(path).annotation)) for path in all_paths())
    named = [path.replace(".", r"\.") + r"\." + (key_pattern(types[0]) or ".+").strip("^$")
             for path, types in numbers if types]
    legal = [{"enum": list(all_paths())}, *({"pattern": f"^({each})$"} for each in (inside, *named))]
    schema["properties"]["search"]["propertyNames"] = {"anyOf": legal}
    schema["required"] = [name for name in schema["required"] if name != "name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1) if sys.argv[1:] == ["schema"] else markdown(), end="")
