"""What the commands of the documentation are run in: their placeholders made real, and minutes of
computing taken out.

Everything is the product's own but four ends: the search itself, a Ray Client's far side, a cluster's job API
and the server of optuna-dashboard.
"""

import re
from pathlib import Path
from types import SimpleNamespace

from recorded_run import record
from report_runs import write_run

from spaces.config import PluginRef, QuantizationConfig, TrialConfig
from trainable.artifacts.artifact import export
from trainable.benchmarking import bench
from trainable.control.conditions import symbols_of
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantization import sites
from trainable.registry import PROCESSES

WORDS = ["START", "END", "UNK", "PAD", "a", "the", "cafe", "serves", "cheap", "Italian", "food", "."]
SENTENCE = "name : Aromi | Type : cafe | food : Italian||Aromi is a cafe that serves Italian food .\n"
RUN = re.compile(r"^(runs/[\w.-]+|RUN|DIR/NAME|s3://BUCKET/runs/NAME)$")
ARTIFACT = re.compile(r"^(ARTIFACT|runs/\S+/artifacts/\S+)$")


class Jobs:
    """A cluster's job API on which every job succeeds at once."""

    def submit_job(self, **given):
        return given["submission_id"]

    def stop_job(self, job):
        return True

    def get_job_status(self, job):
        return "SUCCEEDED"

    async def tail_job_logs(self, job):
        yield f"the log of {job}\n"


def artifact(folder: Path, **quantization) -> Path:
    """An untrained model that was told of lengths, exported."""
    shape = DiffusionLMConfig(embedding_dim=8, hidden=16, layers=1, heads=2, ffn=16, time_dim=8, positions=24,
                              dropout=0.0, conditions=[PluginRef(name="length")])
    config = TrialConfig(model=shape, diffusion=GaussianConfig(timesteps=20, loss="ce"),
                         corpus={"max_length": 14},
                         sampling={"steps": 4}, quantization=QuantizationConfig(**quantization))
    lexicon = Lexicon(WORDS, 14, {"food": {"Italian": [["Italian"]]}}, "words",
                      {"the": {"DET": 1.0}, "cafe": {"NOUN": 1.0}})
    model = DiffusionLM(shape, PROCESSES.params(config.diffusion), WORDS,
                        symbols=symbols_of(shape.conditions, lexicon)).eval()
    sites.apply(model, config.quantization)
    return export(model, config, lexicon, folder, {"base": str(folder.with_name("base-1"))})


class World:
    """A folder in which the commands of the pages find what they name."""

    def __init__(self, root: Path, space: str):
        self.root, self.run = root, write_run(root / "runs", 12)
        self.recorded = record(root / "recorded")
        artifact(root / "artifacts" / "base-1")
        self.artifact = artifact(root / "artifacts" / "trial-0001", quantizer="binary")
        self.text, self.data = root / "text.txt", root / "data"
        self.text.write_text("a small place to eat near the river\n" * 30)
        self.data.mkdir()
        for part in ("train", "valid"):
            (self.data / f"src1_{part}.txt").write_text(SENTENCE * 20)
        for name in ("my.yaml", "mine.yaml"):
            (root / name).write_text(space.replace("TEXT", str(self.text)))
        self.searched: list[dict] = []
        self.weight, self.weighed = bench.weight, {}

    def enter(self, monkeypatch) -> None:
        """Stand in the folder, and put quick ends in the place of the four."""
        monkeypatch.chdir(self.root)
        monkeypatch.setattr("search.run.sweep.run", self._search)
        monkeypatch.setattr("search.distributed.remote.run", lambda address, work, asked, observer: work(
            asked, observer))
        monkeypatch.setattr("cluster.submitting.client", lambda address: Jobs())
        monkeypatch.setattr("dashboards.optuna_server.serve", lambda journal, host, port: None)
        monkeypatch.setattr(bench, "weight", self._weight)
        (self.run / "study.journal").touch()

    def _search(self, space, **given):
        self.searched.append({"space": space, **given})
        return SimpleNamespace(run_folder=self.run, state="finished")

    def _weight(self, side, device, batch, steps, table="auto"):
        """Of each artifact the memory is taken once: that is a process with all libraries."""
        if (side.path, table) not in self.weighed:
            self.weighed[side.path, table] = self.weight(side, device, batch, steps, table)
        return self.weighed[side.path, table]

    def real(self, word: str) -> str:
        """A word of a command with what its placeholder stands for."""
        if RUN.match(word):
            return str(self.run)
        if ARTIFACT.match(word):
            return str(self.artifact)
        if word == "s3://BUCKET/PATH":
            return (self.root / "copied").as_uri()
        word = re.sub(r"\bDIR$", str(self.data), word)
        return {"SPACE": "quickstart"}.get(word, word)
