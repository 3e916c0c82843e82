"""Corrections in a calibration of small models of both processes: what each changes, stores and refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from calibrated_models import (
    ALL,
    GPTQ,
    IA_AQ,
    LAYERS,
    LENGTH,
    PROCESSES,
    SOFTMAX,
    TAC,
    WORDS,
    built,
    calibrated,
    config,
    corpus,
    everything,
    log_probs,
    model,
    outputs,
    plain,
    plain_run,
    states,
)
from calibration_problems import assert_same_bits

from spaces.config import CalibrationConfig, PluginRef
from spaces.errors import UserError
from trainable.artifacts.packed import Packed
from trainable.metrics.kl_to_base import measured_states
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.running import RoundedLinear, Running, layout_of
from trainable.quantization.post_training.statistics import Calibration
from trainable.quantization.post_training.stored import chain_of
from trainable.seeds import stream
from trainable.stages.calibrate import calibrate, calibration_states, prior_of, text_rows
from trainable.stages.passes import Passes


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_packed_model_is_the_measured_one_bit_for_bit(kind):
    net, done = everything(kind)
    packed = Packed.pack(model(kind), config(kind, ALL), SimpleNamespace(vocab=WORDS))
    written = packed.rounded(done.weights, done.plain)
    assert json.loads(json.dumps(written.packing)) == written.packing
    again = written.run(torch.device("cpu"))
    assert_same_bits(log_probs(again, kind), log_probs(net, kind))
    assert not torch.equal(log_probs(again, kind), log_probs(model(kind), kind))
    third = packed.rounded(done.weights, done.plain).run(torch.device("cpu"))
    few = states(kind).rows(slice(0, 3))  # other batches, other levels: nothing is left over from before
    assert_same_bits(third.predict(few.state, few.t, few.previous).log_probs,
                     again.predict(few.state, few.t, few.previous).log_probs)


@pytest.mark.parametrize("kind", PROCESSES)
def test_what_runs_is_stored_and_counted(kind):
    done, off = everything(kind)[1], plain_run(kind, 4)
    for name, stored in done.weights.items():
        shape = tuple(stored.entry["shape"])
        counts = layout_of(stored.entry, shape)
        assert counts["clip_ratios"] == 4 and counts["output_scales"] == 2 * shape[0]
        extra = {part: value for part, value in stored.arrays.items() if part in counts}
        assert {part: value.numel() for part, value in extra.items()} == counts
        assert ("value_scale" in counts) == ("softmax_beta" in counts) == (name in outputs(done.weights))
        size = sum(value.numel() * value.element_size() for value in stored.arrays.values())
        before = sum(value.numel() * value.element_size() for value in off.weights[name].arrays.values())
        assert size - before == 4 * sum(counts.values())
    assert len(outputs(done.weights)) == LAYERS
    assert all("running" not in stored.entry for stored in off.weights.values())


# ---- each alone ----

ALONE = {
    "static": ("gaussian", {"activation_bits": 4, "activation_range": "static"}),
    "static in intervals": ("llama", {"activation_bits": 4, "activation_range": "static", "intervals": 3}),
    "state_clip": ("gaussian", {"activation_bits": 4, "corrections": ["state_clip"]}),
    "interval_scales": ("llama", {"corrections": ["interval_scales"], "intervals": 2}),
    "ia_aq": ("gaussian", {"corrections": [IA_AQ]}),
    "softmax_bias": ("llama", {"corrections": [SOFTMAX], "intervals": 2}),
    "tac": ("bert", {"corrections": [TAC]}),
    "only ia_aq": ("llama", {"method": "none",
                             "corrections": [{"name": "ia_aq", "bits": 4, "decided_queries": 0.5}]}),
    "rotated": ("gaussian", {"transforms": ["rotation"], "activation_bits": 4,
                             "corrections": [TAC, "state_clip"]}),
}


@pytest.mark.parametrize("name", ALONE)
def test_each_changes_the_model_and_comes_back_from_its_files(name):
    kind, settings = ALONE[name]
    calibration = {**GPTQ, **settings}
    net, done = calibrated(kind, calibration)
    packed = Packed.pack(model(kind), config(kind, calibration), SimpleNamespace(vocab=WORDS))
    again = packed.rounded(done.weights, done.plain).run(torch.device("cpu"))
    assert_same_bits(log_probs(again, kind), log_probs(net, kind))
    without = {key: value for key, value in calibration.items()
               if key not in ("corrections", "activation_range", "intervals")}
    assert not torch.equal(log_probs(net, kind), log_probs(calibrated(kind, without)[0], kind))


@pytest.mark.parametrize("kind", PROCESSES)
def test_tac_never_raises_the_calibration_error_and_folds_into_the_output_projection(kind):
    net, done = calibrated(kind, {**GPTQ, "activation_bits": 4, "corrections": [TAC]})
    assert 0 < done.facts["calibration_tac_error"] < 0.98 * done.facts["calibration_tac_error_before"]
    changed = {name for name, stored in done.weights.items()
               if not torch.equal(stored.arrays["codes"], plain(kind, 4)[name])}
    assert set(outputs(done.weights)) <= changed
    assert "running" not in next(iter(done.weights.values())).entry  # it costs nothing when it runs
    biased = kind in ("gaussian", "bert")
    assert len(done.plain) == (LAYERS if biased else 0)
    assert all(torch.equal(net.get_parameter(name), value) for name, value in done.plain.items())


def test_tac_that_is_pulled_to_nothing_is_none():
    nothing = {"name": "tac", "block": 8, "ridge": float("inf"), "bias": False}
    _, done = calibrated("llama", {**GPTQ, "corrections": [nothing]})
    name = outputs(done.weights)[0]  # of the first block: its inputs come from rounded projections
    assert done.facts["calibration_tac_error"] == done.facts["calibration_tac_error_before"]
    assert_same_bits(done.weights[name.replace("o_proj", "q_proj")].arrays["codes"],
                     plain("llama")[name.replace("o_proj", "q_proj")])


@pytest.mark.parametrize("kind", ["bert"])
def test_one_interval_of_static_ranges_is_that_of_all_levels(kind):
    one = calibrated(kind, {**GPTQ, **ALONE["static"][1]})[1].weights
    three = calibrated(kind, {**GPTQ, **ALONE["static in intervals"][1]})[1].weights
    for name, stored in one.items():
        low, high = stored.arrays["input_range"].tolist()
        ranges = three[name].arrays["input_range"].view(3, 2)
        assert low <= 0 <= high and len(ranges.unique(dim=0)) > 1
        assert ranges[:, 0].min() <= low * 0.7 and ranges[:, 1].max() >= high * 0.7


def test_clip_ratios_lose_less_than_none():
    """Of the outputs of the first layer, whose inputs are the same either way."""
    shown, first = states("bert"), "body.encoder.layer.0.attention.self.query"
    inputs: list[torch.Tensor] = []
    full = model("bert")
    full.get_submodule(first).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    full.predict(shown.state, shown.t, shown.previous)
    lost = []
    for corrections in ([], ["state_clip"]):
        net, _ = calibrated("bert", {**GPTQ, "activation_bits": 4, "corrections": corrections})
        layer = net.get_submodule(first)
        assert isinstance(layer, RoundedLinear)
        if net.noise is not None:
            net.noise.show(*net.noise_of(shown.state, shown.t))
        exact = torch.nn.functional.linear(inputs[0], layer.weight, layer.bias)
        lost.append(float((layer(inputs[0]) - exact).square().sum()))
    assert lost[1] < lost[0]


def test_softmax_bias_leaves_no_mean_error():
    """The corrected probabilities of each head have the mean of the full ones, on calibration states."""
    net, done = calibrated("bert", {"method": "none", "texts": 40, "corrections": [SOFTMAX]})
    beta = done.weights[outputs(done.weights)[0]].arrays["softmax_beta"]
    core = net.get_submodule("body.encoder.layer.0.attention.self")
    seen = []
    core.rounded_attention.look = lambda p, v, allowed: seen.append(p)
    log_probs(net, "bert")
    p = seen[0]
    error = (p - (p * 15).round() / 15).double().mean((0, 2, 3))
    assert torch.allclose(error, beta.double(), atol=1e-6) and (beta.abs() > 1e-4).all()


def test_uniform_importance_is_the_plain_search():
    """With one key each, every value receives the same attention."""
    even = model("bert")
    with torch.no_grad():
        for name, value in even.named_parameters():
            if "self.query" in name or "self.key" in name:
                value.zero_()
    done = calibrate(even, states("bert"), CalibrationConfig.model_validate(
        {"method": "none", "texts": 40, "corrections": [IA_AQ]})).weights
    name = outputs(done)[0]
    seen: list[torch.Tensor] = []
    plain_net = model("bert")
    plain_net.get_submodule("body.encoder.layer.0.attention.self.value").register_forward_hook(
        lambda _, __, out: seen.append(out))
    log_probs(plain_net, "bert")
    values = seen[0].flatten(0, 1)
    largest, errors = values.abs().amax(0), []
    for ratio in torch.linspace(1.0, 0.05, 40, dtype=torch.double):
        scale = (largest.double() * ratio / 7).float()
        errors.append(((values / scale).round().clamp(-7, 7) * scale - values).double().square().sum(0))
    best = torch.linspace(1.0, 0.05, 40, dtype=torch.double)[torch.stack(errors).argmin(0)]
    expected = (largest.double() * best / 7).float()
    assert (done[name].arrays["value_scale"] == expected).float().mean() > 0.8  # ties and the last digit


# ---- token weights ----

@pytest.mark.parametrize("kind", ["gaussian", "modernbert"])
def test_attention_and_positions_weigh_tokens(kind):
    process, settings = built(kind)[1], config(kind, {**GPTQ, "token_weight": {"name": "fair", "probes": 40}})
    prior = prior_of(model(kind), process, settings)
    assert prior is not None and prior.shape == (LENGTH,) and prior.mean() == pytest.approx(1)
    if kind != "gaussian":
        assert prior[0] == prior.min()  # START is never committed
    _, fair = calibrated(kind, {**GPTQ, "token_weight": {"name": "fair", "probes": 40}}, prior=prior)
    _, rsq = calibrated(kind, {**GPTQ, "token_weight": "rsq"})
    for done in (fair, rsq):
        assert any(not torch.equal(stored.arrays["codes"], plain(kind)[name])
                   for name, stored in done.weights.items())
    even = torch.ones(LENGTH)
    for rule, given in (({"name": "rsq", "least": 1.0}, None), ({"name": "fair"}, even)):
        _, done = calibrated(kind, {**GPTQ, "token_weight": rule}, prior=given)
        for name, stored in done.weights.items():
            assert_same_bits(stored.arrays["codes"], plain(kind)[name])


# ---- passes: in order, on rounded inputs, one block at a time ----

@pytest.mark.parametrize("kind", PROCESSES)
def test_a_block_is_fed_as_the_whole_model_would_feed_it(kind, monkeypatch):
    quick = everything(kind)[1]
    monkeypatch.setattr(Passes, "_row", lambda self, block: None)
    slow = calibrated(kind, ALL)[1]
    for name, stored in slow.weights.items():
        for part, value in stored.arrays.items():
            assert_same_bits(value, quick.weights[name].arrays[part])


def test_statistics_of_one_block_are_held_at_a_time(monkeypatch):
    held: list[set[str]] = []
    plain_add = Calibration.add

    def add(self, name, *args, **named):
        plain_add(self, name, *args, **named)
        held.append({part.rpartition("layer.")[2][0] for part in self._found})

    monkeypatch.setattr(Calibration, "add", add)
    calibrated("bert", ALL)
    assert {len(blocks) for blocks in held} == {1} and {*held[0], *held[-1]} == {"0", "1"}


def test_each_pass_costs_one_block(monkeypatch):
    """The body's blocks run a fixed number of times each, however many there are before them."""
    counts: dict[str, int] = {}
    net = model("bert")
    for number in range(LAYERS):
        block = net.get_submodule(f"body.encoder.layer.{number}")
        block.register_forward_hook(lambda *_, number=number: counts.update(
            {str(number): counts.get(str(number), 0) + 1}))
    calibrate(net, states("bert"), CalibrationConfig.model_validate(GPTQ))
    assert counts["0"] - counts["1"] == 2  # two batches that go on to the second


