"""Model cards say what was measured when the search was over, and no artifact is ever damaged by that."""

import json

import pytest

from search.pareto.front import Front
from search.run.cards import FolderFiles, write_cards
from spaces.config import TrialConfig
from spaces.objectives import Objective
from trainable.registry import completed
from trainable.stages.trial import record_measurements
from trainable.storage.folders import damage

PPL, MS = Objective("perplexity", "minimize"), Objective("latency_ms", "minimize")


def member(run, trial, **columns):
    artifact = run / "artifacts" / f"trial-{trial:04d}"
    artifact.mkdir(parents=True)
    head = {"config": completed(TrialConfig()).model_dump(mode="json")}
    (artifact / "config.json").write_text(json.dumps(head))
    record_measurements(artifact, {"perplexity": 10.0, "perplexity_se": 0.5, "latency_ms": 24.0, "steps": 40})
    return {"trial": trial, "state": "complete", "artifact": f"artifacts/trial-{trial:04d}", **columns}


@pytest.fixture
def front(tmp_path):
    return Front.from_rows([
        member(tmp_path, 1, perplexity=10.0, latency_ms=24.0, again=2, perplexity_again=11.25,
               perplexity_se_again=0.4, latency_ms_again=32.5, latency_ms_again_sd=1.0),
        member(tmp_path, 2, perplexity=11.0, latency_ms=20.0, again=2, perplexity_again=11.0,
               latency_ms_again=21.0),
        member(tmp_path, 3, perplexity=12.0, latency_ms=19.0)], [PPL, MS])


def cards(run):
    return {path.parent.name: path.read_text() for path in run.glob("artifacts/*/MODEL_CARD.md")}


def test_a_card_tells_its_steps_and_that_its_figures_were_chosen(tmp_path, front):
    card = cards(tmp_path)["trial-0003"]
    assert "\n# diffusion_lm on restaurant\n" in card and "Seed 0, 40 adaptation steps." in card
    assert "by which the model was chosen" in card and "| perplexity | 10 | ± 0.98 |  |" in card


def test_fresh_figures_and_verdicts_reach_the_cards(tmp_path, front):
    warned = []
    write_cards(front, "tiny", FolderFiles(tmp_path), warned.append)
    found = cards(tmp_path)
    assert "\n# tiny, trial 1\n" in found["trial-0001"]
    assert "| perplexity | 10 | ± 0.98 | 11.25 | ± 0.5544 |  |" in found["trial-0001"]
    assert "| latency_ms | 24 |  | 32.5 | ± 8.985 | ms |" in found["trial-0001"]
    assert "it lost its place" in found["trial-0001"] and "it held its place" in found["trial-0002"]
    assert "by which the model was chosen" in found["trial-0003"]
    assert not warned and not any(damage(path) for path in (tmp_path / "artifacts").iterdir())


@pytest.mark.parametrize("writes", range(3))
def test_a_kill_between_two_files_leaves_a_whole_artifact_and_the_next_session_ends_it(
        tmp_path, front, writes):
    class Killed(FolderFiles):
        left = writes

        def write(self, name, content):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            super().write(name, content)

    with pytest.raises(KeyboardInterrupt):
        write_cards(front, "tiny", Killed(tmp_path), print)
    assert damage(tmp_path / "artifacts" / "trial-0001") is None
    write_cards(front, "tiny", FolderFiles(tmp_path), print)
    assert "32.5" in cards(tmp_path)["trial-0001"]
    listing = json.loads((tmp_path / "artifacts" / "trial-0001" / "manifest.json").read_text())
    assert "MODEL_CARD.md" in listing and damage(tmp_path / "artifacts" / "trial-0001") is None


def test_an_artifact_that_cannot_be_read_is_warned_of(tmp_path, front):
    (tmp_path / "artifacts" / "trial-0001" / "config.json").write_text("{")
    warned = []
    write_cards(front, "tiny", FolderFiles(tmp_path), warned.append)
    assert len(warned) == 1
    assert warned[0].startswith("the model card of trial 1 is as it was: JSONDecodeError")
    assert "21" in cards(tmp_path)["trial-0002"]
