"""Guidance: each update by hand, what it leaves alone, and that it reaches known optima."""

import math

import pytest
import torch

from spaces.config import GuidanceConfig, PluginRef, SamplingConfig
from trainable.control.generating import Request, controlled, controlled_together, least_risk
from trainable.control.guidance import GradientGuide, JoinedGuide
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.diffusion.process import Samples
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.prediction import Prediction
from trainable.registry import TASKS

VOCAB = ["START", "END", "UNK", "PAD", "a", "b", "c", "d"]
LENGTH = 10


class Face:
    """What the losses ask of a corpus."""

    def encode(self, words):
        return [VOCAB.index(word) for word in words]


def task_of(name):
    return TASKS.build(PluginRef(name=name))


TABLE = torch.randn(len(VOCAB), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rounding(x, t):
    """A denoiser that believes the latent is what it seems: softmax over the squared distances to
    the table's rows."""
    distance = ((x[:, :, None] - TABLE) ** 2).sum(-1)
    return Prediction(x, torch.log_softmax(-distance, -1))


def guide_of(name="length", targets=({"length": 4},), total=10, **settings):
    defaults = {"strength": 0.1, "inner_steps": 1, "fluency": 0.0, "stop": 0.0}
    return GradientGuide(task_of(name), targets, GuidanceConfig(**{**defaults, **settings}), Face(), total)


def latents(batch=1, seed=1):
    return torch.randn(batch, LENGTH, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGETS = {
    "length": [{"length": 4}, {"length": 8}],
    "semantic": [{"field": "x", "value": "a b", "oracle": "words", "phrases": [["a", "b"]]},
                 {"field": "x", "value": "d", "oracle": "words", "phrases": [["d"], ["c", "c"]]}],
}


@pytest.mark.parametrize("name", list(TARGETS))
def test_one_update_by_hand(name):
    """x - strength * sign(d/dx [task loss + fluency |x - mean|^2 / sigma^2]), the gradient by
    central differences."""
    x, mean, sigma, fluency = latents(2), latents(2, seed=2), 0.5, 0.03
    guide = guide_of(name, TARGETS[name], strength=0.07, fluency=fluency)

    def objective(latent):
        pull = ((latent - mean) ** 2).sum() / sigma**2
        return (guide.task.loss(rounding(latent, None), TARGETS[name], Face()).sum() + fluency * pull).item()

    moved = guide(x, 3, mean, sigma, rounding, 0)
    step = (x - moved) / 0.07
    assert step.abs().max().item() == pytest.approx(1.0)
    for index in [(0, 1, 2), (0, 5, 0), (1, 2, 3), (1, 9, 5), (1, 7, 1)]:
        nudge = torch.zeros_like(x)
        nudge[index] = 1e-6
        slope = (objective(x + nudge) - objective(x - nudge)) / 2e-6
        assert step[index].item() == pytest.approx(math.copysign(1.0, slope))


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.parametrize("seed", range(3))
def test_guidance_reaches_its_target(name, seed):
    """With a denoiser that takes the latent at its word, guidance alone must end in sentences
    that succeed."""
    guide, x = guide_of(name, TARGETS[name], total=40), latents(2, seed)
    before = guide.task.loss(rounding(x, None), TARGETS[name], Face())
    for step in range(40):
        x = guide(x, 0, x, 1.0, rounding, step)
    after = guide.task.loss(rounding(x, None), TARGETS[name], Face())
    assert (after < 0.5 * before).all()
    for ids, target in zip(rounding(x, None).log_probs.argmax(-1).tolist(), TARGETS[name], strict=True):
        words = [VOCAB[i] for i in ids[1:ids.index(1, 1) if 1 in ids[1:] else None]]
        assert guide.task.score(words, target)["success"] == 1.0


@pytest.mark.parametrize("settings", [{"inner_steps": 0}, {"strength": 0.0}])
def test_no_guidance_is_the_very_same_latent(settings):
    x = latents()
    assert guide_of(**settings)(x, 3, x, 1.0, rounding, 0) is x


@pytest.mark.parametrize(("total", "stop", "guided"), [
    (200, 0.05, 190), (10, 0.0, 10), (10, 0.01, 9), (10, 1.0, 0), (3, 0.5, 1),
])
def test_the_last_steps_are_left_alone(total, stop, guided):
    x, guide = latents(), guide_of(total=total, stop=stop)
    moved = [guide(x, 0, x, 1.0, rounding, step) is not x for step in range(total)]
    assert moved == [True] * guided + [False] * (total - guided)


def test_fluency_alone_pulls_to_the_mean():
    x, mean = latents(), latents(seed=2)
    guide = guide_of(fluency=1e9, strength=0.01)
    assert torch.equal(guide(x, 0, mean, 2.0, rounding, 0), x - 0.01 * (x - mean).sign())


def test_a_step_without_noise_counts_as_sigma_one():
    x, mean, guide = latents(), latents(seed=2), guide_of(fluency=0.2)
    assert torch.equal(guide(x, 0, mean, 0.0, rounding, 0), guide(x, 0, mean, 1.0, rounding, 0))
    assert torch.equal(guide(x, 0, mean, torch.zeros(1, 1, 1), rounding, 0),
                       guide(x, 0, mean, 0.0, rounding, 0))


def test_inner_steps_are_repeated_updates():
    x, mean = latents(), latents(seed=2)
    once = guide_of(fluency=0.1)
    expected = x
    for _ in range(3):
        expected = once(expected, 0, mean, 1.0, rounding, 0)
    assert torch.equal(guide_of(fluency=0.1, inner_steps=3)(x, 0, mean, 1.0, rounding, 0), expected)


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_sentence_does_not_depend_on_its_neighbors(name):
    x = latents(2)
    together = guide_of(name, TARGETS[name], inner_steps=2)(x, 0, x, 1.0, rounding, 0)
    for b in range(2):
        alone = guide_of(name, TARGETS[name][b:b + 1], inner_steps=2)(x[b:b + 1], 0, x[b:b + 1], 1.0,
                                                                      rounding, 0)
        assert torch.equal(alone[0], together[b])


def test_leaves_input_and_graph_alone():
    x = latents()
    copy = x.clone()
    moved = guide_of(inner_steps=2)(x, 0, x, 1.0, rounding, 0)
    assert torch.equal(x, copy) and not x.requires_grad and not moved.requires_grad


def test_as_many_targets_as_sentences():
    x = latents(3)
    with pytest.raises(ValueError, match="3 latents but 1 targets"):
        guide_of()(x, 0, x, 1.0, rounding, 0)


def test_adagrad_is_torchs_own_and_lives_across_steps():
    """The same updates as torch.optim.Adagrad fed with the same gradients, over inner steps and
    denoising steps."""
    guide = guide_of(optimizer="adagrad", inner_steps=2, strength=0.3)
    x = latents()
    twin = torch.nn.Parameter(x.clone())
    reference = torch.optim.Adagrad([twin], lr=0.3)
    for step in range(3):
        x = guide(x, 0, x, 1.0, rounding, step)
        for _ in range(2):
            reference.zero_grad()
            guide.task.loss(rounding(twin, None), guide.targets, Face()).sum().backward()
            reference.step()
    assert torch.allclose(x, twin.detach(), atol=1e-9) and (x - latents()).abs().max() > 0.3


def test_the_released_form_is_a_new_adagrad_for_every_update():
    guide, x = guide_of(optimizer="sign", strength=0.3), latents()
    twin = torch.nn.Parameter(x.clone())
    for step in range(2):
        x = guide(x, 0, x, 1.0, rounding, step)
        reference = torch.optim.Adagrad([twin], lr=0.3, eps=1e-300)
        guide.task.loss(rounding(twin, None), guide.targets, Face()).sum().backward()
        reference.step()
        twin.grad = None
    assert torch.allclose(x, twin.detach(), atol=1e-6)


@pytest.mark.parametrize(("start", "stop", "guided"),
                         [(0.0, 0.0, range(10)), (0.3, 0.2, range(3, 8)), (0.5, 0.5, ()),
                          (0.01, 0.0, range(1, 10)), (1.0, 0.0, ())])
def test_the_range_of_times_is_chosen(start, stop, guided):
    x, guide = latents(), guide_of(start=start, stop=stop)
    assert [step for step in range(10) if guide(x, 0, x, 1.0, rounding, step) is not x] == list(guided)


# ---- several tasks in one batch ----

def test_each_of_several_tasks_guides_its_own_rows_as_it_would_alone():
    both = [guide_of(name, TARGETS[name], inner_steps=2, fluency=0.02) for name in TARGETS]
    x, mean = latents(4), latents(4, seed=2)
    together = JoinedGuide(both)(x, 0, mean, 0.5, rounding, 0)
    for guide, rows in zip(both, (slice(0, 2), slice(2, 4)), strict=True):
        assert torch.equal(together[rows], guide(x[rows], 0, mean[rows], 0.5, rounding, 0))


def test_tasks_share_batches_where_they_are_led_alike_and_fit():
    sizes = []

    class Counting:
        steps = 10

        def generate(self, n, length, generator, guide):
            sizes.append((n, len(getattr(guide, "guides", [guide]))))
            return Samples(torch.zeros(n, length, dtype=torch.long), torch.arange(n))

    def request(count, **settings):
        task = TASKS.build(PluginRef(name="length", **settings))
        return Request(task, [{"length": 4}] * count, torch.Generator())

    face = type("F", (Face,), {"decode": staticmethod(lambda row: [])})()
    requests = [request(30), request(30, inner_steps=1), request(30), request(5), request(70)]
    found = controlled_together(Counting(), requests, GuidanceConfig(), face, LENGTH)
    assert sorted(sizes) == [(5, 1), (6, 1), (30, 1), (60, 2), (64, 1)]  # 70: more than a batch
    assert [len(each.words) for each in found] == [30, 30, 30, 5, 70]
    assert found[2].passes.tolist() == list(range(30, 60))


def test_a_task_keeps_its_texts_in_a_batch_with_others(process):
    face = type("F", (Face,), {"decode": staticmethod(lambda row: [VOCAB[i] for i in row])})()
    settings = GuidanceConfig(strength=0.02)
    requests = [lambda name=name, seed=seed: Request(task_of(name), TARGETS[name],  # noqa: B023
                                                     torch.Generator().manual_seed(seed))
                for seed, name in enumerate(TARGETS)]
    together = controlled_together(process, [make() for make in requests], settings, face, LENGTH)
    for make, found in zip(requests, together, strict=True):
        task, targets, generator = make()
        alone = controlled(process, task, targets, settings, face, LENGTH, generator)
        assert found.words == alone.words and torch.equal(found.passes, alone.passes)


# ---- minimum Bayes risk ----

def test_least_risk_keeps_the_candidate_that_agrees_most():
    alike = ["the pub is by the river .".split(), "the pub is by the river side .".split()]
    odd = "children are welcome".split()
    assert least_risk([odd, *alike]) in alike and least_risk([odd]) == odd
    assert least_risk([alike[0], alike[0], odd]) == alike[0]


def test_candidates_are_generated_for_each_target_and_one_is_kept(process):
    asked = []

    class Watched:
        steps = process.steps

        def generate(self, n, length, generator, guide):
            asked.extend(target["length"] for target in guide.targets)
            return process.generate(n, length, generator, guide)

    face = type("F", (Face,), {"decode": staticmethod(lambda row: [VOCAB[i] for i in row])})()
    settings = GuidanceConfig(candidates=3, inner_steps=1, strength=0.01)
    found = controlled(Watched(), task_of("length"), [{"length": 4}, {"length": 6}], settings, face, LENGTH,
                       torch.Generator().manual_seed(0))
    assert asked == [4, 4, 4, 6, 6, 6] and len(found.words) == 2
    # three candidates of 12 steps each; behind all steps but the last, one more pass for the gradient
    assert found.passes.tolist() == [3 * (12 + 11)] * 2


# ---- with the real denoiser and sampler ----

@pytest.fixture(scope="module", params=["mse", "ce"])
def process(request):
    shape = DiffusionLMConfig(embedding_dim=8, hidden=16, layers=1, heads=2, ffn=32, time_dim=8, positions=16,
                              dropout=0.0)
    model = DiffusionLM(shape, GaussianConfig(timesteps=50, loss=request.param), VOCAB, seed=0)
    return GaussianSampling(model, Schedule.make("sqrt", 50), SamplingConfig(steps=12))


def sampled(process, guide=None, batch=4):
    """Ids and the posterior that they were read from."""
    return process.sample(batch, LENGTH, torch.Generator().manual_seed(5), guide)


@pytest.mark.parametrize("settings", [{"inner_steps": 0}, {"stop": 1.0}])
def test_zero_guidance_equals_plain_sampling(process, settings):
    guide = guide_of(targets=[{"length": 4}] * 4, total=12, **settings)
    assert torch.equal(sampled(process, guide), sampled(process))


def test_guided_latents_are_nearer_to_the_target_and_the_model_keeps_no_gradient(process):
    """The loss falls at (nearly) every step of the real sampler, seen by the denoiser itself."""
    targets, falls = [{"length": 4}] * 4, []

    class Watching(GradientGuide):
        def __call__(self, x, t, mean, sigma, predict, step):
            moved = super().__call__(x, t, mean, sigma, predict, step)
            loss = [self.task.loss(predict(latent, t), targets, None).sum().item() for latent in (x, moved)]
            falls.append(loss[1] < loss[0])
            return moved

    settings = GuidanceConfig(strength=0.01, inner_steps=1, fluency=0.0, stop=0.0)
    sampled(process, Watching(task_of("length"), targets, settings, Face(), 12))
    assert len(falls) == 11 and sum(falls) >= 10
    assert all(parameter.grad is None for parameter in process.model.parameters())
