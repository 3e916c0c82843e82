"""Adapters of a whole trial: where they start, and that what is exported is what was started from."""

import copy
import functools

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import EvaConfig

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import corrupted
from trainable.models.lora import magnitude_of, target_pattern
from trainable.models.parts import plain_name
from trainable.registry import ADAPTER_STARTS, PROCESSES, completed
from trainable.stages.adapted import adapted_model
from trainable.stages.adapting import adapted_layers, start_adapters
from trainable.stages.calibrate import calibration_states
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SHAPE = {"hidden": 16, "layers": 2, "heads": 2, "ffn": 16, "dropout": 0.0}
MODELS = {
    "gaussian": {"model": {"embedding_dim": 8, "time_dim": 8, "self_conditioning": True, **SHAPE},
                 "diffusion": {"timesteps": 100, "loss": "ce"}},
    "masked": {"model": {"name": "masked_lm", **SHAPE}, "diffusion": {"name": "masked"}}}


def config(kind="gaussian", start="zero", rank=4, sites=("attention", "ffn"), **changes) -> TrialConfig:
    return completed(TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 30, "max_words": 20},
                   "max_length": 22, "min_count": 1},
        **MODELS[kind], "base": {"optim": {"steps": 12, "lr": 5e-3}},
        "quantization": {"quantizer": {"name": "uniform", "bits": 2}, "sites": list(sites)},
        "lora": {"rank": rank, "targets": ["query", "value", "output", "ffn"], "start": start},
        "calibration": {"texts": 32}, "sampling": {"steps": 5}, **changes}))


@pytest.fixture(scope="module", params=list(MODELS))
def world(request, tmp_path_factory):
    """(kind, base, corpus) of a toy model that trained for a moment."""
    cache, settings = str(tmp_path_factory.mktemp("cache")), config(request.param).model_dump(mode="json")

    def job(name, **payload):
        return list(JOBS[name]({"config": settings, "cache": cache, **payload}, WorkerContext()))[-1]["path"]
    corpus = job("corpus")
    return request.param, load(job("base", corpus=corpus)), TokenizedCorpus.open(corpus)


def started(world, name, **changes):
    """(model, facts, its config)."""
    kind, base, corpus = world
    settings = config(kind, name, **changes)
    model, _ = adapted_model(settings, base)
    process = PROCESSES.build(settings.diffusion)
    return model, start_adapters(model, base.model, process, corpus, settings), settings


@pytest.fixture(scope="module")
def begun(world):
    """`started` with a start's own settings, each once."""
    return functools.cache(lambda name: started(world, name))


def off(world, model) -> float:
    """Mean squared difference of beliefs from the base's, on held-out text."""
    kind, base, corpus = world
    process = PROCESSES.build(config(kind).diffusion)
    ids = torch.as_tensor(corpus.ids("valid")[:24].astype("int64"))
    time = torch.full((24,), process.levels // 2)
    states = corrupted(base.model, process, ids, time, torch.Generator().manual_seed(5))
    said = [each.eval().predict(states.state, states.t, states.previous).log_probs.exp()
            for each in (base.model, model)]
    return float((said[0] - said[1]).detach().square().mean())


@pytest.mark.parametrize("name", list(ADAPTER_STARTS))
def test_every_start_goes_through_export_as_it_is(world, begun, name):
    model, facts, settings = begun(name)
    much = 2 if name in ("lq_lora", "apiq") else 1.0001  # these minimize another error
    assert facts["adapter_error"] <= facts["adapter_error_zero"] * much
    packed = Packed.pack(model.eval(), settings, world[1].lexicon).run(torch.device("cpu"))
    assert off(world, packed) == pytest.approx(off(world, model), rel=1e-4)


@pytest.mark.parametrize("name", ["loftq", "int2.1", "pissa", "lq_lora"])
def test_under_dora_a_start_begins_as_the_same_model(world, begun, name):
    lora = {"rank": 4, "targets": ["query", "value", "output", "ffn"], "start": name}
    plain, facts, _ = begun(name)
    turned, same, settings = started(world, name, lora={**lora, "variant": "dora"})
    assert same["adapter_error"] == pytest.approx(facts["adapter_error"], rel=1e-5)
    assert off(world, turned) == pytest.approx(off(world, plain), rel=1e-4)
    scaled = started(world, name, lora={**lora, "variant": "rslora"})[0]
    assert off(world, scaled) == pytest.approx(off(world, plain), rel=1e-4)


def test_apiq_trains_the_magnitudes_of_dora_too(world):
    lora = {"rank": 4, "targets": ["query", "value", "output", "ffn"], "start": {"name": "apiq", "epochs": 2}}
    model, facts, settings = started(world, "apiq", lora={**lora, "variant": "dora"})
    moved = [not torch.equal(magnitude_of(layer.module), torch.linalg.norm(layer.linear.weight, dim=1))
             for layer in adapted_layers(model)]
    assert any(moved) and facts["adapter_error"] < 2 * facts["adapter_error_zero"]
    packed = Packed.pack(model.eval(), settings, world[1].lexicon).run(torch.device("cpu"))
    assert off(world, packed) == pytest.approx(off(world, model), rel=1e-4)


def eva_of_peft(world, settings) -> dict[str, torch.Tensor]:
    """First factors by layer, set by peft's own function on its own model around the body."""
    kind, base, corpus = world
    process = PROCESSES.build(settings.diffusion)
    states = calibration_states(base.model, process, corpus, settings).split(32)
    model = copy.deepcopy(base.model)
    model.body = get_peft_model(model.body, PeftLora(
        r=4, target_modules=target_pattern(model, settings.lora), init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0)))
    initialize_lora_eva_weights(
        model.body, [{"number": torch.tensor(number)} for number in range(len(states))],
        forward_fn=lambda _, batch: model.predict(*(states[int(batch["number"])][k] for k in (0, 1, 4))),
        prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False)
    return {plain_name(name.removesuffix(".lora_A.default.weight")): value
            for name, value in model.named_parameters() if name.endswith("lora_A.default.weight")}


