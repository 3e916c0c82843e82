"""What holds for every diffusion process of the registry, on every backbone that can be trained under it."""

from __future__ import annotations

import pytest
import torch

from spaces.config import PluginRef, SamplingConfig
from spaces.errors import UserError
from trainable.diffusion.noise import Streams
from trainable.diffusion.process import Process
from trainable.registry import BACKBONES, PROCESSES

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(20))]
TINY = {"hidden": 16, "layers": 1, "heads": 2, "ffn": 24, "positions": 16, "dropout": 0.0,
        "embedding_dim": 8, "time_dim": 8}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs() -> list[tuple[str, str]]:
    """(process, backbone) that go together, by the backbone's own rules."""
    return [(process, name) for process in PROCESSES for name in BACKBONES
            if all(rule.holds(process, None)
                   for rule in BACKBONES.get(name).Params.rules if rule.setting == "diffusion.name")]


def test_every_process_has_a_backbone_and_every_backbone_a_process():
    assert ({process for process, _ in pairs()} == set(PROCESSES)
            and {name for _, name in pairs()} == set(BACKBONES))


@pytest.mark.parametrize(("name", "backbone"), pairs())
class TestEveryProcess:
    @pytest.fixture
    def process(self, name) -> Process:
        return PROCESSES.build(PluginRef(name=name))

    @pytest.fixture
    def model(self, process, backbone):
        cls = BACKBONES.get(backbone)
        tiny = {key: value for key, value in TINY.items() if key in cls.Params.model_fields}
        return cls.from_config(BACKBONES.params(PluginRef(name=backbone, **tiny)), process.params, WORDS,
                               seed=1).eval()

    @pytest.fixture
    def ids(self):
        words = torch.randint(4, len(WORDS), (4, 8), generator=seeded(7))
        words[:, 0], words[:, -1] = 0, 1
        return words

    def test_says_what_it_is(self, process, model, name):
        assert (type(process).name == name and type(process).__doc__ and process.levels > 1
                and model.symbols == {})
        assert (list(process.samplers)
                and set(process.guides) <= {"gradient", "classifier_free", "both", "reweight"})

    def test_loss_is_finite_repeatable_and_reaches_the_weights(self, process, model, ids):
        first, second = (process.loss(model, ids, seeded(1)) for _ in range(2))
        assert (float(first["loss"].detach()) == float(second["loss"].detach())
                and torch.isfinite(first["loss"]))
        assert float(process.loss(model, ids, seeded(2))["loss"].detach()) != float(first["loss"].detach())
        first["loss"].backward()
        assert (sum(float(value.grad.abs().sum()) for value in model.parameters() if value.grad is not None)
                > 0)

    def test_a_step_of_training_lowers_the_loss(self, process, model, ids):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        before = sum(float(process.loss(model, ids, seeded(i))["loss"].detach()) for i in range(8))
        for step in range(60):
            optimizer.zero_grad()
            process.loss(model, ids, seeded(100 + step))["loss"].backward()
            optimizer.step()
        assert sum(float(process.loss(model, ids, seeded(i))["loss"].detach()) for i in range(8)) < before

    def test_more_noise_tells_less_of_the_text(self, process, model, ids):
        """The clear state is the same whatever the noise; the noisiest depends on it more."""
        def spread(t: int) -> float:
            states = [process.corrupt(model, ids, torch.full((4,), t), seeded(i)).float() for i in range(6)]
            return float(torch.stack(states).std(0).mean())
        with torch.no_grad():
            assert spread(process.levels - 1) > spread(0)

    def test_text_has_the_shape_asked_for_and_follows_the_generator(self, process, model):
        for sampler in process.samplers:
            drawing = process.sampling(model, SamplingConfig(steps=4, sampler=PluginRef(name=sampler)))
            first, second = (drawing.sample(3, 8, seeded(5)) for _ in range(2))
            assert first.shape == (3, 8) and first.dtype == torch.long and torch.equal(first, second)
            assert int(first.min()) >= 0 and int(first.max()) < len(WORDS)
            assert drawing.steps >= 1 and drawing.traced(8).flops > 0

    def test_several_generators_draw_the_texts_that_each_would_draw_alone(self, process, model):
        sampler = PluginRef(name=next(iter(process.samplers)))
        drawing = process.sampling(model, SamplingConfig(steps=4, sampler=sampler))
        both = drawing.sample(5, 8, Streams((seeded(1), seeded(2)), (2, 3)))
        assert torch.equal(both[:2], drawing.sample(2, 8, seeded(1)))
        assert torch.equal(both[2:], drawing.sample(3, 8, seeded(2)))

    def test_passes_are_the_rows_that_went_through_the_network(self, process, model, backbone):
        """Of every sampler, whoever leaves the batch early; where a condition is exceeded, two for each look.
        What was counted to trace costs is counted alike."""
        telling = "classifier_free" in process.guides
        told = type(model).from_config(model.params, process.params, WORDS, seed=1,
                                       symbols=("a", "b") if telling else ()).eval()
        rows = []
        inside = told.get_submodule(told.sites()["attention"][0])
        inside.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
        for sampler in process.samplers:
            free = process.sampling(told, SamplingConfig(steps=4, sampler=PluginRef(name=sampler)))
            condition = torch.ones(3, 1, 8, dtype=torch.long)
            under = [(free.under(condition, scale), each) for scale, each in ((0.0, 1), (1.5, 2)) if telling]
            for drawing, each in ((free, 1), *under):
                drawing.generate(3, 8, seeded(5))  # what a sampler asks once for all texts is none's
                rows.clear()
                found = drawing.generate(3, 8, seeded(5))
                assert torch.equal(found.ids, drawing.sample(3, 8, seeded(5)))
                assert found.passes.shape == (3,) and int(found.passes.sum()) == sum(rows) // 2 > 0
                assert (found.passes % each == 0).all() and int(found.passes.max()) <= each * drawing.steps
            traced = free.traced(8)
            assert (traced.passes >= 1).all() and (traced.passes <= free.steps).all()

    def test_a_sampler_of_another_process_is_refused(self, process, model):
        with pytest.raises(UserError, match="legal: "):
            process.sampling(model, SamplingConfig(sampler=PluginRef(name="no such sampler")))

    def test_the_bound_is_above_zero_and_paired_by_its_generator(self, process, model, ids):
        with torch.no_grad():
            first, second = (process.bound(model, ids, 4, seeded(3)) for _ in range(2))
        assert all(value.shape == (4,) and value.dtype == torch.float64 for value in first.values())
        assert all(torch.equal(first[part], second[part]) for part in first)
        assert float(sum(first.values()).min()) > 0
