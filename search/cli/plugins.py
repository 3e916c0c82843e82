"""`qdlm plugins`: everything that goes by a name in a space file, with its parameters, read from
the code itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import typer

from search.cli.arguments import AS_JSON
from search.cli.examples import examples
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.options import Methods

KINDS = {  # where each kind stands in a space file
    "backbones": "trial.model",
    "processes": "trial.diffusion",
    "quantizers": "trial.quantization.quantizer, trial.quantization.per_site.SITE",
    "bodies": "trial.quantization.body",
    "adapter_starts": "trial.lora.start",
    "methods": "trial.calibration.method, trial.calibration.transforms",
    "token_weights": "trial.calibration.token_weight",
    "corrections": "trial.calibration.corrections",
    "corpora": "trial.corpus.source",
    "samplers": "trial.sampling.sampler",
    "tasks": "trial.evaluation.control_tasks",
    "oracles": "the parameter `oracle` of a control task: NAME, or NAME:MODEL",
    "phrase_plans": "trial.evaluation.guidance.phrases",
    "metrics": "objectives, constraints",
    "searchers": "sampler",
    "schedulers": "scheduler",
    "trackers": "track",
}


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Look around", epilog=examples(
        "qdlm plugins", "everything",
        "qdlm plugins quantizers", "one kind",
        "qdlm plugins metrics --format json", "for programs",
    ))(plugins)


def plugins(
    kind: str | None = typer.Argument(None, help=f"One of: {', '.join(KINDS)}.", show_default=False),
    form: Literal["table", "json", "md"] = typer.Option("table",
                                                        "--format", help="For people, programs, or a page."),
    as_json: bool = AS_JSON,
) -> None:
    """List what can be plugged in, with every parameter: its type, range, default and meaning.
    All can be searched."""
    form = "json" if as_json else form
    if kind is not None and kind not in KINDS:
        raise UserError(f"unknown kind of plug-in {kind!r}; legal: {', '.join(KINDS)}")
    found = {name: catalogue(name) for name in (KINDS if kind is None else (kind,))}
    if form == "json":
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    elif form == "md":
        typer.echo(page(found))
    else:
        show(found)


def catalogue(kind: str) -> list[dict[str, Any]]:
    """The plug-ins of one kind as plain data: name, doc, facts (unit, direction, stage), parameters."""
    if kind == "searchers":
        from search.samplers.registry import METHODS

        return _methods(METHODS)
    if kind == "schedulers":
        from search.schedulers.registry import SCHEDULERS

        return _methods(SCHEDULERS)
    if kind == "trackers":
        from search.trackers.registry import TRACKERS, tracker

        return [describe(name, tracker(name)) for name in TRACKERS]
    from trainable.registry import PROCESSES, REGISTRIES

    if kind == "samplers":
        return [{**describe(name, samplers.get(name)), "process": process} for process in PROCESSES
                for samplers in [PROCESSES.get(process).samplers] for name in samplers]
    registry = REGISTRIES[kind]
    return [describe(name, registry.get(name)) for name in registry]


def _methods(methods: Methods) -> list[dict[str, Any]]:
    """The methods of a catalogue and their options."""
    return [{"name": name, "doc": " ".join((methods[name].__doc__ or "").split()).rstrip("."),
             "parameters": parameters(methods.form(name).model_json_schema())} for name in methods]


def describe(name: str, plugin: type) -> dict[str, Any]:
    """One plug-in class as plain data."""
    words = {fact: getattr(plugin, fact, None) for fact in ("unit", "direction", "stage", "oracle")}
    facts: dict[str, Any] = {fact: word for fact, word in words.items() if isinstance(word, str) and word}
    if (ideal := getattr(plugin, "ideal", None)) is not None:
        facts["ideal"] = ideal
    return {"name": name, "doc": first_sentence(plugin.__doc__), **facts,
            "parameters": parameters(plugin.Params.model_json_schema()) if hasattr(plugin, "Params") else []}


def first_sentence(doc: str | None) -> str:
    """The first sentence of a docstring on one line, without its full stop."""
    text = " ".join((doc or "").split())
    end = text.find(". ")
    return (text if end < 0 else text[:end]).rstrip(".")


def parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, type, legal values, default and meaning of each field of a pydantic model's JSON schema."""
    shared, required = schema.get("$defs", {}), schema.get("required", ())
    rows = []
    for name, field in schema.get("properties", {}).items():
        kind, legal = legal_values(field, shared)
        rows.append({"name": name, "type": kind, "legal": legal, "required": name in required,
                     "default": field.get("default"), "doc": field.get("description", "")})
    return rows


