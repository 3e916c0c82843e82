"""Bounds of different processes never stand beside each other without a word about it."""

from __future__ import annotations

import json

import pytest

from search.cli.main import main
from search.pareto.process_bounds import mixed_bounds, processes, searched_processes
from search.records.run_folder import RunFolder
from search.reporting.comparison import compare
from search.reporting.report import collect
from search.run.validation import notes
from spaces.schema import Space

SPACE = """
objectives: {OBJECTIVE: minimize, size_bytes: minimize}
budget: {trials: 4}
trial: {evaluation: {control_tasks: []}}
search:
  diffusion.name: {choice: [gaussian, masked]}
  model.name: {choice: [masked_lm], when: {diffusion.name: [masked]}}
  sampling.sampler.name: {choice: [quota], when: {diffusion.name: [masked]}}
"""


def run_of(root, names, objective="nll_bound"):
    """A run with one member of each process named."""
    space = Space.from_yaml(SPACE.replace("OBJECTIVE", objective), "mixed.yaml")
    folder = RunFolder.create(root / "runs", "mixed", space.to_yaml())
    for trial, name in enumerate(names):
        folder.append({"trial": trial, "rung": 0, "state": "complete", "config.diffusion.name": name,
                       "seconds": 3.0, "nll_bound": 2.0 + trial, "nll_bound_process": name,
                       "perplexity": 9.0 + trial, "size_bytes": 4e6 - trial})
    folder.close("finished")
    return folder.path


SAID = "nll_bound bounds the likelihood under gaussian and masked by different sums"


@pytest.mark.parametrize(("names", "objective", "said"), [
    (("gaussian", "masked"), "nll_bound", True), (("gaussian", "masked"), "perplexity", False),
    (("masked", "masked"), "nll_bound", False)])
def test_front_and_report_say_it_where_bounds_of_two_processes_decide(tmp_path, monkeypatch, capsys, names,
                                                                      objective, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    run = run_of(tmp_path, names, objective)
    assert main(["front", str(run)]) == 0
    assert (SAID in capsys.readouterr().out) == said
    assert [SAID in line for line in collect(run)["warnings"]] == [True] * said
    assert main(["front", str(run), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("nll_bound_process") for row in rows] == (
        list(names)[:len(rows)] if objective == "nll_bound" else [None] * len(rows))


def test_runs_of_two_processes_are_not_compared_without_a_word(tmp_path):
    one, other = run_of(tmp_path / "a", ["gaussian"]), run_of(tmp_path / "b", ["masked"])
    assert [SAID in line for line in compare([one, other])["warnings"]] == [True]
    assert compare([one, run_of(tmp_path / "c", ["gaussian"])])["warnings"] == []


def test_a_run_says_it_before_it_begins():
    space = Space.from_yaml(SPACE.replace("OBJECTIVE", "nll_bound"), "mixed.yaml")
    assert searched_processes(space) == ["gaussian", "masked"] and SAID in "".join(notes(space))
    assert not list(notes(Space.from_yaml(SPACE.replace("OBJECTIVE", "perplexity"), "mixed.yaml")))


def test_parts_and_intervals_of_a_bound_are_bounds_too():
    assert mixed_bounds(["nll_bound_again"], ["gaussian", "masked"])
    assert not mixed_bounds(["nll_boundary"], ["gaussian", "masked"])
    assert processes([{"nll_bound": 1.0}, {"nll_bound_process": "masked"}]) == ["masked"]
