"""One run for every rank and bit-width, of whole toy models: training, its members, and what they export."""

import json

import pytest
import torch
from safetensors.torch import load_file

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.adapters.base import low_rank
from trainable.adapters.supernet import Member
from trainable.artifacts.artifact import load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.registry import PROCESSES
from trainable.stages.adapting import adapted_layers
from trainable.stages.members import as_member, check_ranks, member_of, members_of
from trainable.stages.prepare import Prepared
from trainable.stages.rebasing import rebase
from trainable.stages.supernet import prepare_supernet, supernet_key
from trainable.stages.supernet_model import MemberLoss, build, mixed_places, site_of
from trainable.stages.trial import Trial
from trainable.training.loop import TrainingRun
from trainable.training.muon import Muon
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

CPU = torch.device("cpu")
SHAPE = {"hidden": 16, "layers": 1, "heads": 2, "ffn": 24, "dropout": 0.0}
STEPS = 12
PLAIN = {"scale": "rank", "rebase": 0, "shrink": 0.0, "slower": 0.0, "schedule": "run"}
"""One rate for all, ranks drawn from the first step on."""
TURNED = {"scale": "largest", "rebase": 2, "shrink": 0.5, "slower": 1.0, "schedule": "width"}


def config(ranks=(2, 4), bits=(2, 4), rank=None, mode="supernet", quantizer=None, lora=None,
           per_site=None, **adapt) -> TrialConfig:
    one = {"mode": mode, "ranks": list(ranks), "bits": list(bits), "supernet_steps": STEPS, **PLAIN}
    return TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 30, "max_words": 20},
                   "max_length": 22, "min_count": 1},
        "model": {"name": "masked_lm", **SHAPE}, "diffusion": {"name": "masked"},
        "teacher": {"name": "kneser_ney", "order": 2}, "base": {"optim": {"steps": 12, "lr": 5e-3}},
        "quantization": {"quantizer": quantizer or {"name": "uniform", "bits": bits[-1]},
                         "sites": ["attention", "ffn"], "per_site": per_site or {}},
        "lora": {"rank": rank or ranks[-1], "alpha": 4, "targets": ["query", "value", "ffn"], **(lora or {})},
        "adapt": {"optim": {"batch_size": 8, "lr": 5e-3, "warmup": 2, "steps": STEPS},
                  **({**one, **adapt} if mode == "supernet" else adapt)},
        "sampling": {"steps": 4},
        "evaluation": {"samples": 4, "heldout": 8, "times": 2, "control_tasks": [], "latency_batch": 2,
                       "latency_repeats": 2, "metrics": ["nll_bound"]}})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(cache, what trials share)."""
    cache, settings = tmp_path_factory.mktemp("cache"), config(mode="own").model_dump(mode="json")

    def job(name, **payload):
        told = {"config": settings, "cache": str(cache), **payload}
        return list(JOBS[name](told, WorkerContext()))[-1]["path"]
    corpus = job("corpus")
    return cache, Prepared(corpus, job("teacher", corpus=corpus), job("base", corpus=corpus))


def trained(world, settings) -> tuple[Prepared, dict]:
    cache, shared = world
    *_, last = JOBS["supernet"]({"config": settings.model_dump(mode="json"), "cache": str(cache),
                                 "corpus": shared.corpus, "base": shared.base}, WorkerContext())
    return Prepared(shared.corpus, shared.teacher, shared.base, last["path"]), last


@pytest.fixture(scope="module")
def supernet(world):
    """(settings, paths, facts) of one that has trained."""
    return config(), *trained(world, config())


def trial(settings, shared, folder) -> Trial:
    return Trial(settings, shared, [STEPS], folder, CPU, {})


def equal(ours, theirs) -> list[str]:
    theirs = theirs.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    return [name for name, value in ours.state_dict().items() if not torch.equal(value, theirs[name])]


@pytest.mark.parametrize(("lora", "adapt"), [({}, TURNED), ({"start": {"name": "loftq", "rounds": 1}}, {})])
def test_a_supernet_of_one_member_is_the_run_of_its_own_bit_for_bit(world, tmp_path, lora, adapt):
    alone = config((4,), (2,), lora=lora, **adapt)
    paths, _ = trained(world, alone)
    own = trial(config((4,), (2,), mode="own", lora=lora), paths, tmp_path / "own")
    own.run.advance(STEPS)
    assert equal(trial(alone, paths, tmp_path / "member").model, own.model) == []


def test_every_member_is_the_prefix_of_its_width_and_a_trial_like_any_other(supernet, tmp_path):
    settings, paths, facts = supernet
    assert facts["supernet_steps"] == STEPS
    kept = load_file(f"{paths.supernet}/supernet.safetensors")
    seen = set()
    for member in members_of(settings):
        own = member_of(member)
        model = trial(member, paths, tmp_path).model
        assert not any(value.requires_grad for value in model.parameters())
        for layer in adapted_layers(model):
            down, up = (getattr(layer.module, factor)["default"].weight for factor in ("lora_A", "lora_B"))
            names = [f"{own.bits}/{layer.name}.{factor}.default.weight" for factor in ("lora_A", "lora_B")]
            assert torch.equal(down, kept[names[0]][:own.rank])
            assert torch.equal(up, kept[names[1]][:, :own.rank])
            assert layer.module.scaling["default"] == 4 / own.rank
            assert layer.fake.quantizer.params.bits == own.bits
        seen.add(own)
    assert seen == {Member(rank, bits) for rank in (2, 4) for bits in (2, 4)}


def test_prefixes_of_one_scale_add_the_same_whatever_follows_them(world, tmp_path):
    settings = config(scale="largest")
    paths, _ = trained(world, settings)
    kept = load_file(f"{paths.supernet}/supernet.safetensors")
    for rank in (2, 4):
        for layer in adapted_layers(trial(as_member(settings, Member(rank, 2)), paths, tmp_path).model):
            down, up = (kept[f"2/{layer.name}.{factor}.default.weight"] for factor in ("lora_A", "lora_B"))
            assert torch.allclose(layer.module.get_delta_weight("default"),
                                  up[:, :rank] @ down[:rank] * (4 / 4), atol=1e-7)


def test_a_member_is_measured_and_exported_without_training(supernet, tmp_path):
    settings, paths, _ = supernet
    payload = {"config": as_member(settings, Member(2, 2)).model_dump(mode="json"), "rungs": [STEPS],
               "prepared": vars(paths), "folder": str(tmp_path)}
    event = list(JOBS["trial"](payload, WorkerContext()))[-1]
    assert event["final"] and event["nll_bound"] > 0 and event["train_seconds"] == 0
    assert event["supernet_steps"] == STEPS
    loaded = load(event["artifact"])
    packing = json.loads((tmp_path / "artifact" / "config.json").read_text())["packing"]
    assert {entry["quantizer"]["bits"] for entry in packing.values()} == {2}
    member = trial(as_member(settings, Member(2, 2)), paths, tmp_path / "again").model
    ids = torch.as_tensor(TokenizedCorpus.open(paths.corpus).ids("valid")[:6].astype("int64"))
    said = [model.predict(ids, torch.full((6,), 3)).log_probs for model in (member, loaded.model)]
    assert torch.allclose(*said, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_moves_its_own_member_and_no_other(world, shared):
    settings = config(shared=shared)
    base, corpus = load(world[1].base), TokenizedCorpus.open(world[1].corpus)
    supernet = build(settings, base, corpus, CPU)
    supernet.draw(Member(2, 4))
    loss = supernet.model.predict(torch.full((2, 6), 5), torch.full((2,), 3)).log_probs.square().mean()
    loss.backward()
    moved = {name for name, value in supernet.named_parameters() if value.grad is not None}
    assert moved and not any("original1" in name for name in moved)
    assert all(".4." in name or shared and "lora_" not in name for name in moved)
    frozen = [value for name, value in supernet.named_parameters() if not value.requires_grad]
    assert sum(value.numel() for value in frozen) < 1.5 * sum(
        value.numel() for value in base.model.body.parameters())  # held once, whatever the widths


@pytest.mark.parametrize("which", ["supernet", "turned"])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(world, which, request, tmp_path, monkeypatch):
    monkeypatch.setattr("trainable.stages.supernet.REPORT_EVERY", 5)
    monkeypatch.setattr("trainable.training.checkpoint.EVERY", 0.0)
    settings, paths, *_ = request.getfixturevalue(which)
    for stop in (3, 99):  # a word each 5 steps: the first leaves after 15 of them, its last ones not kept
        events = prepare_supernet(settings, world[1], tmp_path, CPU)
        for _ in zip(range(stop), events, strict=False):
            pass
        events.close()
        assert bool(list(tmp_path.glob(".supernet-*"))) == (stop == 3)
    folder, = tmp_path.glob("supernet-*")
    first, again = (load_file(f"{place}/supernet.safetensors") for place in (paths.supernet, folder))
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def turned(world):
    """(settings, paths) of one whose adapters are turned into their singular bases, once on the way."""
    settings = config(**TURNED, optim={"batch_size": 8, "lr": 5e-3, "warmup": 2, "steps": STEPS, "ema": 0.5})
    return settings, trained(world, settings)[0]


def adapters(model) -> list:
    return [layer.module for layer in adapted_layers(model)]


def test_members_of_a_turned_supernet_are_the_best_parts_of_the_widest(turned, tmp_path):
    settings, paths = turned
    for bits in (2, 4):
        whole, part = (trial(as_member(settings, Member(rank, bits)), paths, tmp_path).model
                       for rank in (4, 2))
        for wide, narrow in zip(adapters(whole), adapters(part), strict=True):
            up, down = low_rank(wide.get_delta_weight("default"), 2)
            assert float((narrow.get_delta_weight("default") - up @ down).abs().max()) <= 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])  # which has AdamW's moments of adapters
def test_turning_changes_no_full_rank_function_and_follows_in_averages_and_moments(turned, world, optimizer):
    settings, paths = turned
    base, corpus = load(world[1].base), TokenizedCorpus.open(world[1].corpus)
    whole = build(settings, base, corpus, CPU)
    run = TrainingRun(whole, MemberLoss(PROCESSES.build(settings.diffusion)), corpus.ids("train"),
                      settings.adapt.optim.model_copy(update={"name": optimizer}), settings.runtime, 1, CPU,
                      draw=lambda step: whole.draw(Member(2 + 2 * (step % 2), 2)))
    run.advance(4)
    assert isinstance(run.optimizer, Muon) == (optimizer == "muon")
    whole.eval()
    whole.draw(Member(4, 2))
    before, layers = said(whole.model), whole.adapters
    shown = [(layer.lora_A["default"].weight, layer.lora_B["default"].weight) for layer in layers[:3]]
    names = {id(value): name for name, value in run.trained.items()}
    averages = [[run.average[names[id(value)]] for value in pair] for pair in shown]
    products = [up @ down for down, up in (*shown, *averages)]
    slopes = [(run.optimizer.state[down]["exp_avg"] * down).sum() for down, _ in shown]
    rebase(layers, run)
    assert float((said(whole.model) - before).abs().max()) <= 1e-6
    for (down, up), product in zip((*shown, *averages), products, strict=True):
        assert torch.allclose(up @ down, product, atol=1e-6)
    for (down, _), slope in zip(shown, slopes, strict=True):  # <m, A> is the same in all coordinates
        found = (run.optimizer.state[down]["exp_avg"] * down).sum()
        assert torch.allclose(found, slope, rtol=1e-3, atol=1e-6)
    square = shown[0][0] @ shown[0][0].mT
    assert torch.allclose(square, square.diagonal().diag(), atol=1e-6)  # rows are orthogonal


def test_turned_members_are_exported_in_the_same_bytes(turned, supernet, tmp_path):
    events = []
    for settings, paths, *_ in (turned, supernet):
        payload = {"config": as_member(settings, Member(2, 2)).model_dump(mode="json"), "rungs": [STEPS],
                   "prepared": vars(paths), "folder": str(tmp_path / str(len(events)))}
        events.append(list(JOBS["trial"](payload, WorkerContext()))[-1])
    assert events[0]["packed_bytes"] == events[1]["packed_bytes"]
    model = trial(as_member(turned[0], Member(2, 2)), turned[1], tmp_path / "again").model
    assert torch.allclose(said(model), said(load(events[0]["artifact"]).model), atol=1e-5)


MIX = Member(4, 2, (("ffn", 4),))


@pytest.fixture(scope="module")
def mixtures(world):
    """(settings, paths, the supernet that has trained) of one that draws bits for each site."""
    settings = config(shared=True, mixtures=0.7)
    paths, _ = trained(world, settings)
    whole = build(settings, load(paths.base), TokenizedCorpus.open(paths.corpus), CPU).eval()
    with torch.no_grad():
        for key, value in load_file(f"{paths.supernet}/supernet.safetensors").items():
            owner, _, name = key.partition("/")
            for bits in settings.adapt.bits if owner == "all" else [int(owner)]:
                whole.state(bits)[name].copy_(value)
    return settings, paths, whole


def said(model):
    ids = torch.arange(4, 4 + 6 * 20).view(6, 20) % 30
    with torch.no_grad():
        return model.predict(ids, torch.full((6,), 3)).log_probs


def test_every_mixture_computes_as_the_supernet_does_when_it_is_drawn(mixtures, tmp_path):
    settings, paths, whole = mixtures
    for member in members_of(settings):
        model, own = trial(member, paths, tmp_path).model, member_of(member)
        whole.draw(own)
        assert torch.equal(said(model), said(whole.model)), own
        places = mixed_places(model)
        assert {(site_of(layer.name, places), layer.fake.quantizer.params.bits)
                for layer in adapted_layers(model)} == {(site, own.at(site)) for site in ("attention", "ffn")}
    assert len(members_of(settings)) == 2 * 2 * 2 and len(whole.models) == 2


def test_a_mixture_of_one_width_is_the_member_of_that_width(mixtures, tmp_path):
    settings, paths, _ = mixtures
    plain = as_member(settings, Member(2, 4))
    named = plain.model_dump(mode="json")
    named["quantization"]["quantizer"]["bits"] = 2
    named["quantization"]["per_site"] = dict.fromkeys(("attention", "ffn"), {"name": "uniform", "bits": 4})
    named = TrialConfig.model_validate(named)
    assert member_of(named) == Member(2, 4) and supernet_key(named) == supernet_key(settings)
    assert equal(*(trial(one, paths, tmp_path).model for one in (plain, named))) == []


def test_steps_that_never_mix_train_what_they_did_before_bit_for_bit(world):
    off, on = (config(shared=True, supernet_steps=6, mixtures=share) for share in (0.0, 1e-12))
    paths = [trained(world, each)[0].supernet for each in (off, on)]
    first, again = (load_file(f"{path}/supernet.safetensors") for path in paths)
    assert first.keys() == again.keys() and supernet_key(off) != supernet_key(on)
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_artifact_of_a_mixture_is_the_supernet_as_drawn_and_its_bytes_are_counted(mixtures, tmp_path):
    settings, paths, whole = mixtures
    events = {}
    for member in (MIX, Member(4, 2), Member(4, 4)):
        told = as_member(settings, member)
        payload = {"config": told.model_dump(mode="json"), "rungs": [STEPS], "prepared": vars(paths),
                   "folder": str(tmp_path / f"{member.bits}{bool(member.others)}")}
        events[member] = list(JOBS["trial"](payload, WorkerContext()))[-1]
    event, loaded = events[MIX], load(events[MIX]["artifact"])
    assert event["train_seconds"] == 0 and member_of(loaded.config) == MIX
    whole.draw(MIX)
    packed = Packed.pack(whole.model, as_member(settings, MIX), loaded.lexicon)
    exported = load_file(f"{event['artifact']}/model.safetensors")
    assert packed.tensors.keys() == exported.keys()
    assert all(torch.equal(value, exported[name]) for name, value in packed.tensors.items())
    assert torch.equal(said(packed.run(CPU)), said(loaded.model))
    narrow, wide = events[Member(4, 2)], events[Member(4, 4)]
    assert event["bits_per_weight_attention"] == narrow["bits_per_weight_attention"]
    assert event["bits_per_weight_ffn"] == wide["bits_per_weight_ffn"] != narrow["bits_per_weight_ffn"]
    codes = sum(value.numel() for name, value in load(paths.base).model.state_dict().items()
                if site_of(name, mixed_places(loaded.model)) == "ffn" and name.endswith("weight"))
    assert event["packed_bytes"] - narrow["packed_bytes"] == codes * (4 - 2) / 8


def test_a_step_of_a_mixture_moves_its_layers_and_what_all_have_in_common(mixtures):
    settings, paths, _ = mixtures
    whole = build(settings, load(paths.base), TokenizedCorpus.open(paths.corpus), CPU).train()
    whole.draw(MIX)
    assert whole.model.training and "mixed" not in dict(whole.named_children())
    whole.model.predict(torch.full((2, 6), 5), torch.full((2,), 3)).log_probs.square().mean().backward()
    moved = {name for name, value in whole.named_parameters() if value.grad is not None}
    places = mixed_places(whole.models["2"])
    found = {(bits, site_of(name, places)) for _, bits, name in (one.split(".", 2) for one in moved)}
    assert found == {("2", "attention"), ("4", "ffn"), ("2", None)}  # common weights go by their first name
    whole.draw(Member(2, 4))
    assert whole.model is whole.models["4"]


@pytest.mark.parametrize("hold", ["floats", "codes"])
def test_a_trial_with_adapters_by_interval_exports_what_it_trained_and_is_no_base(world, hold, tmp_path):
    told = config(mode="own", lora={"intervals": 3, "start": "loftq"}, hold=hold)
    payload = {"config": told.model_dump(mode="json"), "rungs": [STEPS], "prepared": vars(world[1]),
               "folder": str(tmp_path)}
    event = list(JOBS["trial"](payload, WorkerContext()))[-1]
    single = trial(config(mode="own"), world[1], tmp_path / "one").facts["trainable_params"]
    loaded = load(event["artifact"])
    own = {name: value for name, value in load_file(f"{event['artifact']}/model.safetensors").items()
           if "::lora_" in name}
    assert event["trainable_params"] - single == 2 / 3 * sum(value.numel() for value in own.values())
    assert event["nll_bound"] > 0 and event["adapter_error"] < event["adapter_error_zero"]
    assert all(len(value) == 3 and not torch.equal(value[0], value[1]) for value in own.values())
    moved = Prepared(world[1].corpus, world[1].teacher, str(loaded.path))
    with pytest.raises(UserError, match="differ between intervals of the noise level, so it is no base"):
        trial(config(mode="own"), moved, tmp_path / "two")


def test_members_share_one_supernet_and_nothing_else_does():
    key = supernet_key(config())
    assert {supernet_key(member) for member in members_of(config())} == {key}
    others = [config(ranks=(2, 4, 8)), config(bits=(2, 4, 8)), config(supernet_steps=13), config(shared=True),
              config(scale="largest"), config(scale="largest", rebase=1), config(shrink=0.5),
              config(slower=1), config(schedule="width"), config(lean=0), config(shared=True, mixtures=0.5),
              config(lora={"alpha": 8}), config(quantizer={"name": "uniform", "bits": 4, "symmetric": False}),
              config().model_copy(update={"seed": 1})]
    assert len({key, *map(supernet_key, others)}) == len(others) + 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"ranks": (2, 17)}, r"adapt.ranks: 17 is above the smaller dimension of body\S+; legal: at most 16"),
    ({"bits": (2, 9)}, "adapt.bits: 9: quantizer 'uniform'.*equal to 8"),
    ({"quantizer": {"name": "nf4"}}, "adapt.bits: quantizer nf4 has no bits; legal: .*uniform"),
    ({"quantizer": {"name": "uniform"}, "bits": (2, 3)}, "bits=4 is not among the supernet's; legal: 2, 3"),
    ({"shared": True, "mixtures": 0.5,
      "per_site": {"ffn": {"name": "uniform", "bits": 2, "symmetric": False}}},
     "quantization.per_site.ffn: symmetric=False, and quantization.quantizer has True; legal in a supernet"),
])
def test_what_no_supernet_can_have_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        member_of(config(**changes))
        check_ranks(config(**changes))
    assert "\n" not in str(error.value)


def test_the_lowest_of_several_rungs_is_the_member_and_above_it_trains_the_trial_itself(supernet, tmp_path):
    settings, paths, _ = supernet
    told = as_member(settings, Member(2, 4))
    alone = config((2,), (4,), mode="own")

    def events(config, rungs, place):
        payload = {"config": config.model_dump(mode="json"), "rungs": rungs, "prepared": vars(paths),
                   "folder": str(tmp_path / place)}
        return [event for event in JOBS["trial"](payload, WorkerContext()) if "rung" in event]
    low, top = events(told, [4, STEPS], "several")
    once, = events(told, [STEPS], "once")
    own, = events(alone, [STEPS], "own")
    assert low["train_seconds"] == 0 < top["train_seconds"] and not low["final"]
    assert top["nll_bound"] == own["nll_bound"] != once["nll_bound"]
    member = trial(told, paths, tmp_path / "again")
    assert low["nll_bound"] == pytest.approx(member._measure(False, 0.5)["nll_bound"])