# ---- what cannot be ----

@pytest.mark.parametrize(("calibration", "message"), [
    ({"corrections": [{"name": "ia_aq", "scales": "token"}]}, "ia_aq: a scale per token leaves nothing"),
    ({"corrections": ["tac"], "sites": ["ffn"]}, "tac needs site attention among calibration.sites"),
    ({"corrections": ["state_clip"]}, "state_clip needs calibration.activation_bits of 4 or 8"),
    ({"corrections": ["state_clip"], "activation_bits": 4, "activation_range": "static"},
     "legal with activation_range: dynamic"),
    ({"activation_range": "static"}, "activation_range: static needs calibration.activation_bits"),
    ({"intervals": 2}, "calibration.intervals: 2 and nothing that differs between them"),
    ({"intervals": 2, "corrections": ["interval_scales"], "sites": ["projection", "ffn"]},
     "projection is not run on whole rows"),
    ({"corrections": ["tac", {"name": "tac", "block": 4}]}, "one of a name; found tac, tac"),
    ({"corrections": ["tca"]}, "unknown correction 'tca' .did you mean 'tac'"),
    ({"corrections": [{"name": "softmax_bias", "bits": 9}]}, "parameter 'bits'"),
    ({"corrections": [{"name": "tac", "block": 5}]}, "blocks of 5 do not divide an attention output of 16"),
])
def test_what_cannot_be_is_one_line(calibration, message):
    with pytest.raises(UserError, match=message) as error:
        calibrated("bert", {**GPTQ, **calibration})
    assert "\n" not in str(error.value)


