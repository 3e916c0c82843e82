"""What holds for either kind of guide on every process that takes it, and for every other on none."""

from __future__ import annotations

import pytest
import torch
from guides import Latents, Tokens

from spaces.config import PluginRef, SamplingConfig
from spaces.errors import UserError
from trainable.registry import BACKBONES, PROCESSES

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(20))]
TINY = {"hidden": 16, "layers": 1, "heads": 2, "ffn": 24, "positions": 16, "dropout": 0.0, "embedding_dim": 8,
        "time_dim": 8}
WANTED, N, LENGTH, STEPS = 9, 24, 10, 6


class Gradient:
    """Latents are drawn to one word's row of the table."""

    by = "gradient"

    def __init__(self, model):
        self.row, self.calls = model.embed(torch.tensor([WANTED]))[0].detach(), 0

    def guide(self, strength: float):
        def pull(x, t, mean, sigma, predict, step):
            self.calls += 1
            assert x.shape == mean.shape and t.shape == (len(x),) and 0 <= step < STEPS
            assert predict(x, t).log_probs.shape == (*x.shape[:2], len(WORDS))
            return x + strength * (self.row - x)
        return Latents(pull)


class Reweight:
    """One word's log weight is raised."""

    by = "reweight"

    def __init__(self, model):
        self.model, self.calls = model, 0

    def guide(self, strength: float):
        def raised(log_probs, rows):
            self.calls += 1
            assert (log_probs.shape[:2] == rows.ids.shape == rows.masked.shape
                    and len(rows.rows) == len(rows.ids))
            weights = torch.zeros(log_probs.shape[-1])
            weights[WANTED] = 12.0 * strength
            return log_probs + weights
        return Tokens(raised)


KINDS = {kind.by: kind for kind in (Gradient, Reweight)}


def takes() -> list[tuple[str, str]]:
    """(process, kind) that go together, as the processes say."""
    return [(name, by) for name in PROCESSES for by in PROCESSES.get(name).guides if by in KINDS]


def made(name: str):
    """A process and a small untrained backbone of its own."""
    process = PROCESSES.build(PluginRef(name=name))
    backbone = next(cls for cls in map(BACKBONES.get, BACKBONES)
                    if all(rule.holds(name, None)
                           for rule in cls.Params.rules if rule.setting == "diffusion.name"))
    tiny = {key: value for key, value in TINY.items() if key in backbone.Params.model_fields}
    return process, backbone.from_config(BACKBONES.params(PluginRef(name=backbone.name, **tiny)),
                                         process.params, WORDS, seed=1)


def drawn_from(process, model):
    """Sampling by the first sampler of a process."""
    return process.sampling(model, SamplingConfig(steps=STEPS, sampler=next(iter(process.samplers))))


def test_every_kind_is_taken_by_a_process():
    assert {by for _, by in takes()} == set(KINDS)


@pytest.mark.parametrize(("name", "by"), takes())
def test_one_that_changes_nothing_is_called_and_changes_nothing(name, by):
    process, model = made(name)
    drawing, kind = drawn_from(process, model), KINDS[by](model)
    plain, guided = (drawing.sample(N, LENGTH, torch.Generator().manual_seed(3), guide)
                     for guide in (None, kind.guide(0.0)))
    assert torch.equal(plain, guided) and kind.calls > 0


@pytest.mark.parametrize(("name", "by"), takes())
def test_one_that_pulls_changes_the_text(name, by):
    process, model = made(name)
    drawing = drawn_from(process, model)
    plain, guided = (drawing.sample(N, LENGTH, torch.Generator().manual_seed(3), guide)
                     for guide in (None, KINDS[by](model).guide(0.9)))
    assert not torch.equal(plain, guided)  # where to, on a trained model: tests/trainable/control


@pytest.mark.parametrize("name", list(PROCESSES))
def test_another_kind_is_refused_in_one_line(name):
    process, model = made(name)
    drawing = drawn_from(process, model)
    strangers = [kind(model).guide(0.0) for by, kind in KINDS.items() if by not in process.guides]
    for guide in (*strangers, lambda *arguments: arguments[0]):
        with pytest.raises(UserError) as found:
            drawing.sample(2, LENGTH, torch.Generator().manual_seed(3), guide)
        assert f"diffusion {name}: takes no guide" in str(found.value)
        assert ("legal: by" in str(found.value)) == bool(process.guides)
        assert "\n" not in str(found.value)
