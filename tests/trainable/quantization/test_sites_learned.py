"""What quantizers learn about a weight: it trains with the model, is kept by a checkpoint,
and is exported."""

import pytest
import torch

from spaces.config import LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.packing import decoded, packed_tensors
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora, set_trainable
from trainable.quantization import sites
from trainable.training.loop import TrainingRun

LEARNERS = {"lsq": ("log_scale", {"name": "uniform", "scale": "lsq"}),
            "lut": ("table", {"name": "lut", "bits": 3}), "vq": ("codebook", {"name": "vq", "entries": 8}),
            "simvq": ("map", {"name": "simvq", "entries": 8}), "fsq": ("up", {"name": "fsq", "dims": 4})}
SHAPE = DiffusionLMConfig(embedding_dim=8, hidden=32, layers=1, heads=2, ffn=32, time_dim=8, dropout=0.0)


def make(quantizer, where=("embedding", "attention")) -> DiffusionLM:
    model = DiffusionLM(SHAPE, GaussianConfig(timesteps=20), [f"w{i}" for i in range(40)])
    sites.apply(model, QuantizationConfig(quantizer=quantizer, sites=where))
    add_lora(model, LoraConfig(rank=2))
    set_trainable(model, TrialConfig().adapt)
    return model


def training(model, steps=8) -> TrainingRun:
    ids = torch.randint(4, 40, (32, 12), generator=torch.Generator().manual_seed(0)).numpy()
    optim = OptimConfig(steps=steps, batch_size=8, lr=5e-2, warmup=0, ema=0.5)
    return TrainingRun(model, Gaussian(GaussianConfig(loss="ce", timesteps=20)), ids, optim, RuntimeConfig(),
                       0, torch.device("cpu"))


def learned(model, name) -> dict[str, torch.Tensor]:
    return {key: weight.learned[name].clone() for key, weight in sites.quantized_state(model).items()}


@pytest.mark.parametrize("case", LEARNERS)
def test_it_trains_on_trained_and_frozen_weights_and_survives_a_restart(case):
    name, quantizer = LEARNERS[case]
    run = training(make(quantizer))
    before, masters = learned(run.model, name), {k: w.master.clone()
                                                 for k, w in sites.quantized_state(run.model).items()}
    run.advance(4)
    middle = run.state()
    middle = {**middle, "trained": {k: v.clone() for k, v in middle["trained"].items()},
              "average": {k: v.clone() for k, v in middle["average"].items()}}
    assert all(not torch.equal(value, before[key]) for key, value in learned(run.model, name).items())
    for key, weight in sites.quantized_state(run.model).items():
        # the body is frozen, its scales are not
        assert torch.equal(weight.master, masters[key]) == key.startswith("body")
    other = training(make(quantizer))
    other.load_state(torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x,
                                                  middle))
    run.advance(8), other.advance(8)
    for key, value in learned(run.model, name).items():
        assert torch.equal(value, learned(other.model, name)[key]), key


@pytest.mark.parametrize("case", LEARNERS)
def test_the_export_holds_it(case):
    name, quantizer = LEARNERS[case]
    run = training(make(quantizer))
    run.advance(8)
    with run.averaged():
        tensors, packing = packed_tensors(run.model)
        state = decoded(tensors, packing)
        assert not any("trained" in key or "parametrizations" in key for key in tensors)
        assert torch.equal(state["word_embedding.weight"], run.model.word_embedding.weight)
        key = "body.layer.0.attention.self.key"
        assert torch.equal(state[f"{key}.weight"], run.model.get_submodule(key).weight)


def test_a_frozen_weight_whose_scale_trains_is_not_held():
    model = make({"name": "uniform", "scale": "lsq"}).train()
    with sites.frozen_weights(model, trainable=False):
        assert all(not fake.held for _, _, fake in sites._quantized(model) if fake.held is None)
        layer = model.get_submodule("body.layer.0.attention.self.key")
        layer(torch.ones(1, 32)).sum().backward()
    assert layer.parametrizations.weight[0].trained["log_scale"].grad.abs().sum() > 0


@pytest.mark.parametrize(("quantizer", "words"), [
    ({"name": "vq", "entries": 64},
     "vq64.*embedding weight word_embedding: 64 codewords for 40 rows.*at most 10"),
    ({"name": "rvq", "entries": 8, "stages": 4, "width": 4}, "32 codewords for 40 rows"),
    ({"name": "lut", "bits": 6, "granularity": "row"},
     r"lut6_row.*\[40, 8\] stores 134.0 bits a value, 128.0.*its table"),
])
def test_absurd_choices_are_refused_by_name_before_anything_changes(quantizer, words):
    model = DiffusionLM(SHAPE, GaussianConfig(timesteps=20), [f"w{i}" for i in range(40)])
    with pytest.raises(UserError, match=words) as error:
        sites.apply(model, QuantizationConfig(per_site={"attention": "binary", "embedding": quantizer}))
    assert "\n" not in str(error.value) and not sites.quantized_state(model)


def test_sizes_that_follow_the_values_are_reported_as_packed():
    model = DiffusionLM(SHAPE, GaussianConfig(timesteps=20), [f"w{i}" for i in range(40)])
    adapt = {"name": "adapt", "least_bits": 3, "most_bits": 16, "divergence": 0.5}
    report = sites.apply(model, QuantizationConfig(quantizer=adapt))["embedding"]
    packed = sites.quantized_state(model)["word_embedding"].encode()
    assert report.bits_per_value == 8 * sum(v.numel() * v.element_size() for v in packed.values()) / 320 < 16
