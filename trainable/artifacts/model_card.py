"""MODEL_CARD.md of an artifact: what it is, what was measured, how to run it. For people; nothing
reads it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.config import SITES, CalibrationConfig, QuantizationConfig
from trainable.registry import METRICS, QUANTIZERS

CARD = "MODEL_CARD.md"


VERDICTS = {
    "held": "it held its place on the front",
    "open": "its place on the front is open: another member's new figures lie within its intervals",
    "lost": "it lost its place on the front: another member beats it, or a constraint is broken",
}
SOURCES = {"again": "measured again from these files, with fresh noise",
           "seeds": "trained again with other seeds, and measured"}


@dataclass(frozen=True)
class Fresh:
    """What was measured when the search was over: it chose nothing, so it is what to go by.

    `figures`: metric -> mean and half-width of its 95 % interval. `of`: `again` or `seeds`. `place`: what
    it says of the model's place on the front (`search.pareto.stability`)."""

    figures: Mapping[str, tuple[float, float]]
    of: str
    place: str | None


def model_card(head: Mapping[str, Any], values: Mapping[str, Any], title: str = "",
               fresh: Fresh | None = None) -> str:
    """Markdown from an artifact's config.json (`head`) and its measurements, as flat values. `title`: what
    it is called; by its backbone and corpus where nothing is given."""
    config = head["config"]
    columns = ("metric", "value", "95 %", *(("fresh", "95 %") if fresh else ()), "unit")
    name = title or f"{config['model']['name']} on {config['corpus']['source']['name']}"
    return "\n\n".join([
        "---\nlibrary_name: qdlm\ntags: [diffusion-language-model, quantized, controllable-generation]\n---",
        f"# {_text(name)}",
        _what(config),
        "## Weights\n\n" + _table(("part", "format", "bits a value, stored"), _weights(config, values)),
        "## Measured\n\n" + _table(columns, _measured(values, fresh)) + "\n\n" + _verdict(fresh)
        + _notes(config, values),
        "## Run\n\n```\nqdlm generate PATH -n 4\nqdlm generate PATH --control length=12\nqdlm bench PATH\n"
        "```\n\n"
        "The folder holds safetensors and JSON only, and `manifest.json` lists the sha256 of every file. "
        "Ray is not needed.",
    ]) + "\n"


def _text(value: Any) -> str:
    """One line that Markdown and HTML leave as it is."""
    line = " ".join(str(value).split())
    for sign, word in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        line = line.replace(sign, word)
    return line


def _table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _what(config: Mapping[str, Any]) -> str:
    model, process, sampling = config["model"], config["diffusion"], config["sampling"]
    return (f"A diffusion language model: backbone {_plugin(model)}, trained on the corpus "
            f"{_text(config['corpus']['source']['name'])} by the process {_plugin(process)}. "
            f"It was exported with {sampling['steps']} sampler steps ({_text(sampling['sampler']['name'])}).")


def _plugin(settings: Mapping[str, Any]) -> str:
    """A plug-in's name and its numbers and words."""
    said = [f"{_text(key)} {_text(str(value))}" for key, value in settings.items()
            if key != "name" and isinstance(value, int | float | str) and not isinstance(value, bool)]
    return f"{_text(settings.get('name', ''))} ({', '.join(said)})"


def _weights(config: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple]:
    quantization = QuantizationConfig.model_validate(config["quantization"])
    calibration = CalibrationConfig.model_validate(config.get("calibration", {}))
    rows: list[tuple[str, str, str]] = []
    for site in SITES:
        label = QUANTIZERS.build(quantization.at(site)).label
        if site in ("attention", "ffn") and quantization.body.name != "float32":
            bits = quantization.body.params.get("activation_bits", 8)
            label = f"{quantization.body.name}, after training" + (
                f", inputs of {bits} bits" if bits < 8 else "")
        if calibration.active and site in calibration.sites:
            label = _rounded(calibration)
        rows.append((site, "float32" if label == "none" else label,
                     _figure(values.get(f"bits_per_weight_{site}"))))
    lora = config["lora"]
    if lora["rank"]:
        rows.append(("adapter", f"rank {lora['rank']} on {', '.join(lora['targets'])}" + (
            f", for each of {count} intervals of the noise level"
            if (count := lora.get("intervals", 1)) > 1 else ""), ""))
    return [*rows, ("all values", "", _figure(values.get("bits_per_weight")))]


def _rounded(calibration: CalibrationConfig) -> str:
    """`rotation + gptq (bits 4), calibrated on corrupted text, inputs of 8 bits`."""
    steps = [ref.name for ref in calibration.transforms]
    params = ", ".join(f"{name} {value}" for name, value in calibration.method.params.items())
    name = " + ".join([*steps, calibration.method.name]) + (f" ({params})" if params else "")
    bits = calibration.activation_bits
    static = " in static ranges" if calibration.activation_range == "static" else ""
    inputs = f", inputs of {bits} bits{static}" if bits < 16 else ""
    fixes = ", ".join(ref.name for ref in calibration.corrections)
    return (f"{name}, calibrated on {calibration.source} states{inputs}"
            + (f", corrected by {fixes}" if fixes else ""))


def _verdict(fresh: Fresh | None) -> str:
    if fresh is None:
        return ("Each value is one measurement, by which the model was chosen: the best of many are a little "
                "too good.\n\n")
    said = f": {VERDICTS[fresh.place]}" if fresh.place in VERDICTS else ""
    return f"Fresh: {SOURCES[fresh.of]}; these are the figures to go by{said}.\n\n"


def _measured(values: Mapping[str, Any], fresh: Fresh | None) -> list[tuple]:
    rows = []
    for name in METRICS:
        columns = [key
                   for key in values if key == name or key.startswith(f"{name}_") and not key.endswith("_se")]
        unit = METRICS.get(name).unit
        for key in columns:
            error = values.get(f"{key}_se")
            mean, half = (fresh.figures.get(key) if fresh else None) or (None, 0.0)
            anew = (_figure(mean), f"± {_figure(half)}" if half else "") if fresh else ()
            rows.append((key, _figure(values[key]), "" if error is None else f"± {_figure(1.96 * error)}",
                         *anew, unit if key == name else ""))
    return rows


def _figure(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, int | float):
        return _text(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _notes(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    perplexity = "Perplexity is that of generated text under the run's own teacher; teachers do not compare."
    latency = "Latency is wall time a sentence on the machine of the run."
    steps = values.get("steps")
    taken = "" if steps is None else f", {_figure(steps)} adaptation steps"
    return f"{perplexity} {latency} Seed {config['seed']}{taken}."
