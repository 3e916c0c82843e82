"""Calibration of a small model: which texts and noise it sees, which blocks, in which order; both kinds of
state."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spaces.config import CalibrationConfig, TrialConfig
from spaces.errors import UserError
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.masked.config import MaskedConfig
from trainable.diffusion.masked.process import Masked
from trainable.diffusion.states import corrupted, spread, visited
from trainable.metrics.kl_to_base import divergence, measured_states
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.quantization.post_training.stored import RoundedLinear
from trainable.seeds import stream, stream_seed
from trainable.stages.calibrate import QUOTAS, blocks, calibrate, calibration_states, chosen, text_rows

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(16))]
LENGTH = 10
PROCESS = Gaussian(GaussianConfig(timesteps=50, loss="ce"))
GPTQ = {"method": {"name": "gptq", "bits": 3}, "texts": 40, "levels": 4}


def model(**changes) -> DiffusionLM:
    params = DiffusionLMConfig(
        embedding_dim=8,
        hidden=16,
        layers=2,
        heads=2,
        ffn=32,
        time_dim=8,
        positions=16,
        dropout=0.0,
        **{"self_conditioning": True, **changes},
    )
    return DiffusionLM(params, PROCESS.params, WORDS, seed=3).eval().requires_grad_(False)


def corpus(train: int = 64) -> SimpleNamespace:
    """Text whose splits share no row: training rows hold even words, held-out rows odd ones."""
    draws = np.random.default_rng(0)
    splits = {
        "train": 4 + 2 * draws.integers(0, 8, (train, LENGTH)),
        "valid": 5 + 2 * draws.integers(0, 8, (32, LENGTH)),
    }
    return SimpleNamespace(ids=lambda split: splits[split].astype(np.int32))


def config(**calibration) -> TrialConfig:
    return TrialConfig(
        corpus={"max_length": LENGTH},
        diffusion={"name": "gaussian", "timesteps": 50, "loss": "ce"},
        sampling={"steps": 8},
        calibration={**GPTQ, **calibration},
    )


def test_calibration_reads_training_text_alone(monkeypatch):
    seen = []
    text = corpus()
    plain = text.ids
    text.ids = lambda split: seen.append(split) or plain(split)
    for source in ("clean", "corrupted", "rollout", "rollout_quota"):
        calibration_states(model(), PROCESS, text, config(source=source))
    assert set(seen) == {"train"}


def test_noise_of_calibration_and_of_evaluation_differ():
    """The same texts at the same times under the same seed: no latent in common."""
    net, ids = model(), torch.from_numpy(corpus().ids("train")[text_rows(corpus(), 40, 0)].astype("int64"))
    ours = calibration_states(net, PROCESS, corpus(), config(levels=8, seed=0))
    theirs = measured_states(net, PROCESS, ids, stream("evaluation", "kl_to_base", 0))
    assert torch.equal(ours.t, theirs.t) and ours.state.shape == theirs.state.shape
    assert ((ours.state - theirs.state).abs() > 1e-4).float().mean() > 0.99
    assert stream_seed("calibration", "noise", 0) != stream_seed("evaluation", "kl_to_base", 0)


def test_seeds_decide_on_texts_and_fewer_are_the_first():
    assert (
        text_rows(corpus(), 40, 0)[:10] == text_rows(corpus(), 40, 0)[:10] != text_rows(corpus(), 40, 1)[:10]
    )
    assert len(set(text_rows(corpus(), 64, 0))) == 64
    with pytest.raises(UserError, match="calibration.texts: 65 asked for, the training text has 64"):
        text_rows(corpus(), 65, 0)


def test_corrupted_text_is_spread_evenly_and_clean_text_is_not_noised():
    states = calibration_states(model(), PROCESS, corpus(), config())
    assert spread(8, 4, PROCESS).tolist() == [6, 18, 31, 43] * 2
    assert {time: int((states.t == time).sum()) for time in (6, 18, 31, 43)} == dict.fromkeys(
        (6, 18, 31, 43), 10
    )
    assert states.previous is not None
    clean = calibration_states(model(), PROCESS, corpus(), config(source="clean"))
    assert clean.t.max() == 0
    half = calibration_states(model(), PROCESS, corpus(), config(), share=0.5)
    assert len(half.t) == 20


def test_roll_outs_are_what_the_sampler_asked_the_model():
    net = model()
    sampling = PROCESS.sampling(net, config().sampling)
    states = visited(net, PROCESS, sampling, 5, LENGTH, torch.Generator().manual_seed(1))
    assert len(states.t) == 5 * sampling.steps and "predict" not in vars(net)
    assert states.t.view(-1, 5)[:, 0].tolist() == list(sampling.schedule.times(8))
    drawn = sampling.sample(5, LENGTH, torch.Generator().manual_seed(1))
    last = states.rows(slice(-5, None))
    assert torch.equal(net.predict(last.state, last.t, last.previous).log_probs.argmax(-1), drawn)


def test_quotas_of_the_noise_level():
    levels = torch.linspace(0, 1, 400)
    picked = levels[chosen(levels, 100, True, torch.Generator().manual_seed(0))]
    assert [int(((picked * 4).long().clamp(max=3) == quarter).sum()) for quarter in range(4)] == [
        round(100 * q) for q in QUOTAS
    ]
    low = chosen(levels[:120] / 2, 100, True, torch.Generator().manual_seed(0))  # none in the upper half
    assert len(low) == 100 == len(set(low.tolist()))
    assert len(chosen(levels, 100, False, torch.Generator().manual_seed(0))) == 100


def test_blocks_are_those_of_the_model_in_the_order_it_runs_them():
    calibration = CalibrationConfig(method="rtn:3", sites=("ffn", "projection", "attention"))
    states = calibration_states(model(), PROCESS, corpus(), config())
    found = blocks(model(), states, calibration)
    assert [block[0].rpartition(".")[0] for block in found][-1] == "down" and len(found) == 8
    assert [len(block) for block in found if block[0].startswith("body")] == [6, 6]


def test_blocks_are_calibrated_on_inputs_from_rounded_ones():
    """The second block's statistics are those of a model whose first block is already rounded."""
    states = calibration_states(model(), PROCESS, corpus(), config())
    both, first = model(), model()
    one = calibrate(both, states, CalibrationConfig(**{**GPTQ, "sites": ("attention", "ffn")})).weights
    names = [name for name in one if name.startswith("body.layer.0")]
    assert len(names) == 6 and len(one) == 12
    with torch.no_grad():
        for name in names:
            first.get_parameter(name).copy_(both.get_parameter(name))
    unrounded = calibrate(model(), states, CalibrationConfig(**GPTQ)).weights
    assert torch.equal(
        unrounded["body.layer.1.output.dense.weight"].arrays["codes"],
        one["body.layer.1.output.dense.weight"].arrays["codes"],
    )
    alone = _second_block_alone(model(), states)
    name = "body.layer.1.attention.self.query.weight"
    assert torch.equal(_second_block_alone(first, states)[name], one[name].arrays["codes"])
    assert not torch.equal(alone[name], one[name].arrays["codes"])


