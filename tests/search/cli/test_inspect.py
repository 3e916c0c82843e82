"""`plugins`, `spaces` and `doctor`: complete, true to the code, and free of side effects."""

from __future__ import annotations

import json
import socket
from typing import Literal

import pytest
from pydantic import Field

from search.cli import doctor
from search.cli.main import main
from search.cli.plugins import KINDS, describe, parameters
from search.run import machine
from search.samplers import registry as catalogue
from search.schedulers import registry as schedulers
from spaces.loading import shipped
from trainable.registry import REGISTRIES, Params


def printed(capsys, *arguments: str) -> str:
    """What a command prints."""
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_registered_plugin_is_listed_with_every_parameter(capsys):
    found = json.loads(printed(capsys, "plugins", "--format", "json"))
    assert set(found) == set(KINDS) and set(REGISTRIES) < set(KINDS)
    for kind, registry in REGISTRIES.items():
        assert [plugin["name"] for plugin in found[kind]] == list(registry)
        for plugin in found[kind]:
            fields = registry.get(plugin["name"]).Params.model_fields
            assert [item["name"] for item in plugin["parameters"]] == list(fields)
            assert plugin["doc"], f"{kind} {plugin['name']} has no docstring"
    assert [plugin["name"] for plugin in found["searchers"]] == list(catalogue.METHODS)
    assert [plugin["name"] for plugin in found["schedulers"]] == list(schedulers.SCHEDULERS)


def test_searchers_are_listed_with_their_options(capsys):
    listed = json.loads(printed(capsys, "plugins", "searchers", "--format", "json"))["searchers"]
    assert ({plugin["name"] for plugin in listed} == set(catalogue.METHODS)
            and all(plugin["doc"] for plugin in listed))
    tpe = next(plugin for plugin in listed if plugin["name"] == "tpe")
    assert {option["name"]: option["default"] for option in tpe["parameters"]}["startup"] == 10


def test_metrics_are_listed_with_unit_and_direction(capsys):
    listed = json.loads(printed(capsys, "plugins", "metrics", "--format", "json"))["metrics"]
    metrics = {plugin["name"]: plugin for plugin in listed}
    assert metrics["latency_ms"]["unit"] == "ms" and metrics["latency_ms"]["direction"] == "minimize"


def test_the_page_has_a_heading_per_plugin(capsys):
    page = printed(capsys, "plugins", "quantizers", "--format", "md")
    assert page.startswith("# Plug-ins") and all(f"### `{name}`" in page for name in REGISTRIES["quantizers"])


def test_the_table_shows_name_range_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = printed(capsys, "plugins", "quantizers").splitlines()
    assert lines[0].startswith("QUANTIZERS  trial.quantization.quantizer")
    row = next(line.split() for line in lines if line.split()[:1] == ["frac_bits"])
    assert row[:5] == ["frac_bits", "0", "to", "8", "8"]


class Example:
    """Does something useful. And more."""

    class Params(Params):
        """None."""

        bits: int = Field(4, ge=1, le=8, description="how many")
        form: Literal["a", "b"] = "a"
        rate: float = Field(gt=0)
        names: tuple[str, ...] = ()
        limit: int | None = Field(None, ge=2)


def test_parameters_are_read_from_the_model():
    assert describe("example", Example)["doc"] == "Does something useful"
    rows = {row["name"]: row for row in parameters(Example.Params.model_json_schema())}
    assert rows["bits"] == {"name": "bits", "type": "integer", "legal": "1 to 8", "required": False,
                            "default": 4, "doc": "how many"}
    assert (rows["form"]["type"], rows["form"]["legal"]) == ("choice", "a | b")
    assert (rows["rate"]["legal"], rows["rate"]["required"]) == ("above 0", True)
    assert rows["names"]["type"] == "list of string"
    assert (rows["limit"]["type"], rows["limit"]["legal"]) == ("integer or null", "at least 2")


def test_spaces_lists_what_is_shipped(capsys):
    shown = printed(capsys, "spaces")
    assert all(name in shown for name in shipped()) and "↓ perplexity" in shown and "dimensions" in shown


def test_doctor_reports_all_sections_and_opens_no_connection(capsys, monkeypatch, tmp_path):
    def refuse(*_args):
        raise AssertionError("the doctor must not connect")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    report = json.loads(printed(capsys, "doctor", "--json", "--storage", str(tmp_path)))
    assert list(dict.fromkeys(row["section"] for row in report)) == [
        "software", "devices", "machine", "storage", "ray", "control oracles",
        "pretrained models", "optional", "hub"]
    assert not [row for row in report if row["status"] == "bad"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("able", "status", "words"), [
    ([8, 7], "ok", "integer products"), ([7], "note", "activation_bits: 7"), ([], "note", "floats")])
def test_doctor_says_with_which_activations_int8_bodies_multiply_integers(able, status, words, monkeypatch):
    monkeypatch.setattr("trainable.quantization.int8_products.widths", lambda device: able)
    found = next(one for one in doctor.findings(".") if one.name == "cpu int8")
    assert found.status == status and words in found.detail


def test_doctor_prints_a_verdict(capsys, tmp_path):
    assert "Ready to run." in printed(capsys, "doctor", "--storage", str(tmp_path))


def test_doctor_names_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": ("nothing", "extra")})
    shown = printed(capsys, "doctor", "--storage", str(tmp_path))
    assert "A run would fail: no-such-package" in shown and "nothing: not installed" in shown
    assert (" -m pip install 'qdlm[extra]'  # no_such_module\n" in shown
            and "  make install  # no-such-package\n" in shown)


def test_doctor_lists_the_control_oracles_and_how_to_get_those_that_are_missing(capsys, tmp_path):
    report = json.loads(printed(capsys, "doctor", "--json", "--storage", str(tmp_path)))
    oracles = {row["name"]: row for row in report if row["section"] == "control oracles"}
    assert list(oracles) == list(REGISTRIES["oracles"])
    assert oracles["grammar"]["status"] == oracles["textblob"]["status"] == "ok"
    for row in oracles.values():
        assert (row["status"] == "ok") == (":" not in row["detail"]) and "tags" in row["detail"]


def test_doctor_sees_a_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    finding, = doctor._storage(tmp_path / "file")
    assert finding.status == doctor.BAD and "not writable" in finding.detail


def test_a_check_that_raises_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_ray", lambda: (_ for _ in ()).throw(PermissionError("no")))
    broken, = [finding for finding in doctor.findings(tmp_path) if finding.section == "ray"]
    assert broken.status == doctor.BAD and "PermissionError: no" in broken.detail


@pytest.mark.parametrize("text, expected", [("max 100000", 4.0), ("150000 100000", 1.5)])
def test_cpu_limit_follows_the_control_group(text, expected, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: range(4))
    assert machine.cpu_limit() == expected


@pytest.mark.parametrize(("load", "told"), [(3.9, None), (4.0, "load 4.0, 4 CPUs"), (31.2, "load 31.2")])
def test_a_busy_machine_is_told_before_a_run(load, told, monkeypatch):
    monkeypatch.setattr(machine, "cpu_limit", lambda: 4.0)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (load, 9.0, 9.0))
    said = machine.others_at_work()
    assert said is None if told is None else told in said
