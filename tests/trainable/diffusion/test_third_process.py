"""A backbone and a process that the product does not know: one folder and one registry line each,
from corpus to text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.cli.main import main
from search.run import validation
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.registry import BACKBONES, PROCESSES
from trainable.stages.prepare import Prepared
from trainable.stages.trial import run_trial
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 300, "max_words": 12}, "max_length": 14,
               "min_count": 0}, "model": {"name": "uniform_lm", "hidden": 16, "positions": 16},
    "diffusion": {"name": "uniform", "timesteps": 10},
    "teacher": {"hidden": 8, "layers": 1, "heads": 1, "optim": {"steps": 4}},
    "base": {"optim": {"steps": 30, "batch_size": 16, "lr": 0.01}},
    "quantization": {"quantizer": "uniform:4", "sites": ["embedding", "ffn"]}, "lora": {"rank": 2},
    "adapt": {"optim": {"batch_size": 8}}, "sampling": {"sampler": "redraw", "steps": 5},
    "evaluation": {"samples": 4, "heldout": 4, "times": 2, "control_tasks": [], "latency_batch": 2,
                   "latency_repeats": 2},
}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(BACKBONES.entries, "uniform_lm", "uniform_diffusion:UniformLM")
    monkeypatch.setitem(PROCESSES.entries, "uniform", "uniform_diffusion:Uniform")


def test_from_corpus_to_generated_text(registered, tmp_path, capsys):
    config, context = TrialConfig.model_validate(SETTINGS), WorkerContext()
    payload = {"config": config.model_dump(mode="json"), "cache": str(tmp_path)}
    for name in ("corpus", "teacher", "base"):
        payload[name] = list(JOBS[name](payload, context))[-1]["path"]
    prepared = Prepared(payload["corpus"], payload["teacher"], payload["base"])
    events = list(run_trial(config, prepared, [4, 8], tmp_path / "trial", context.device, context.cache))
    final = events[-1]
    assert events[0] == {"ready": True} and [event.get("rung") for event in events[1:]] == [0, 1]
    assert (final["perplexity"] > 1 and final["nll_bound"] > 0
            and final["nll_bound_words"] == final["nll_bound"])
    base = Path(prepared.base) / "model.safetensors"
    assert 0 < final["file_bytes"] < base.stat().st_size and "controllability" not in final
    artifact = Path(final["artifact"])
    assert json.loads((artifact / "config.json").read_text())["config"]["diffusion"]["name"] == "uniform"
    assert main(["generate", str(artifact), "-n", "2", "--json"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]


SPACE = """
objectives: {perplexity: minimize}
budget: {trials: 2}
trial: {model: MODEL, diffusion: DIFFUSION, sampling: {sampler: SAMPLER}, evaluation: {control_tasks: TASKS}}
search: {lora.rank: {choice: [0, 2]}}
"""


@pytest.mark.parametrize(("model", "diffusion", "sampler", "tasks", "message"), [
    ("{name: uniform_lm}", "{name: gaussian}", "ancestral", "[]",
     "diffusion.name=gaussian is not read; legal: uniform"),
    ("{}", "{name: uniform}", "redraw", "[]", "model diffusion_lm does not read; legal: gaussian"),
    ("{name: uniform_lm}", "{name: uniform}", "ancestral", "[]",
     "unknown uniform sampler 'ancestral'; legal: redraw"),
    ("{name: uniform_lm}", "{name: uniform}", "redraw", "[length]",
     "evaluation.guidance.by: diffusion uniform offers no gradient"),
])
def test_what_does_not_go_together_is_one_line(registered, model, diffusion, sampler, tasks, message):
    text = (SPACE.replace("MODEL", model).replace("DIFFUSION", diffusion).replace("SAMPLER", sampler)
            .replace("TASKS", tasks))
    with pytest.raises(UserError, match=message):
        validation.check(Space.from_yaml(text, "a.yaml"))


def test_a_space_may_search_over_the_process(registered):
    space = Space.from_yaml("""
objectives: {perplexity: minimize}
budget: {trials: 2}
trial: {evaluation: {control_tasks: []}}
search:
  diffusion.name: {choice: [gaussian, uniform]}
  model.name: {choice: [uniform_lm], when: {diffusion.name: [uniform]}}
  sampling.sampler.name: {choice: [redraw], when: {diffusion.name: [uniform]}}
""", "a.yaml")
    validation.check(space)
    found = [(config.model.name, config.diffusion.name, config.sampling.sampler.name)
             for config in map(space.config, space.enumerate())]
    assert found == [("diffusion_lm", "gaussian", "ancestral"), ("uniform_lm", "uniform", "redraw")]
    with pytest.raises(UserError, match="unknown uniform sampler 'ancestral'"):
        validation.check(space.with_overrides({"search.sampling.sampler.name": None}))