def _second_block_alone(net, states) -> dict[str, torch.Tensor]:
    """Codes of the second block of a model whose first block is left as it is."""
    plain = net.sites

    def sites():
        return {site: [name for name in names if ".layer.1." in name] for site, names in plain().items()}

    net.sites = sites
    return {
        name: weight.arrays["codes"]
        for name, weight in calibrate(net, states, CalibrationConfig(**GPTQ)).weights.items()
    }


def test_weights_that_others_share_are_left_as_they_were():
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    held = dict(net.state_dict())
    calibrate(
        net,
        calibration_states(net, PROCESS, corpus(), config()),
        CalibrationConfig(**GPTQ, activation_bits=8),
    )
    assert all(torch.equal(held[name], before[name]) for name in before)
    assert sum(isinstance(module, RoundedLinear) for module in net.modules()) == 12


def test_more_is_known_of_masked_rows_than_that_they_are_noisy():
    """Token weights follow the noise level: rows in its upper half count as masked."""
    states = calibration_states(model(), PROCESS, corpus(), config())
    even, weighted = (
        calibrate(model(), states, CalibrationConfig(**GPTQ, token_weight=rule)).weights
        for rule in ("uniform", {"name": "cgq_survey", "seen": 0.0, "power": 2.0})
    )
    assert any(not torch.equal(even[name].arrays["codes"], weighted[name].arrays["codes"]) for name in even)


