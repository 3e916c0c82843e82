"""Models as graphs: the numbers and texts of the model as it is, bit for bit; graphs go when weights do."""

from __future__ import annotations

import copy

import pytest
import torch

from spaces.config import GuidanceConfig, LoraConfig, PluginRef, QuantizationConfig, SamplingConfig
from trainable.control.guidance import GradientGuide
from trainable.models import traced
from trainable.models.lora import add_lora
from trainable.quantization.sites import apply, at_rest
from trainable.registry import BACKBONES, BODIES, PROCESSES, TASKS

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(20))]
LENGTH, STEPS = 10, 6
TINY = {"hidden": 32, "layers": 2, "heads": 2, "ffn": 64, "positions": 16, "dropout": 0.0,
        "embedding_dim": 8, "time_dim": 8, "self_conditioning": True}
MODELS = {"gaussian ce": ("diffusion_lm", "gaussian", {"loss": "ce"}, {"normalize_embeddings": True}),
          "gaussian mse": ("diffusion_lm", "gaussian", {"loss": "mse"}, {"rounding": "cosine"}),
          **{f"masked {body}": ("masked_lm", "masked", {}, {"body": body})
             for body in ("bert", "modernbert", "llama")}}


def made(name, symbols=()):
    """(model, process) of a small shape."""
    backbone, process, noise, settings = MODELS[name]
    found = PROCESSES.build(PluginRef(name=process, **noise))
    fields = BACKBONES.get(backbone).Params.model_fields
    tiny = {key: value for key, value in (TINY | settings).items() if key in fields}
    params = BACKBONES.params(PluginRef(name=backbone, **tiny))
    model = BACKBONES.get(backbone).from_config(params, found.params, WORDS, seed=3, symbols=symbols)
    return model.eval(), found


def coded(model, body):
    """With the body's layers in a format, as an artifact runs."""
    form = BODIES.build(PluginRef(name=body))
    for site in ("attention", "ffn"):
        for name in model.sites()[site]:
            layer = model.get_submodule(name)
            shape = tuple(layer.weight.shape)
            if body != "float32" and form.runs(shape, torch.device("cpu")):
                made_of = form.linear(form.encode(layer.weight.detach()), shape, layer.bias)
                model.set_submodule(name, made_of)
    return model


def drawn(model, process, guide=None, n=3, **settings):
    sampling = process.sampling(model, SamplingConfig(steps=STEPS, temperature=0.7, **settings))
    return sampling.generate(n, LENGTH, torch.Generator().manual_seed(5), guide)


@pytest.fixture
def at_once(monkeypatch):
    """Every shape is worth a graph when it is first asked for."""
    monkeypatch.setattr(traced, "WORTH", 1)


def test_every_backbone_says_whether_it_can_be_traced():
    assert {name for name in BACKBONES if BACKBONES.get(name).traceable} == {"diffusion_lm", "masked_lm"}


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("body", list(BODIES))
@pytest.mark.parametrize("name", list(MODELS))
def test_texts_are_those_of_the_model_as_it_is(name, body, adapted, at_once):
    model, process = made(name)
    model = coded(model, body)
    if adapted:
        if body != "float32":
            pytest.skip("an exported body has its adapter merged")
        add_lora(model, LoraConfig(rank=2, targets=tuple(model.lora_targets())))
        apply(model, QuantizationConfig(quantizer="fixed:Q2i4f", sites=("embedding", "attention", "ffn")))
    graphs = drawn(model, process)
    kept = len(vars(model).get("_traces", ()))
    with traced.as_it_is([model]):
        plain = drawn(model, process)
        assert traced.form(model) == "eager"
    assert torch.equal(graphs.ids, plain.ids) and torch.equal(graphs.passes, plain.passes)
    able = all(getattr(module, "traceable", True) for module in model.modules())
    assert (kept > 0) == able == (traced.form(model) == "traced") and able >= (body == "float32")
    assert all(value.requires_grad for value in model.word_embedding.parameters())


