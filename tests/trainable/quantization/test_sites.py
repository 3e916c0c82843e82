"""Quantizers on the sites of a model, with and without peft around its layers."""
import copy
import json
from collections import Counter

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from sited_models import D, Encoder, Small, V, lora
from torch import nn

from spaces.config import SITES, QuantizationConfig
from spaces.errors import UserError
from trainable.quantization import sites

EXPECTED = {"embedding": 1, "projection": 6, "attention": 8, "ffn": 4}
FORMATS = {"embedding": "fixed:Q0i8f", "projection": "ternary_twn", "attention": "binary",
           "ffn": "pow2:Q4i4f"}


def make(cls=Small, how="plain"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lora(cls(), how).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(V, (3, 6), generator=generator), torch.rand(3, 4, generator=generator)


def everywhere(short="fixed:Q0i8f"):
    return QuantizationConfig(quantizer=short, sites=SITES)


def mixed():
    return QuantizationConfig(per_site=FORMATS)


def count_calls(model) -> Counter:
    """Counts `fake_quantize` calls from now on, by quantizer label."""
    calls = Counter()
    for quantizer in {id(q): q for q, _, _ in sites.quantized_state(model).values()}.values():
        def counted(w, *learned, quantizer=quantizer):
            calls[quantizer.label] += 1
            return type(quantizer).fake_quantize(quantizer, w, *learned)
        quantizer.fake_quantize = counted
    return calls


@pytest.mark.parametrize("cls", [Small, Encoder])
@pytest.mark.parametrize("how", ["plain", "inject", "wrap"])
def test_each_weight_belongs_to_its_site(cls, how):
    model, plain = make(cls, how), make(cls)
    for site, count in EXPECTED.items():
        found = sites.site_weights(model, site)
        assert len(found) == count
        assert all(model.get_submodule(name) is module for name, module in found)
        assert not any("lora_" in name for name, _ in found)
        assert ([sites.plain_name(name) for name, _ in found]
                == [name for name, _ in sites.site_weights(plain, site)])
    names = [name for site in SITES for name, _ in sites.site_weights(model, site)]
    assert len(set(names)) == sum(EXPECTED.values())


@pytest.mark.parametrize("cls", [Small, Encoder])
@pytest.mark.parametrize("how", ["plain", "inject", "wrap"])
def test_model_computes_with_quantized_weights(cls, how):
    """Same output as a model whose weights were overwritten with the quantized values by hand."""
    model, reference = make(cls, how), make(cls, how)
    sites.apply(model, mixed())
    state = sites.quantized_state(model)
    assert len(state) == sum(EXPECTED.values())
    for name, (quantizer, master, _) in state.items():
        target = reference.get_submodule(name).weight
        assert torch.equal(master, target)
        target.data.copy_(quantizer.decode(quantizer.encode(master), tuple(master.shape)))
        assert torch.equal(model.get_submodule(name).weight, target)
    assert torch.equal(model(*batch()), reference(*batch()))


def test_adapter_on_a_projection_is_not_its_weight():
    model = make()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0", "2"]), model.up)
    assert [sites.plain_name(n) for n, _ in sites.site_weights(model, "projection")][:2] == ["up.0", "up.2"]
    assert len(sites.site_weights(model, "projection")) == EXPECTED["projection"]


def test_adapter_may_come_before_or_after():
    before, after = make(how="inject"), make()
    sites.apply(before, mixed())
    sites.apply(after, mixed())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lora(after, "inject")
    after.load_state_dict(before.state_dict())
    assert list(sites.quantized_state(before)) == list(sites.quantized_state(after))
    assert torch.equal(before(*batch()), after(*batch()))


def test_none_leaves_the_model_as_it_is():
    model = make()
    reports = sites.apply(model, QuantizationConfig())
    assert list(model.state_dict()) == list(make().state_dict()) and not sites.quantized_state(model)
    assert [r.bits_per_value for r in reports.values()] == [32] * 4
    assert all(r.rms_before == r.rms_after for r in reports.values())


def test_sites_may_be_mixed_and_left_out():
    model = make()
    reports = sites.apply(model, QuantizationConfig(quantizer="binary", sites=("embedding", "ffn"),
                                                    per_site={"ffn": "none", "attention": "fixed:Q0i4f"}))
    assert {site: r.quantizer for site, r in reports.items()} == {
        "embedding": "binary", "projection": "none", "attention": "Q0i4f", "ffn": "none"}
    assert {sites.plain_name(n) for n in sites.quantized_state(model)} == {
        name for site in ("embedding", "attention") for name, _ in sites.site_weights(model, site)}


def test_report_counts_what_is_stored():
    model = make()
    reports = sites.apply(model, mixed())
    for site, report in reports.items():
        weights = [module.parametrizations.weight.original for _, module in sites.site_weights(model, site)]
        quantizer = sites.quantized_state(model)[sites.site_weights(model, site)[0][0]][0]
        stored = sum(a.numel() * a.element_size() for w in weights for a in quantizer.encode(w).values())
        values = torch.cat([w.detach().flatten() for w in weights])
        assert (report.matrices, report.values) == (EXPECTED[site], values.numel())
        assert report.bits_per_value == pytest.approx(8 * stored / values.numel())
        assert report.rms_before == pytest.approx(values.square().mean().sqrt().item(), rel=1e-5)
        after = torch.cat([m.weight.detach().flatten() for _, m in sites.site_weights(model, site)])
        assert report.rms_after == pytest.approx(after.square().mean().sqrt().item(), rel=1e-5)
        assert report.largest == values.abs().max().item()
        assert report.saturated == (((values < -1) | (values > 0.99609375)).double().mean()
                                    if site == "embedding" else 0)
        assert json.loads(json.dumps(report.as_dict()))["collapsed_rows"] == report.collapsed_rows


def test_collapsed_table_is_seen():
    model = make()
    with torch.no_grad():
        model.word_embedding.weight.mul_(0.1)
    report = sites.apply(model, QuantizationConfig(quantizer="fixed:Q4i0f"))["embedding"]
    assert (report.rows, report.distinct_rows, report.collapsed_rows) == (V, 1, V - 1)
    assert sites.apply(make(), QuantizationConfig(quantizer="fixed:Q0i8f"))["embedding"].collapsed_rows == 0


def test_distinct_rows():
    table = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert sites.distinct_rows(table) == sites.distinct_rows(table.bfloat16()) == 2


@pytest.mark.parametrize("how", ["plain", "inject"])
def test_masters_train_and_optimizer_keeps_them(how):
    model = make(how=how)
    optimizer = torch.optim.SGD([p for p in model.parameters()], lr=0.1)  # built before quantizers are placed
    sites.apply(model, mixed())
    masters = {name: m.clone() for name, (_, m, _) in sites.quantized_state(model).items()}
    trained = {name: model.get_submodule(name).parametrizations.weight.original.requires_grad
               for name in masters}
    assert all(trained.values()) == (how == "plain")  # inject_adapter_in_model freezes base weights
    ids, t = batch()
    nn.functional.cross_entropy(model.train()(ids, t).flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
    for name, (_, master, _) in sites.quantized_state(model).items():
        assert torch.equal(master, masters[name]) != trained[name], name


def test_tied_table_gets_gradient_from_both_uses():
    model = make()
    sites.apply(model, QuantizationConfig(quantizer="ternary_twn"))
    ids, t = torch.zeros(1, 4, dtype=torch.long), torch.rand(1, 4)
    model(ids, t)[..., 5].sum().backward()
    rows = model.word_embedding.parametrizations.weight.original.grad.abs().sum(1)
    assert rows[0] > 0 and rows[5] > 0 and rows[6] == 0  # looked up, scored, neither


@pytest.mark.parametrize("how", ["plain", "inject", "wrap"])
def test_deepcopy_is_independent(how):
    model = make(how=how)
    sites.apply(model, mixed())
    twin = copy.deepcopy(model)
    out = twin(*batch())
    assert torch.equal(out, model(*batch()))
    with torch.no_grad():
        for _, (_, master, _) in sites.quantized_state(model).items():
            master.neg_()
    assert torch.equal(twin(*batch()), out) and not torch.equal(model(*batch()), out)


def test_state_dict_moves_to_a_model_quantized_alike():
    source, target = make(), make()
    with torch.no_grad():
        for p in target.parameters():
            p.mul_(0.5)
    for model in (source, target):
        sites.apply(model, mixed())
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(*batch()), target(*batch()))


def test_remove_gives_the_masters_back_and_allows_a_merge():
    model, plain = make(how="inject"), make(how="inject")
    sites.apply(model, everywhere("binary"))
    sites.remove(model)
    assert (set(model.state_dict()) == set(plain.state_dict())
            and torch.equal(model(*batch()), plain(*batch())))
    for module in model.body.modules():
        if hasattr(module, "merge"):
            module.merge()
    torch.testing.assert_close(model(*batch()), plain(*batch()), rtol=1e-4, atol=1e-5)
    reports = sites.apply(model, everywhere("binary"))
    assert len(reports) == 4 and not torch.equal(model(*batch()), plain(*batch()))


def test_merging_without_remove_loses_the_adapter():
    """Pins peft's silent behavior that the module's docstring warns of; when this fails,
    the warning can go."""
    model = make(how="inject")
    sites.apply(model, everywhere("binary"))
    layer = model.body.get_submodule("encoder.layer.0.attention.self.query")
    before = layer.base_layer.weight.clone()
    layer.merge()
    assert torch.equal(layer.base_layer.weight, before)


def make_quantized():
    model = make()
    sites.apply(model, everywhere())
    return model


class TestFrozenWeights:
    def test_quantizes_each_weight_once_however_often_the_model_runs(self):
        model = make(how="inject")
        sites.apply(model, mixed())
        calls = count_calls(model)
        reference = model(*batch())
        assert sum(calls.values()) == 20  # every weight once, the tied table twice
        calls.clear()
        with torch.no_grad(), sites.frozen_weights(model):
            outputs = [model(*batch()) for _ in range(5)]
        assert calls == {"Q0i8f": 1, "ternary_twn": 6, "binary": 8, "pow2_Q4i4f": 4}
        assert all(torch.equal(out, reference) for out in outputs)
        model(*batch())
        assert sum(calls.values()) == 19 + 20

    def test_guidance_can_differentiate_activations(self):
        model = make_quantized()
        hidden = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
        expected, = torch.autograd.grad(model.up(hidden).square().sum(), hidden)
        for context in (torch.enable_grad(), torch.no_grad()):
            with context, sites.frozen_weights(model), torch.enable_grad():
                for _ in range(2):  # a second backward through held weights must not meet a freed graph
                    hidden.grad = None
                    model.up(hidden).square().sum().backward()
                    assert torch.equal(hidden.grad, expected)
        with torch.inference_mode(), sites.frozen_weights(model), torch.inference_mode(False):
            model.up(hidden).sum().backward()

    def test_sees_new_masters_afterwards_and_releases_on_error(self):
        model = make_quantized()
        with pytest.raises(KeyError), sites.frozen_weights(model):
            raise KeyError
        with torch.no_grad():
            model.word_embedding.parametrizations.weight.original.neg_()
        assert not any(m.held is not None for m in model.modules() if isinstance(m, sites.FakeQuant))
        assert torch.equal(model.word_embedding.weight,
                           -sites.quantized_state(make_quantized())["word_embedding"][1]
                           .mul(256).round().clamp(-255, 256).div(256))

    def test_nested_use_holds_until_the_outer_end(self):
        model = make_quantized()
        calls = count_calls(model)
        with sites.frozen_weights(model):
            with sites.frozen_weights(model):
                model(*batch())
            model(*batch())
        assert calls == {"Q0i8f": 19}

    def test_training_inside_is_refused(self):
        model = make().train()
        sites.apply(model, everywhere())
        with sites.frozen_weights(model), pytest.raises(RuntimeError, match="frozen_weights"):
            model(*batch())

    def test_training_on_a_frozen_body_quantizes_only_what_trains(self):
        model = make(how="inject").train()
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name or not name.startswith("body"))
        sites.apply(model, mixed())
        ids, t = batch()
        nn.functional.cross_entropy(model(ids, t).flatten(0, 1), ids.flatten()).backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        calls = count_calls(model)
        with sites.frozen_weights(model, trainable=False):
            for _ in range(3):
                model.zero_grad()
                nn.functional.cross_entropy(model(ids, t).flatten(0, 1), ids.flatten()).backward()
        assert calls == {"Q0i8f": 6, "ternary_twn": 18, "binary": 8, "pow2_Q4i4f": 4}
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(grads) == set(expected) and all(torch.equal(grads[n], expected[n]) for n in grads)
        assert sum("lora_" in n for n in grads) == 2 * 2 * 4

    def test_leaves_other_models_alone(self):
        model, other = make_quantized(), make_quantized()
        calls = count_calls(other)
        with sites.frozen_weights(model):
            other(*batch())
        assert calls == {"Q0i8f": 20}


