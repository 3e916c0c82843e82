"""Post-training quantization through the product: corpus, base, a trial that trains nothing, artifact,
text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from search.cli.main import main
from search.run.allocation import SLACK
from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.artifacts.model_card import CARD
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.quantization.post_training.stored import KEY, RoundedLinear
from trainable.stages.calibrate import text_rows
from trainable.stages.prepare import Prepared, check_calibration
from trainable.stages.sensitivity import compared
from trainable.stages.trial import run_trial
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SETTINGS = {
    "corpus": {
        "source": {"name": "restaurant", "sentences": 300, "valid_sentences": 60, "max_words": 12},
        "max_length": 14,
        "min_count": 0,
    },
    "model": {
        "embedding_dim": 8,
        "hidden": 32,
        "layers": 2,
        "heads": 2,
        "ffn": 64,
        "time_dim": 8,
        "dropout": 0.0,
        "self_conditioning": True,
    },
    "diffusion": {"timesteps": 100, "loss": "ce"},
    "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 4}},
    "base": {"optim": {"steps": 60, "lr": 5e-3}},
    "sampling": {"steps": 4},
    "evaluation": {
        "samples": 8,
        "heldout": 32,
        "times": 2,
        "control_tasks": [],
        "latency_batch": 2,
        "latency_repeats": 2,
        "metrics": ["kl_to_base", "perplexity", "latency_ms"],
    },
    "adapt": {"train": False},
}
BODY = 12  # Linears of two layers
GPTQ3 = {"method": {"name": "gptq", "bits": 3}, "texts": 24, "levels": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    payload = {
        "config": TrialConfig.model_validate(SETTINGS).model_dump(mode="json"),
        "cache": str(tmp_path_factory.mktemp("cache")),
    }
    for name in ("corpus", "teacher", "base"):
        payload[name] = list(JOBS[name](payload, WorkerContext()))[-1]["path"]
    return Prepared(payload["corpus"], payload["teacher"], payload["base"])


def rows(prepared, folder, calibration, rungs=(4,), **changes) -> list[dict]:
    """What a trial yields at each rung."""
    config = TrialConfig.model_validate({**SETTINGS, "calibration": calibration, **changes})
    return list(run_trial(config, prepared, list(rungs), folder, torch.device("cpu"), {}))[1:]


@pytest.fixture(scope="module")
def gptq(prepared, tmp_path_factory) -> list[dict]:
    return rows(prepared, tmp_path_factory.mktemp("gptq"), GPTQ3, rungs=(2, 4))


def test_rungs_are_shares_of_the_calibration_states(gptq):
    assert [(row["steps"], row["calibration_states"], row["final"]) for row in gptq] == [
        (2, 12, False),
        (4, 24, True),
    ]
    assert all(row["train_seconds"] == 0 and row["trainable_params"] == 0 for row in gptq)


def test_block_by_block_a_trial_measures_the_same(gptq, prepared, tmp_path):
    again = rows(prepared, tmp_path, {**GPTQ3, "offload": True}, rungs=(2, 4))
    for own, other in zip(again, gptq, strict=True):
        for name in ("kl_to_base", "kl_to_base_flips", "perplexity", "file_bytes"):
            assert own[name] == other[name], name


def test_what_was_measured_is_what_the_files_hold(gptq, prepared):
    final = gptq[-1]
    again = list(
        JOBS["remeasure"](
            {"artifact": final["artifact"], "prepared": vars(prepared), "seed": 0}, WorkerContext()
        )
    )[-1]
    for name in ("kl_to_base", "kl_to_base_flips", "perplexity", "size_bytes"):
        assert again[name] == final[name], name
    assert 0 < final["kl_to_base"] and 0 < final["kl_to_base_se"] < final["kl_to_base"]


def test_bits_are_counted_from_what_is_written(gptq):
    final, folder = gptq[-1], Path(gptq[-1]["artifact"])
    head = json.loads((folder / "config.json").read_text())
    assert len(head["packing"]) == BODY and all(entry[KEY]["bits"] == 3 for entry in head["packing"].values())
    # 3 bits a code, and 16 + 8 bits a row for scale and zero point: rows of 32 values, and of 64 in one ffn
    # matrix
    assert final["bits_per_weight_attention"] == pytest.approx(3 + 24 / 32)
    assert final["bits_per_weight_ffn"] == pytest.approx(3 + (24 / 32 + 24 / 64) / 2)
    assert final["bits_per_weight_embedding"] == 32
    assert "gptq (bits 3" in (folder / CARD).read_text()


@pytest.mark.parametrize(
    "calibration",
    [
        {"method": "rtn:2"},
        {"method": "gptq:3", "transforms": ["rotation"]},
        {"method": {"name": "gptq", "bits": 3, "group": 8, "order": "activation", "static_groups": False}},
        {"method": "hqq:3", "transforms": ["awq", {"name": "rotation", "signs": "random", "seed": 3}]},
        {"method": "smoothquant:4", "activation_bits": 8, "sites": ["projection", "attention", "ffn"]},
        {"method": "quant_dllm:2", "source": "rollout"},
        {
            "method": "gptq:4",
            "transforms": ["awq", "rotation"],
            "activation_bits": 4,
            "source": "rollout_quota",
            "token_weight": "cgq_survey",
        },
        {"activation_bits": 4, "source": "clean", "token_weight": "cgq_thirdparty"},
        {
            "method": "gptq:4",
            "activation_bits": 8,
            "intervals": 2,
            "token_weight": {"name": "fair", "probes": 8},
            "corrections": ["tac", "ia_aq", "softmax_bias", "state_clip", "interval_scales"],
        },
    ],
    ids=lambda value: "-".join(str(part) for part in value.values())[:50],
)
def test_every_way_loads_as_it_was_measured(prepared, tmp_path, calibration):
    final = rows(prepared, tmp_path, {"texts": 24, **calibration})[-1]
    loaded, base = load(final["artifact"]), load(prepared.base)
    rounding = calibration.get("activation_bits", 16) < 16
    layers = sum(isinstance(module, RoundedLinear) for module in loaded.model.modules())
    assert layers == rounding * (BODY + 6 * ("projection" in calibration.get("sites", ())))
    x, t = torch.randn(3, 14, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 50, 90])
    with torch.no_grad():
        ours, theirs = (model.predict(x, t).log_probs for model in (loaded.model, base.model))
    assert torch.isfinite(ours).all() and not torch.equal(ours, theirs)
    again = list(
        JOBS["remeasure"](
            {"artifact": final["artifact"], "prepared": vars(prepared), "seed": 0}, WorkerContext()
        )
    )[-1]
    assert again["kl_to_base"] == final["kl_to_base"] > 0


def test_more_texts_than_there_are_is_said_before_anything_is_trained(prepared):
    for source in ("clean", "rollout"):
        settings = {**SETTINGS, "calibration": {"method": "gptq:3", "texts": 9999, "source": source}}
        config = TrialConfig.model_validate(settings)
        if source == "rollout":
            check_calibration(config, Path(prepared.corpus))
            continue
        with pytest.raises(UserError, match="calibration.texts: 9999 asked for, the training text has"):
            check_calibration(config, Path(prepared.corpus))


def test_generation_and_bench_run_it(gptq, prepared, tmp_path, capsys, monkeypatch):
    final = rows(
        prepared, tmp_path / "a", {"method": "gptq:4", "transforms": ["rotation"], "activation_bits": 8}
    )[-1]
    monkeypatch.chdir(tmp_path)
    unknown = {"disk": 1, "weights": 1, "resident": None, "peak": None}  # a process of its own, slow to start
    monkeypatch.setattr("trainable.benchmarking.bench.weight", lambda *_: unknown)
    for artifact in (final["artifact"], gptq[-1]["artifact"]):
        assert main(["generate", artifact, "-n", "3", "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 3
    assert (
        main(
            [
                "bench",
                final["artifact"],
                "--against",
                "base",
                "--batch",
                "1",
                "--steps",
                "2",
                "--repeats",
                "2",
            ]
        )
        == 0
    )


def test_more_bits_are_nearer_to_the_base(prepared, tmp_path, gptq):
    eight = rows(prepared, tmp_path, {**GPTQ3, "method": "gptq:8"})[-1]
    assert eight["kl_to_base"] < 0.05 * gptq[-1]["kl_to_base"]
    nothing = rows(prepared, tmp_path / "none", {})[-1]
    assert nothing["kl_to_base"] == 0 == nothing["kl_to_base_flips"]


def test_a_trial_may_train_first(prepared, tmp_path):
    final = rows(
        prepared,
        tmp_path,
        GPTQ3,
        rungs=(2, 4),
        adapt={"optim": {"batch_size": 8}},
        lora={"rank": 2},
        quantization={"quantizer": "uniform:4", "sites": ["embedding"]},
    )[-1]
    assert (
        final["train_seconds"] > 0
        and final["calibration_states"] == 24
        and final["bits_per_weight_attention"] < 4
    )
    assert final["bits_per_weight_embedding"] < 8


MASKED = {
    "model": {"name": "masked_lm", "hidden": 32, "layers": 1, "heads": 2, "ffn": 48, "positions": 16},
    "diffusion": {"name": "masked"},
    "sampling": {"sampler": "quota", "steps": 4},
}


def test_a_masked_model_from_corpus_to_text(prepared, tmp_path, capsys):
    settings = {**SETTINGS, **MASKED}
    payload = {
        "config": TrialConfig.model_validate(settings).model_dump(mode="json"),
        "cache": str(tmp_path),
        "corpus": prepared.corpus,
    }
    base = list(JOBS["base"](payload, WorkerContext()))[-1]["path"]
    own = Prepared(prepared.corpus, prepared.teacher, base)
    calibration = {
        "method": "gptq:3",
        "transforms": ["rotation"],
        "source": "rollout_quota",
        "token_weight": "cgq_survey",
        "activation_bits": 8,
        "texts": 24,
    }
    final = rows(own, tmp_path / "trial", calibration, **MASKED)[-1]
    assert final["kl_to_base"] > 0 and final["bits_per_weight_attention"] < 4
    again = list(
        JOBS["remeasure"]({"artifact": final["artifact"], "prepared": vars(own), "seed": 0}, WorkerContext())
    )[-1]
    assert again["kl_to_base"] == final["kl_to_base"]
    assert main(["generate", final["artifact"], "-n", "3", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


CHOICES = {"attention": [2, 8], "ffn_0": [2], "ffn_1": [3, 8]}


def sensitivity(prepared, cache, choices=CHOICES, **calibration) -> list[dict]:
    """What the job says."""
    settings = {"method": "rtn", "texts": 8, **calibration}
    config = TrialConfig.model_validate({**SETTINGS, "calibration": settings})
    payload = {"config": config.model_dump(mode="json"), "cache": str(cache), "corpus": prepared.corpus,
               "base": prepared.base, "choices": choices}
    return list(JOBS["sensitivity"](payload, WorkerContext()))


def test_what_parts_cost_is_measured_once_and_sizes_a_trial(prepared, tmp_path):
    found = sensitivity(prepared, tmp_path / "cache")[-1]
    cells = {(cost["site"], cost["choice"]): cost for cost in found["costs"]}
    assert list(cells) == [("attention", "2"), ("ffn_0", "2"), ("ffn_1", "3"), ("attention", "8"),
                           ("ffn_1", "8")]
    # the ffn of a block: 64 x 32 and 32 x 64 values of 3 bits, and 24 bits a row for scale and zero point
    assert cells["ffn_1", "3"]["bytes"] == 2 * 64 * 32 * 3 // 8 + 3 * (64 + 32)
    assert cells["attention", "2"]["kl"] > 10 * cells["attention", "8"]["kl"] > 0
    assert set(found["kl_per_bit"]) == set(CHOICES) and found["kl_per_bit"]["ffn_0"] == 0  # one choice
    assert len(sensitivity(prepared, tmp_path / "cache")) == len(list((tmp_path / "cache").iterdir())) == 1
    by_block = sensitivity(prepared, tmp_path / "other", offload=True)[-1]
    assert by_block["costs"] == found["costs"]
    bits = {"attention": 2, "ffn_0": 2, "ffn_1": 3}
    final = rows(prepared, tmp_path / "trial", {"method": "rtn", "texts": 8, "bits": bits})[-1]
    stored = sum(cells[part, str(each)]["bytes"] for part, each in bits.items())
    assert abs(final["size_bytes"] - found["fixed_bytes"] - stored) < SLACK
    head = json.loads((Path(final["artifact"]) / "config.json").read_text())
    own = {name: entry[KEY]["bits"] for name, entry in head["packing"].items()}
    assert [own[name] for name in own if ".1." in name and "attention" not in name] == [3, 3]
    assert sorted(own.values()) == [2] * (BODY - 2) + [3, 3]


@pytest.mark.parametrize(("choices", "calibration", "message"), [
    ({"ffn_7": [4]}, {}, "ffn_7 is not rounded; legal: attention, ffn, attention_0"),
    ({"ffn": [4], "ffn_0": [4], "ffn_1": [4]}, {}, "every block of ffn has bits of its own; leave out ffn"),
    ({"ffn": [4]}, {"sites": ["attention"]}, "ffn is not rounded; legal: attention, attention_0"),
    ({"ffn": [1]}, {}, "parameter 'bits'")])
def test_parts_that_cannot_be_measured_are_one_line(prepared, tmp_path, choices, calibration, message):
    with pytest.raises(UserError, match=message) as caught:
        sensitivity(prepared, tmp_path, choices, **calibration)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_texts_that_calibrate_are_not_those_that_sensitivity_is_measured_on(prepared, monkeypatch):
    seen = []
    monkeypatch.setattr("trainable.stages.sensitivity.measured_states",
                        lambda base, process, ids, generator: seen.append(ids.tolist()))
    base, text = load(prepared.base), TokenizedCorpus.open(prepared.corpus)
    ids = text.ids("train")

    def ask(texts):
        calibration = {"method": "gptq", "texts": texts, "seed": 3}
        compared(base, text, TrialConfig.model_validate({**SETTINGS, "calibration": calibration}),
                 torch.device("cpu"))
    ask(len(ids) - 5)
    left = set(range(len(ids))) - set(text_rows(text, len(ids) - 5, 3))
    assert sorted(seen[0]) == sorted(ids[row].tolist() for row in left)
    with pytest.raises(UserError, match="leave none to measure sensitivity on"):
        ask(len(ids))
