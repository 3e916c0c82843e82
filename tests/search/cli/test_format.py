"""Figures, tables and names as the command line writes them."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console

from search.cli.format import compact, duration, emit, figure, grid, interval, label, short_names, shown


@pytest.mark.parametrize("metric, value, expected", [
    ("size_bytes", 1_234_567, "1.23 MB"), ("size_bytes", 999, "999 B"), ("size_bytes", 2_000, "2 kB"),
    ("size_bytes", 3.4e9, "3.4 GB"), ("latency_ms", 12.345, "12.3 ms"), ("train_seconds", 61, "61 s"),
    ("trainable_params", 87_129_749, "87.1 M"), ("trainable_params", 12, "12"),
    ("perplexity", 8.0, "8"), ("perplexity", 123.4, "123"), ("perplexity", 23456.7, "23,457"),
    ("controllability", 0.8125, "0.812"), ("perplexity", math.nan, "-"), ("perplexity", None, "-"),
    ("perplexity", math.inf, "inf"), ("oracle", "grammar", "grammar"),
])
def test_figure(metric, value, expected):
    assert figure(metric, value) == expected


def test_interval_is_1_96_standard_errors_in_the_same_unit():
    assert interval("latency_ms", {"latency_ms": 12.3, "latency_ms_se": 0.5}) == "12.3 ± 0.98 ms"
    assert interval("latency_ms", {"latency_ms": 12.0, "latency_ms_se": 10.0}) == "12 ± 20 ms (!)"
    assert interval("size_bytes", {"size_bytes": 2e6, "size_bytes_se": 1e5}) == "2 ± 0.2 MB"
    assert interval("perplexity", {"perplexity": 9.5}) == "9.5"
    assert interval("perplexity", {"perplexity": 9.5, "perplexity_se": math.nan}) == "9.5"


@pytest.mark.parametrize("seconds, expected", [
    (0, "0 s"), (59.4, "59 s"), (59.6, "1 m 00 s"), (185, "3 m 05 s"), (7800, "2 h 10 m")])
def test_duration(seconds, expected):
    assert duration(seconds) == expected


def test_short_names_tell_paths_apart():
    names = short_names(["config.lora.rank", "config.quantization.quantizer.name",
                         "config.sampling.sampler.name", "config.base.optim.lr", "config.adapt.optim.lr"])
    assert list(names.values()) == ["rank", "quantizer.name", "sampler.name", "base.optim.lr",
                                    "adapt.optim.lr"]
    assert len(set(names.values())) == 5


def test_compact_values():
    assert compact({"name": "fixed", "int_bits": 0, "frac_bits": 8}) == "fixed(int_bits=0, frac_bits=8)"
    assert compact(["embedding", "projection"]) == "embedding+projection"
    assert compact(0.00123456) == "0.00123"
    assert compact("binary") == "binary"


def test_label_drops_the_unit_that_the_figure_shows():
    assert [label(name) for name in ("latency_ms", "size_bytes", "perplexity", "train_seconds")] == [
        "latency", "size", "perplexity", "train_seconds"]


ROWS = [{"trial": 1, "note": "a,b|c", "value": 1.5}, {"trial": 2, "note": None, "value": 2.5}]


def test_emit_csv_and_json_can_be_read_back():
    assert (list(csv.DictReader(io.StringIO(emit(ROWS, "csv"))))[0]
            == {"trial": "1", "note": "a,b|c", "value": "1.5"})
    assert json.loads(emit(ROWS, "json")) == ROWS
    assert emit([], "json") == "[]"


def test_emit_markdown_escapes_bars():
    lines = emit(ROWS, "md").splitlines()
    assert (lines[0] == "| trial | note | value |" and lines[2] == "| 1 | a,b\\|c | 1.5 |"
            and lines[3] == "| 2 |  | 2.5 |")


def test_grid_aligns_numbers_to_the_right():
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(grid("Title", ("name", "value"), [("a", "1"), ("long", "100")], right=("value",)))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == ["Title", "name  value", "a         1", "long    100"]


def test_paths_are_relative_below_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "runs" / "a") == "runs/a"
    assert shown("/elsewhere/a") == "/elsewhere/a"