def test_eva_is_pefts_own_and_its_directions_are_those_of_the_inputs(world):
    kind, base, corpus = world
    model, facts, settings = started(world, "eva", calibration={"texts": 64})
    layers = {plain_name(layer.name): layer.module for layer in adapted_layers(model)}
    theirs = eva_of_peft(world, settings)
    assert theirs.keys() == layers.keys() and facts["adapter_error"] == facts["adapter_error_zero"] > 0
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for name in layers:
        base.model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2)))
    states = calibration_states(base.model, PROCESSES.build(settings.diffusion), corpus, settings)
    for rows in inputs.values():
        rows.clear()
    with torch.no_grad():
        base.model.predict(states.state, states.t, states.previous)
    for name, layer in layers.items():
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(first, theirs[name], msg=name)
        assert first.shape == (4, layer.in_features) and not second.any()
        x = inputs[name][-1].double()
        x = x - x.mean(0)
        most = torch.linalg.svdvals(x)[:4].square().sum()
        kept = (x @ first.double().T).square().sum()
        assert 0.98 < kept / most < 1.001, "as much variance as four directions can have"
        base.model.get_submodule(name)._forward_pre_hooks.clear()


def test_eva_that_does_not_settle_is_one_line_and_leaves_no_hook(world):
    with pytest.raises(UserError, match=r"^lora.start: eva: 4 directions .* did not settle in 50 passes"):
        started(world, {"name": "eva", "tau": 1 - 1e-12}, calibration={"texts": 2})
    assert not any(module._forward_hooks for module in world[1].model.modules())


def test_repairs_are_nearer_to_the_base_than_an_adapter_that_adds_nothing(world, begun):
    errors = {name: off(world, begun(name)[0]) for name in ("zero", "loftq", "int2.1", "apiq")}
    assert max(errors["loftq"], errors["int2.1"], errors["apiq"]) < errors["zero"]


def test_no_epochs_of_apiq_are_loras_own_start(world):
    zero, none = (started(world, start)[0].state_dict()
                  for start in ("zero", {"name": "apiq", "epochs": 0}))
    assert all(torch.equal(value, none[name]) for name, value in zero.items())


def test_layers_without_a_quantizer_start_as_ever_and_pissa_moves_them_all_the_same(world):
    base = world[1].model
    model, facts, _ = started(world, "loftq", sites=["embedding"])
    assert facts["adapter_error"] == 0.0
    assert not any(layer.module.lora_B["default"].weight.any() for layer in adapted_layers(model))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model, facts, _ = started(world, "pissa", sites=["embedding"])
    assert facts["adapter_error"] < 1e-6
    assert all(layer.module.lora_B["default"].weight.any() for layer in adapted_layers(model))
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(not value.requires_grad or value.grad is None for value in base.parameters())


def test_under_a_budget_matrices_have_formats_of_their_own_and_all_of_it_is_exported(world):
    budget = {"name": "lq_lora", "budget": 3.75, "bits": [2, 4], "groups": [8, 16]}
    model, facts, settings = started(world, budget)
    assert len({layer.fake.quantizer.label for layer in adapted_layers(model)}) > 1
    packed = Packed.pack(model.eval(), settings, world[1].lexicon)
    own = {layer.name for layer in adapted_layers(model)}
    stored = {name: value.numel() * value.element_size() for name, value in packed.tensors.items()
              if name.endswith(("::codes", "::scale")) and name.partition(".weight::")[0] in own}
    values = sum(layer.master.numel() for layer in adapted_layers(model))
    assert 8 * sum(stored.values()) / values == facts["adapter_base_bits"] <= 3.75
    assert facts["adapter_base_bits"] > 3.5  # and spent
    assert off(world, packed.run(torch.device("cpu"))) == pytest.approx(off(world, model), rel=1e-4)


def test_a_rank_that_a_layer_does_not_have_is_one_line(world):
    with pytest.raises(UserError, match=r"lora.rank: 17 is above the smaller dimension of body.*at most 16"):
        started(world, "loftq", rank=17)
