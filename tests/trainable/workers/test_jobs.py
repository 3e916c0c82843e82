"""Jobs as a worker runs them."""

import torch

from spaces.config import TrialConfig
from trainable.workers import jobs
from trainable.workers.context import WorkerContext

CONFIG = TrialConfig.model_validate({
    "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 20, "max_words": 24},
               "max_length": 26, "min_count": 0},
    "teacher": {"hidden": 8, "layers": 1, "heads": 1, "optim": {"steps": 2}}}).model_dump(mode="json")


def test_a_worker_that_trained_the_teacher_loads_what_trials_need_and_one_that_found_it_does_not(
        tmp_path, monkeypatch):
    """After its last event: whoever waits for the teacher has it by then."""
    loaded, told = [], []
    monkeypatch.setattr(jobs, "load_adapters", lambda: loaded.append(len(told)))
    context, payload = WorkerContext(torch.device("cpu")), {"config": CONFIG, "cache": str(tmp_path)}
    payload["corpus"] = list(jobs.JOBS["corpus"](payload, context))[-1]["path"]
    for event in jobs.JOBS["teacher"](payload, context):
        told.append(event)
    assert "path" in told[-1] and loaded == [len(told)]
    again = list(jobs.JOBS["teacher"](payload, context))
    assert len(again) == 1 and again[0]["path"] == told[-1]["path"] and len(loaded) == 1
