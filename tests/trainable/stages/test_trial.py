"""From corpus to exported model with real parts at toy size: prepare, trial, artifact, re-measurement."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import forked

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.quantization.sites import frozen_weights
from trainable.registry import completed
from trainable.stages import trial as stage
from trainable.stages.adapted import adapted_model
from trainable.stages.trial import CHECKPOINT, Trial
from trainable.storage.folders import damage, verified, whole_folder
from trainable.training.loop import TrainingRun
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 400, "valid_sentences": 60, "max_words": 24},
               "max_length": 26, "min_count": 1},
    "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8,
              "dropout": 0.0, "self_conditioning": True, "normalize_embeddings": True},
    "diffusion": {"timesteps": 100, "loss": "ce"},
    "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 20, "lr": 3e-3}},
    "base": {"optim": {"steps": 25, "lr": 5e-3, "ema": 0.9}},
    "adapt": {"optim": {"batch_size": 8, "lr": 1e-3}},
    "sampling": {"steps": 5},
    "evaluation": {"samples": 8, "heldout": 8, "times": 2, "control_samples": 4, "latency_batch": 2,
                   "latency_repeats": 2},
}


def config(**changes) -> TrialConfig:
    return TrialConfig.model_validate({**SETTINGS, **changes})


def job(name, context=None, **payload):
    return list(JOBS[name](payload, context or WorkerContext()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict:
    cache, settings = str(tmp_path_factory.mktemp("cache")), config().model_dump(mode="json")
    corpus = job("corpus", config=settings, cache=cache)[-1]["path"]
    teacher = job("teacher", config=settings, cache=cache, corpus=corpus)[-1]["path"]
    base = job("base", config=settings, cache=cache, corpus=corpus)[-1]
    return {"corpus": corpus, "teacher": teacher, "base": base["path"], "reference": base["reference"]}


QUANTIZED = {"quantization": {"quantizer": {"name": "fixed", "int_bits": 0, "frac_bits": 4},
                              "sites": ["embedding", "projection", "attention"]},
             "lora": {"rank": 2, "targets": ["query", "value", "ffn"]}}


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    settings = config(**QUANTIZED)
    events = job("trial", config=settings.model_dump(mode="json"), prepared=prepared, rungs=[3, 8],
                 folder=str(folder))
    return settings, folder, events


def test_trial_reports_ready_then_each_rung_with_json_able_measurements(finished):
    _, folder, events = finished
    assert [event.get("rung") for event in events] == [None, 0, 1] and events[0] == {"ready": True}
    low, top = events[1:]
    assert (low["steps"], top["steps"], low["final"], top["final"]) == (3, 8, False, True)
    assert ({"perplexity", "nll_bound", "diversity", "size_bytes", "trainable_params", "train_seconds"}
            <= low.keys())
    assert {"latency_ms", "controllability"} <= top.keys() and "latency_ms" not in low
    assert top["latency_ms_alone"] == 1 and top["latency_ms_base"] > 0
    json.dumps(events, allow_nan=False)
    assert not (folder / CHECKPOINT).exists()


def test_a_base_is_timed_once_and_its_trials_by_that(finished, prepared):
    """The base of five steps, by a base of ten that took so long when the run was prepared."""
    settings, _, events = finished
    again = job("base", config=settings.model_dump(mode="json"), cache=str(Path(prepared["base"]).parent),
                corpus=prepared["corpus"])[-1]
    assert again["reference"] == prepared["reference"]
    known = json.loads(prepared["reference"])
    assert (known["steps"], known["yardstick"], known["batch"]) == (50, 10, 2)
    assert 2 < known["latency_ms"] / known["yardstick_ms"] < 10
    assert 0.2 < events[-1]["latency_ms_base"] / known["yardstick_ms"] < 0.9


def test_artifact_holds_the_trained_weights_bit_for_bit_and_generates_what_was_measured(finished, prepared):
    settings, folder, events = finished
    loaded = load(events[-1]["artifact"])
    trial = Trial(settings, _prepared(prepared), [3, 8], folder / "again", torch.device("cpu"), {})
    for index in (0, 1):
        trial.rung(index)
    for name in ("word_embedding", "up.0", "time.2", "body.layer.0.attention.self.key"):
        trained = trial.model.get_submodule(name).weight
        assert torch.equal(trained, loaded.model.get_submodule(name).weight), name
    query = trial.model.get_submodule("body.layer.0.attention.self.query")
    delta = query.lora_B["default"].weight @ query.lora_A["default"].weight * query.scaling["default"]
    assert delta.abs().max() > 0
    ours = loaded.model.get_submodule("body.layer.0.attention.self.query").weight
    assert torch.allclose(ours, query.base_layer.weight + delta, atol=1e-6)
    x, t = torch.randn(2, 26, 8), torch.tensor([3, 70])
    with frozen_weights(trial.model), torch.no_grad():
        assert torch.allclose(trial.model.eval()(x, t), loaded.model(x, t), atol=1e-4)
    ids = loaded.generate(3, torch.Generator().manual_seed(0))
    assert ids.shape == (3, 26) and all(isinstance(word, str) for row in loaded.words(ids) for word in row)


def _prepared(paths):
    from trainable.stages.prepare import Prepared
    return Prepared(**paths)


def test_packed_codes_take_the_bits_they_should(finished):
    from safetensors.torch import load_file
    _, _, events = finished
    path = Path(events[-1]["artifact"])
    tensors = load_file(path / "model.safetensors")
    rows = len(json.loads((path / "lexicon.json").read_text())["vocab"])
    assert tensors["word_embedding.weight::codes"].numel() == -(-rows * 8 * 5 // 8)
    assert "word_embedding.weight" not in tensors and not any("parametrizations" in name for name in tensors)
    assert events[-1]["size_bytes"] >= sum(value.numel() * value.element_size() for value in tensors.values())


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_body_held_as_codes_is_trained_measured_and_exported_as_one_of_floats(prepared, tmp_path, variant):
    from safetensors.torch import load_file
    bounds, files = [], []
    for hold in ("floats", "codes"):
        settings = config(
            quantization={"quantizer": {"name": "nf4", "double": True}, "sites": ["attention", "ffn"]},
            lora={"rank": 2, "targets": ["query", "ffn"], "start": "loftq", "variant": variant},
            adapt={**SETTINGS["adapt"], "hold": hold, "checkpointing": hold == "codes"},
            evaluation={**SETTINGS["evaluation"], "control_tasks": [], "metrics": ["nll_bound"]})
        cache: dict = {}

        def trial():
            return Trial(settings, _prepared(prepared), [3], tmp_path / hold, torch.device("cpu"), cache)  # noqa: B023
        event = trial().rung(0)
        assert ("base" in cache) == (hold == "floats"), "a worker without room lets it go"
        assert trial().steps == 3, "the checkpoint is of either"
        bounds.append(event["nll_bound"])
        files.append(load_file(Path(event["artifact"]) / "model.safetensors"))
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-3) and files[0].keys() == files[1].keys()
    codes = [name for name in files[0] if name.endswith(("::codes", "::scale"))]
    assert len(codes) == 12 and all(torch.equal(files[0][name], files[1][name]) for name in codes)
    assert all(torch.allclose(value, files[1][name].to(value.dtype), atol=1e-3)
               for name, value in files[0].items() if name.endswith(("::lora_a", "::lora_b", "::lora_m")))
    assert sum(name.endswith("::lora_m") for name in files[0]) == (3 if variant == "dora" else 0)


def test_trials_leave_no_trace_in_each_other(prepared, tmp_path, finished):
    """The same trial in a used worker, after a different one, measures the same as in a fresh worker."""
    context = WorkerContext()
    plain = config().model_dump(mode="json")
    job("trial", context, config=plain, prepared=prepared, rungs=[5], folder=str(tmp_path / "other"))
    again = job("trial", context, config=finished[0].model_dump(mode="json"), prepared=prepared, rungs=[3, 8],
                folder=str(tmp_path / "again"))
    for name in ("perplexity", "nll_bound", "diversity", "controllability", "train_loss",
                 "size_bytes_weights"):
        assert again[-1][name] == finished[2][-1][name], name


def test_a_killed_trial_continues_from_its_last_rung(prepared, tmp_path, finished):
    payload = dict(config=finished[0].model_dump(mode="json"), prepared=prepared, rungs=[3, 8],
                   folder=str(tmp_path))
    killed = JOBS["trial"](payload, WorkerContext())
    next(killed), next(killed)
    state = (tmp_path / CHECKPOINT).read_bytes()
    killed.close()
    (tmp_path / CHECKPOINT).write_bytes(state)  # a killed process does not tidy up
    events = job("trial", **payload)
    assert [event.get("rung") for event in events] == [None, 0, 1], "one may have been measured and not told"
    assert [event["nll_bound"] for event in events[1:]] == [event["nll_bound"] for event in finished[2][1:]]


def killed_inside_measuring(payload: dict, doomed: int, told: Path) -> None:
    """Run a trial whose process is killed when it measures for the last time; `told` holds its rungs."""
    whole, seen = stage.measure, []

    def deadly(measurement, final):
        seen.append(final)
        if len(seen) > doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(measurement, final)

    stage.measure = deadly
    with told.open("w") as file:
        for event in JOBS["trial"](payload, WorkerContext()):
            print(event.get("rung"), file=file, flush=True)


@pytest.mark.parametrize("doomed", [0, 1])
def test_a_worker_killed_inside_measuring_loses_no_rung(prepared, tmp_path, tmp_path_factory, finished,
                                                        doomed):
    """Every rung is told after the restart, with the losses of the training that is not repeated."""
    settings = finished[0].model_dump(mode="json")
    payload = dict(config=settings, prepared=prepared, rungs=[3, 8], folder=str(tmp_path))
    told = tmp_path_factory.mktemp("told") / "rungs"
    killed = forked(killed_inside_measuring, payload, doomed, told)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert told.read_text().split() == ["None", "0"][:1 + doomed]
    trained = torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"]
    assert trained == (3, 8)[doomed], "the training of the rung that it measured is kept"
    events = job("trial", **payload)
    assert [event.get("rung") for event in events] == [None, 0, 1]
    for event, whole in zip(events[1:], finished[2][1:], strict=True):
        assert event.keys() == whole.keys()
        for name in ("steps", "final", "train_loss", "perplexity", "nll_bound", "size_bytes_weights"):
            assert event[name] == pytest.approx(whole[name], rel=1e-6), name  # another process, other sums
    assert not (tmp_path / CHECKPOINT).exists()


def test_remeasuring_an_artifact_agrees_and_uses_fresh_noise(finished, prepared):
    event = finished[2][-1]
    same = job("remeasure", artifact=event["artifact"], prepared=prepared, seed=0)[-1]
    fresh = job("remeasure", artifact=event["artifact"], prepared=prepared, seed=1)[-1]
    assert same["nll_bound"] == pytest.approx(event["nll_bound"], rel=1e-4)
    assert fresh["nll_bound"] != same["nll_bound"] and np.isfinite(fresh["perplexity"])
    assert same["size_bytes_weights"] == event["size_bytes_weights"]


def test_prepared_folders_are_reused_and_damage_is_told_once(prepared, tmp_path):
    settings = config(base={"optim": {"steps": 2}}).model_dump(mode="json")
    payload = dict(config=settings, cache=str(tmp_path), corpus=prepared["corpus"])
    first = job("base", **payload)[-1]["path"]
    assert len(job("base", **payload)) == 1  # nothing to do
    weights = Path(first) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model.safetensors has 100 of [\d,]+ bytes; moved aside"):
        job("base", **payload)
    assert job("base", **payload)[-1]["path"] == first and damage(Path(first)) is None


def test_a_base_that_diverges_is_one_line_with_what_to_change_and_leaves_nothing(prepared, tmp_path):
    settings = config(base={"optim": {"steps": 40, "lr": 1e30, "clip": 0.0}}).model_dump(mode="json")
    with pytest.raises(UserError) as error:
        job("base", config=settings, cache=str(tmp_path), corpus=prepared["corpus"])
    told = str(error.value)
    assert told.startswith("base: training diverged (training loss is nan at step ") and "\n" not in told
    mend = "lower base.optim.lr=1e+30, raise base.optim.warmup=50 or set base.optim.clip above 0"
    assert told.endswith(f"; {mend}")
    assert list(tmp_path.iterdir()) == []


def test_a_base_whose_last_step_diverged_is_not_kept(prepared, tmp_path, monkeypatch):
    """Its last loss, from before that step, was finite."""
    whole = TrainingRun.advance

    def advance(run, until):
        parts = whole(run, until)
        next(iter(run.trained.values())).data.fill_(torch.nan)
        return parts

    monkeypatch.setattr(TrainingRun, "advance", advance)
    settings = config(base={"optim": {"steps": 2}}).model_dump(mode="json")
    with pytest.raises(UserError, match=r"diverged \(weights that are not finite after step 2\); lower base"):
        job("base", config=settings, cache=str(tmp_path), corpus=prepared["corpus"])
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_diverges_says_what_to_change(prepared, tmp_path):
    settings = config(adapt={"optim": {"batch_size": 8, "lr": 1e30, "clip": 0.0}}).model_dump(mode="json")
    with pytest.raises(UserError, match=r"^adapt: training diverged \(.*\); lower adapt.optim.lr=1e\+30, "):
        job("trial", config=settings, prepared=prepared, rungs=[100], folder=str(tmp_path))


def test_half_written_folders_never_appear(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "x") as aside:
        (aside / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [] and not verified(tmp_path / "x")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda p: (p / "config.json").unlink(), "is not an artifact"),
    (lambda p: (p / "model.safetensors").write_bytes(b"x" * 50), "damaged artifact"),
])
def test_bad_artifacts_give_one_line(finished, tmp_path, spoil, message):
    import shutil
    copy = tmp_path / "copy"
    shutil.copytree(finished[2][-1]["artifact"], copy)
    spoil(copy)
    with pytest.raises(UserError, match=message) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_collapsed_table_is_counted(prepared):
    base = load(prepared["base"])
    _, facts = adapted_model(config(quantization={"quantizer": "fixed:Q8i0f"}), base)
    assert facts["embedding_collapsed_rows"] > 0
    _, facts = adapted_model(config(quantization={"quantizer": "fixed:Q0i8f"}), base)
    assert facts["embedding_collapsed_rows"] == 0


def test_rows_stored_at_another_rms_change_what_a_format_sees_and_nothing_else(prepared):
    base = load(prepared["base"])
    ids = torch.arange(len(base.lexicon.vocab))[None, :20]
    moved, _ = adapted_model(config(quantization={"embedding_rms": 8.0}), base)
    assert float(moved.word_embedding.weight.detach().square().mean().sqrt()) == pytest.approx(8.0, rel=1e-4)
    time, noise = torch.tensor([40]), torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    said = [model.eval().predict(model.embed(ids) + noise, time).log_probs for model in (base.model, moved)]
    torch.testing.assert_close(said[0], said[1], rtol=1e-4, atol=1e-4)
    coarse, _ = adapted_model(config(quantization={"quantizer": "fixed:Q4i0f"}), base)
    fine, _ = adapted_model(config(quantization={"quantizer": "fixed:Q4i0f", "embedding_rms": 8.0}), base)
    exact = base.model.embed(ids)
    assert (fine.embed(ids) - exact).square().mean() < 0.1 * (coarse.embed(ids) - exact).square().mean()
    free = config(model={**SETTINGS["model"], "normalize_embeddings": False},
                  quantization={"embedding_rms": 8.0})
    with pytest.raises(UserError, match="needs model.normalize_embeddings"):
        adapted_model(completed(free), base)
