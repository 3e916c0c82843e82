"""`qdlm bench` on small artifacts: figures, files, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from search.cli import bench
from search.cli.main import BAD_INPUT, OK, main
from spaces.config import QuantizationConfig, TrialConfig
from trainable.artifacts.artifact import export
from trainable.benchmarking import bench as measuring
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.metrics.timing import interleaved, median_interval
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.registry import PROCESSES

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(20))]


def artifact(folder, body="float32", facts=None):
    shape = DiffusionLMConfig(embedding_dim=8, hidden=64, layers=1, heads=2, ffn=64, time_dim=8, dropout=0.0)
    config = TrialConfig(model=shape, diffusion=GaussianConfig(timesteps=20), corpus={"max_length": 8},
                         quantization=QuantizationConfig(body=body))
    return export(DiffusionLM(shape, PROCESSES.params(config.diffusion), WORDS), config,
                  Lexicon(WORDS, 8, {}, "words"), folder, facts or {})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    base = artifact(root / "base-1")
    return base, artifact(root / "trial-0001", "int8_dynamic", {"base": str(base)})


def test_it_writes_what_it_measured(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["bench",
                 str(pair[1]), "--against", "base", "--batch", "2,1", "--steps", "3", "--repeats", "4"]
    assert main(arguments) == OK
    shown = " ".join(capsys.readouterr().out.split())
    threads = f"{torch.get_num_threads()} thread"
    for words in ("trial-0001 against base", threads, "ratio", "on disk", "peak", "bench-trial-0001.json"):
        assert words in shown
    found = json.loads((tmp_path / "bench-trial-0001.json").read_text())
    assert (tmp_path / "bench-trial-0001.png").read_bytes()[:4] == b"\x89PNG"
    assert [(cell["steps"], cell["batch"]) for cell in found["cells"]] == [(3, 1), (3, 2)]
    for cell in found["cells"]:
        for side in cell["sides"]:
            assert (len(side["times"]) == 4
                    and side["p50"] == pytest.approx(np.median(side["times"]), rel=1e-3))
            assert side["interval"][0] <= side["p50"] <= side["interval"][1] and side["p50"] <= side["p95"]
            assert side["throughput"] == pytest.approx(1000 / side["p50"])
        ratios = np.array(cell["sides"][0]["steady"]) / np.array(cell["sides"][1]["steady"])
        assert cell["ratio"] == pytest.approx(np.median(ratios), rel=1e-2)
    own, base = found["memory"]
    assert own["weights"] == (pair[1] / "model.safetensors").stat().st_size < base["weights"]
    assert 0 < own["disk"] < base["disk"] and own["peak"] >= own["resident"]
    assert found["threads"] >= 1 and found["processor"]
    assert sum(found["products"][0].values()) > 0 and found["products"][1] == {}
    assert "layers of int8 by product" in shown


@pytest.mark.parametrize(("able", "said"), [([8, 7], None), ([7], "activation_bits: 7"), ([], "floats")])
def test_it_says_where_int8_layers_are_floats_for_want_of_a_product(pair, monkeypatch, able, said):
    monkeypatch.setattr(measuring.int8_products, "widths", lambda device: able)
    monkeypatch.setattr(measuring, "products", lambda model: {"float32": 3})
    base, body = (measuring.load(folder) for folder in pair)
    assert measuring.hint(base) is None  # its body is float32
    found = measuring.hint(body)
    assert (found is None) == (said is None) and (said is None or said in found and "\n" not in found)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--batch", "1,x"], "--batch '1,x': expected whole numbers above 0"),
    (["--batch", "0"], "--batch '0'"), (["--steps", "21"], "has 20 noise levels; legal: 1 to 20"),
    (["--device", "tpu"], "--device 'tpu': legal: cpu, cuda"),
    (["--against", "nowhere"], "nowhere is not an artifact"),
    (["--against", "base"], "does not say which base it came from"),
])
def test_bad_input_is_one_line(pair, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainable.benchmarking.bench.weight", lambda *_: {"disk": 1, "weights": 1,
                                                                           "resident": 1, "peak": 1})
    assert main(["bench", str(pair[0]), *arguments]) == BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_base_that_has_gone_is_named(tmp_path, capsys):
    moved = artifact(tmp_path / "trial-0002", facts={"base": "/gone/base-2"})
    assert main(["bench", str(moved), "--against", "base"]) == BAD_INPUT
    assert "came from /gone/base-2, which is not there; give the base's folder" in capsys.readouterr().err


def test_steps_are_those_that_the_model_has(pair, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    unknown = {"disk": 1, "weights": 1, "resident": None, "peak": None}
    monkeypatch.setattr("trainable.benchmarking.bench.weight", lambda *_: unknown)
    assert main(["bench", str(pair[0]), "--batch", "1", "--repeats", "2", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert [cell["steps"] for cell in found["cells"]] == [20] and "ratio" not in found["cells"][0]


def test_calls_take_turns_after_a_warm_up():
    order = []
    taken = interleaved([lambda: order.append("a"), lambda: order.append("b")], 3, "cpu")
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" and all(
        times.shape == (2, 3) and (times >= 0).all() for times in taken)


@pytest.mark.parametrize("n", [12, 30, 101])
def test_interval_of_the_median_covers_it(n):
    draws = np.random.default_rng(0).exponential(size=(2000, n))
    inside = [low <= np.log(2) <= high for low, high in map(median_interval, draws)]
    assert 0.93 < np.mean(inside) < 0.99


def test_numbers():
    assert bench.numbers("--batch", " 64,1, 8,8") == [1, 8, 64]