@pytest.mark.parametrize("name", ["gaussian ce", "gaussian mse"])
def test_predictions_and_gradients_are_equal_bit_for_bit(name, at_once):
    model, process = made(name)
    x, previous = torch.randn(2, 3, LENGTH, 8, generator=torch.Generator().manual_seed(1))

    def asked():
        with at_rest(model):
            denoising = model.denoising(LENGTH, 0.7, clamp=True)
            with denoising.running():
                row = denoising.rows(torch.tensor([40, 7]))[1]
                found = [denoising.guess(x, row, previous, None), denoising.words(x, row, None, None)]
                with torch.enable_grad():
                    latent = x.clone().requires_grad_(True)
                    said = denoising.prediction(latent, row, previous, None, with_x0=True)
                    value = said.log_probs[..., 2].sum() + said.hidden.square().sum() + said.x0.sum()
                    found += [said.x0, said.log_probs, said.hidden, *torch.autograd.grad(value, latent)]
        return found

    graphs = asked()
    assert len(vars(model)["_traces"]) == 3
    with traced.as_it_is([model]):
        plain = asked()
    assert all(torch.equal(a, b) for a, b in zip(graphs, plain, strict=True))
    with at_rest(model):
        usual = process.sampling(model, SamplingConfig(temperature=0.7, clamp=True)).predict(
            x, torch.full((3,), 7), previous)
    torch.testing.assert_close(graphs[0], usual.x0)
    torch.testing.assert_close(graphs[3], usual.log_probs)


@pytest.mark.parametrize("told", [False, True])
def test_guided_texts_are_too(told, at_once):
    model, process = made("gaussian ce", symbols=("a", "b") if told else ())
    if told:
        torch.nn.init.normal_(model.condition_embedding.weight, generator=torch.Generator().manual_seed(0))
    task, settings = TASKS.build(PluginRef(name="length")), GuidanceConfig(strength=0.05)

    def texts():
        guide = GradientGuide(task, [{"length": 4}] * 3, settings, None, STEPS)
        sampling = process.sampling(model, SamplingConfig(steps=STEPS))
        if told:
            sampling = sampling.under(torch.ones(3, 1, LENGTH, dtype=torch.long), 0.0)
        return sampling.generate(3, LENGTH, torch.Generator().manual_seed(2), guide)

    graphs = texts()
    with traced.as_it_is([model]):
        plain = texts()
    assert torch.equal(graphs.ids, plain.ids) and torch.equal(graphs.passes, plain.passes)


@pytest.mark.parametrize("name", ["gaussian ce", "masked bert"])
def test_weights_that_change_are_seen(name, at_once):
    """By an optimizer in place, by assignment, by a quantizer that is put on."""
    model, process = made(name)

    def assigned():
        model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()}, assign=True)

    def in_place():
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))

    def quantized():
        apply(model, QuantizationConfig(quantizer="binary", sites=("attention", "ffn")))

    drawn(model, process)
    for change in (in_place, assigned, quantized):
        change()
        after = drawn(model, process)
        with traced.as_it_is([model]):
            assert torch.equal(after.ids, drawn(model, process).ids)


def test_a_shape_is_traced_when_it_was_asked_for_often_and_few_are_kept(monkeypatch):
    model, process = made("gaussian ce")
    monkeypatch.setattr(traced, "WORTH", 2 * (STEPS - 1))  # guesses: the last step is read as words
    monkeypatch.setattr(traced, "KEPT", 2)
    drawn(model, process)
    assert len(vars(model)["_traces"]) == 0
    drawn(model, process)
    assert len(vars(model)["_traces"]) == 1
    for n in (1, 2, 4):
        for _ in range(3):
            drawn(model, process, n=n)
    assert len(vars(model)["_traces"]) == 2
    assert len(vars(copy.deepcopy(model))["_traces"]) == 0


def test_watched_and_told_of_noise_a_model_runs_as_it_is(at_once):
    model, process = made("masked bert")
    seen = []
    handle = model.get_submodule(model.sites()["attention"][0]).register_forward_hook(
        lambda *_: seen.append(1))
    assert traced.form(model) == "eager" and drawn(model, process).ids.shape == (3, LENGTH) and seen
    handle.remove()
    assert traced.form(model) == "traced"


def test_times_are_taken_in_one_form(monkeypatch):
    """Of two models of which one cannot be traced both run as they are, though a yardstick among them runs
    as it always does."""
    able, _ = made("gaussian ce")
    other = coded(made("gaussian ce")[0], "bfloat16")
    with traced.alike([able, other]) as form:
        assert form == "eager" and traced.form(able) == "eager"
        with traced.alike([able]) as own:
            assert own == "traced" and traced.form(able) == "traced"
        assert traced.form(able) == "eager"
    with traced.alike([able]) as form:
        assert form == "traced"
    assert traced.form(able) == "traced"