def test_bad_use_is_refused_before_anything_changes():
    model = make()
    with pytest.raises(UserError, match="Q0i0f"):
        sites.apply(model, QuantizationConfig(quantizer="binary", per_site={"ffn": "fixed:Q0i0f"}))
    with pytest.raises(UserError, match="unknown quantizer"):
        sites.apply(model, QuantizationConfig(quantizer="binar"))
    model.body = nn.Identity()
    with pytest.raises(ValueError, match="'attention' has no weights"):
        sites.apply(model, everywhere())
    assert not sites.quantized_state(model)
    quantized = make_quantized()
    with pytest.raises(ValueError, match="word_embedding.*remove first"):
        sites.apply(quantized, QuantizationConfig(quantizer="binary"))


def test_all_families_compile_to_one_graph():
    model = nn.Module()
    labels = ("fixed:Q0i8f", "pow2:Q4i4f", "ternary_twn",
              "ternary_absmean", "binary", "uniform:3", "float:E3M0", "nf4", "bfp",
              {"name": "uniform", "scale": "lsq"}, {"name": "uniform", "gradient": "rotation"})
    model.up = nn.Sequential(*[nn.Linear(6, 6) for _ in labels])
    for layer, label in zip(model.up, labels, strict=True):
        quantizer = sites.QUANTIZERS.build(QuantizationConfig(quantizer=label).quantizer)
        nn.utils.parametrize.register_parametrization(layer, "weight",
                                                      sites.FakeQuant(quantizer, layer.weight))
    compiled = torch.compile(model.up, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    grads = []
    for forward in (compiled, model.up):
        model.zero_grad()
        out = forward(x)
        out.square().sum().backward()
        grads.append([out, *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*grads)
    with torch.no_grad(), sites.frozen_weights(model):
        torch.testing.assert_close(compiled(x), model.up(x))


def test_gradients_through_ddp_equal_those_without(tmp_path):
    model = make(how="inject")
    sites.apply(model, mixed())
    ids, t = batch()
    for p in model.parameters():
        p.requires_grad_(True)
    nn.functional.cross_entropy(model(ids, t).flatten(0, 1), ids.flatten()).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        nn.functional.cross_entropy(ddp(ids, t).flatten(0, 1), ids.flatten()).backward()
    finally:
        torch.distributed.destroy_process_group()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad)