def test_a_layer_that_is_not_run_is_named():
    net = model()
    plain = net.sites
    net.unused = torch.nn.Linear(4, 4)
    net.sites = lambda: {**plain(), "ffn": ["unused"]}
    with pytest.raises(UserError, match="calibration.sites: ffn holds unused, which is not run as a layer"):
        calibrate(net, calibration_states(net, PROCESS, corpus(), config()), CalibrationConfig(**GPTQ))


def test_divergence_is_zero_for_equals_and_matches_a_direct_sum():
    net, other = model(), model()
    states = corrupted(
        net,
        PROCESS,
        torch.from_numpy(corpus().ids("valid").astype("int64")),
        spread(32, 8, PROCESS),
        torch.Generator().manual_seed(0),
    )
    assert divergence(net, other, states).values() == {"kl": 0, "se": 0, "flips": 0}
    with torch.no_grad():
        other.down[-1].weight.mul_(1.3)
        p, q = (
            each.predict(states.state, states.t, states.previous).log_probs.double() for each in (net, other)
        )
    direct = (p.exp() * (p - q)).sum(-1).mean()
    found = divergence(net, other, states).values()
    assert found["kl"] == pytest.approx(float(direct), rel=1e-4) and 0 < found["se"] < found["kl"]
    assert found["flips"] == pytest.approx(float((p.argmax(-1) != q.argmax(-1)).double().mean()))


def masked() -> tuple[MaskedLM, Masked]:
    """A tiny masked LM with its process."""
    params = MaskedLMConfig(hidden=16, layers=2, heads=2, ffn=32, positions=16, self_conditioning=True)
    return MaskedLM(params, len(WORDS), seed=1).eval().requires_grad_(False), Masked(MaskedConfig())


@pytest.mark.parametrize("source", ["clean", "corrupted", "rollout", "rollout_quota"])
def test_a_masked_model_is_calibrated_by_the_same_words(source):
    net, process = masked()
    settings = TrialConfig(
        corpus={"max_length": LENGTH},
        model={"name": "masked_lm"},
        diffusion={"name": "masked"},
        sampling={"sampler": "quota", "steps": 6},
        calibration={**GPTQ, "source": source},
    )
    states = calibration_states(net, process, corpus(), settings)
    assert states.state.dtype == torch.int64 and states.previous is not None
    assert torch.equal(states.corrupted, states.state == net.mask_id)
    share = states.corrupted.float().mean()
    assert share == 0 if source == "clean" else 0.2 < share < 0.9
    if source == "rollout_quota":
        assert len(states.t) == 40 and (states.level > 0.75).float().mean() >= 0.2
    done = calibrate(
        net, states, CalibrationConfig(**GPTQ, token_weight="cgq_survey", activation_bits=8)
    ).weights
    assert len(done) == 12
    full = masked()[0]
    ids = torch.from_numpy(corpus().ids("valid").astype("int64"))
    measured = measured_states(full, process, ids, stream("evaluation", "kl_to_base", 0))
    found = divergence(full, net, measured)
    assert (
        torch.equal(found.positions, (measured.state == full.mask_id).sum(1).double())
        and 0 < found.values()["kl"] < 5
    )
    assert torch.equal(divergence(full, masked()[0], measured).kl, torch.zeros(32, dtype=torch.double))