def legal_values(field: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[str, str]:
    """Type and range of one field of a JSON schema, in words: `("integer", "0 to 8")`,
    `("choice", "a | b")`."""
    if "$ref" in field:
        return legal_values(shared[field["$ref"].rpartition("/")[2]], shared)
    for several in ("anyOf", "oneOf"):
        if several in field:
            parts = [legal_values(part, shared) for part in field[several]]
            kinds = dict.fromkeys(kind for kind, _ in parts)
            return " or ".join(kinds), "; ".join(legal for _, legal in parts if legal)
    if "const" in field:
        return "choice", json.dumps(field["const"]).strip('"')
    if "enum" in field:
        return "choice", " | ".join(str(value) for value in field["enum"])
    kind = field.get("type", "any")
    if kind == "array" and isinstance(field.get("items"), Mapping):
        inner, legal = legal_values(field["items"], shared)
        return f"list of {inner}", legal
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    if low is not None and high is not None:
        return kind, f"{low} to {high}"
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    return kind, ", ".join(f"{word} {value}" for word, value in bounds.items() if value is not None)


def default_of(parameter: Mapping[str, Any]) -> str:
    """The default in words."""
    return ("required" if parameter["required"]
            else json.dumps(parameter["default"], ensure_ascii=False).strip('"'))


def facts_of(plugin: Mapping[str, Any]) -> str:
    """What a metric's line says beside its name: `ms, less is better, at best 0`."""
    better = {"minimize": "less is better", "maximize": "more is better"}
    best = f"at best {plugin['ideal']:g}" if "ideal" in plugin else None
    process = f"of diffusion {plugin['process']}" if "process" in plugin else None
    return ", ".join(
        text for text in (plugin.get("unit"), better.get(plugin.get("direction", "")), best, process) if text)


def show(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print plug-ins for people: one block per kind, parameters below their plug-in."""
    from rich.markup import escape
    from rich.padding import Padding

    from search.cli.format import grid, out

    console = out()
    for place, (kind, plugged) in enumerate(found.items()):
        console.print(f"{chr(10) if place else ''}[bold]{kind.upper()}[/]  [dim]{KINDS[kind]}[/]")
        for plugin in plugged:
            facts = facts_of(plugin)
            doc = escape(plugin["doc"]) + (f" [dim]({escape(facts)})[/]" if facts else "")
            head = grid(None, ("", ""), [(f"[bold cyan]{plugin['name']:<16}[/]", doc)], header=False)
            console.print(Padding(head, (0, 0, 0, 2)))
            if not plugin["parameters"]:
                continue
            meant = any(item["doc"] for item in plugin["parameters"])
            rows = [(f"[green]{item['name']}[/]", escape(item["legal"]) or item["type"],
                     escape(default_of(item)), *([escape(item["doc"])] if meant else []))
                    for item in plugin["parameters"]]
            columns = ("parameter", "legal", "default", *(["meaning"] if meant else []))
            console.print(Padding(grid(None, columns, rows), (0, 0, 0, 20)))


def page(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The same as a Markdown page, which `make docs` keeps in docs/."""
    from search.cli.format import emit

    blocks = ["# Plug-ins", "Written by `make docs` from the code. Every parameter can be searched."]
    for kind, plugged in found.items():
        blocks.append(f"## {kind.capitalize()}\n\nIn a space file: `{KINDS[kind]}`.")
        for plugin in plugged:
            facts = facts_of(plugin)
            blocks.append(f"### `{plugin['name']}`\n\n{plugin['doc']}." + (f" ({facts})" if facts else ""))
            if plugin["parameters"]:
                rows = [{"parameter": f"`{item['name']}`", "type": item["type"], "legal": item["legal"]
                         or "any", "default": f"`{default_of(item)}`", "meaning": item["doc"]}
                        for item in plugin["parameters"]]
                blocks.append(emit(rows, "md"))
    return "\n\n".join(blocks)
