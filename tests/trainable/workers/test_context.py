"""Whether something that trials share is made already: rank 0 looks, and every rank of the group has its
answer."""

import json
from pathlib import Path

import torch
from ranks import run_two_ranks

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.storage.folders import whole_folder
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SOURCE = {"name": "restaurant", "sentences": 200, "valid_sentences": 20, "max_words": 24}
CONFIG = TrialConfig.model_validate({
    "corpus": {"source": SOURCE, "max_length": 26, "min_count": 0},
    "diffusion": {"timesteps": 20, "loss": "ce"},
    "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8},
    "base": {"optim": {"steps": 2, "batch_size": 8}}}).model_dump(mode="json")


def make(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside:
        (aside / "text").write_text("made")
    return folder


def asked(context: WorkerContext, folder: Path) -> str:
    try:
        return str(context.agreed(folder))
    except UserError as error:
        return str(error)


def rank_with_a_cache_of_its_own(rank: int, root: str) -> None:
    """Folders that only one of the two ranks finds, one that is damaged, and a base that only rank 1
    finds."""
    context, cache = WorkerContext(torch.device("cpu"), rank, 2, 1), Path(root, str(rank))
    (make(cache / f"only-{rank}") / "text").stat()
    (make(cache / "torn") / "text").write_text("torn")
    answers = [asked(context, cache / name) for name in ("only-0", "only-1", "neither", "torn")]
    corpus = str(Path(root, "corpus"))
    events = list(JOBS["base"]({"config": CONFIG, "cache": str(cache), "corpus": corpus}, context))
    answers.append(str(sum("detail" in event for event in events)))
    Path(root, f"{rank}.json").write_text(json.dumps(answers))


def test_ranks_with_caches_of_their_own_agree(tmp_path):
    corpus = list(JOBS["corpus"]({"config": CONFIG, "cache": str(tmp_path)}, WorkerContext()))[-1]["path"]
    Path(corpus).rename(tmp_path / "corpus")
    payload = {"config": CONFIG, "cache": str(tmp_path / "1"), "corpus": str(tmp_path / "corpus")}
    made = list(JOBS["base"](payload, WorkerContext()))[-1]["path"]
    run_two_ranks(rank_with_a_cache_of_its_own, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first[:3] == ["True", "False", "False"] and "damaged cache" in first[3]
    assert first[4] == "1"  # both trained: had rank 1, which has one, gone on, rank 0 would have hung
    assert (tmp_path / "0" / Path(made).name).is_dir()


def test_a_worker_alone_looks_for_itself(tmp_path):
    context = WorkerContext()
    assert not context.agreed(tmp_path / "it") and context.agreed(make(tmp_path / "it"))