def test_a_body_of_nan_and_a_singular_hessian_are_said():
    broken = model("bert")
    broken.get_parameter("body.encoder.layer.0.intermediate.dense.bias").fill_(torch.nan)
    with pytest.raises(UserError, match="NaN or infinit"):
        calibrate(broken, states("bert"), CalibrationConfig.model_validate(GPTQ))
    few = states("bert").rows(slice(0, 1))  # ten tokens, 32 inputs
    hard = {**GPTQ, "method": {"name": "gptq", "bits": 3, "damping": 0.0}}
    done = calibrate(model("bert"), few, CalibrationConfig.model_validate(hard))
    assert done.facts["calibration_damping_retries"] > 0


# ---- goldens of the stage ----

@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_online_rotations_change_no_logit_at_five_mask_ratios(kind):
    net, chain = model(kind), chain_of(PluginRef(name="none"), [PluginRef(name="rotation", signs="random")])
    for name in (*net.sites()["attention"], *net.sites()["ffn"]):
        linear = net.get_submodule(name)
        assert isinstance(linear, torch.nn.Linear)
        net.set_submodule(name, RoundedLinear(quantize(chain, linear.weight), Running(16), linear.bias))
    ids = torch.from_numpy(corpus().ids("valid").astype("int64"))
    place = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        shown = torch.where(place < share, net.mask_id, ids)
        assert (net(shown) - built(kind)[0](shown)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["gaussian", "bert"])
def test_awq_without_an_exponent_is_rounding_to_nearest(kind):
    settings = {"texts": 40, "levels": 4}
    awq = calibrated(kind, {**settings, "method": {"name": "awq", "bits": 3, "exponent": 0.0}})[1].weights
    rtn = calibrated(kind, {**settings, "method": {"name": "rtn", "bits": 3}})[1].weights
    for name, stored in rtn.items():
        for part, value in stored.arrays.items():
            assert_same_bits(awq[name].arrays[part], value)


def test_masks_of_calibration_and_of_evaluation_differ():
    """On the same texts at the same levels, which the two never have: other masks."""
    net, process = built("bert")
    settings = config("bert", {**GPTQ, "levels": 8})
    rows = text_rows(corpus(), 40, settings.calibration_seed)
    ids = torch.from_numpy(corpus().ids("train")[rows].astype("int64"))
    ours = calibration_states(net, process, corpus(), settings)
    theirs = measured_states(net, process, ids, stream("evaluation", "kl_to_base", settings.evaluation_seed))
    assert torch.equal(ours.t, theirs.t)
    some = (ours.level > 0.2) & (ours.level < 0.9)
    assert (ours.corrupted != theirs.corrupted)[some].any(1).float().mean() > 0.8
