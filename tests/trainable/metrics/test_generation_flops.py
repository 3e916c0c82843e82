"""`nfe` and `generation_flops`, which stands in for latency below the top rung, against counts by hand."""

from types import SimpleNamespace

import pytest
import torch
from masked_models import drawing, tiny

from search.run.validation import problem
from search.schedulers.successive_halving import SuccessiveHalving
from spaces.config import SamplingConfig, TrialConfig
from spaces.schema import Space
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.metrics.generation_flops import GenerationFlops
from trainable.metrics.nfe import NFE
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.stages.evaluation import Measurement

LENGTH, VOCAB, HIDDEN, LATENT = 12, 20, 8, 4


def flops(model, steps):
    return measured(GaussianSampling(model, Schedule.make("sqrt", 20), SamplingConfig(steps=steps)))[
        "generation_flops"]


def measured(sampling, passes=None):
    """What both metrics say of texts that took `passes`; where none were drawn, of those counted."""
    traced = sampling.traced(LENGTH)
    m = SimpleNamespace(traced=lambda: traced,
                        passes=lambda: traced.passes if passes is None else torch.tensor(passes))
    return (NFE(NFE.Params()).measure(m)
            | GenerationFlops(GenerationFlops.Params()).measure(m))


def test_flops_are_the_steps_times_the_products_of_one_forward_pass():
    """The oracle: 2 x rows x inputs x outputs of each linear layer (by hooks), two products with the word
    table (logits, expected row), and two in attention (queries with keys, weights with values)."""
    shape = DiffusionLMConfig(embedding_dim=LATENT, hidden=HIDDEN, layers=1, heads=2, ffn=8, time_dim=4,
                              positions=LENGTH)
    words = ["START", "END", "UNK", "PAD", *map(str, range(VOCAB - 4))]
    model, linear = DiffusionLM(shape, GaussianConfig(timesteps=20), words, seed=0), []

    def hook(layer, inputs, output):
        linear.append(2 * output.numel() * layer.in_features)

    handles = [layer.register_forward_hook(hook)
               for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        model.predict(torch.zeros(1, LENGTH, LATENT), torch.tensor([19]))
    for handle in handles:
        handle.remove()
    forward = sum(linear) + 2 * 2 * LENGTH * VOCAB * LATENT + 2 * 2 * LENGTH * LENGTH * HIDDEN
    assert flops(model, 4) == 4 * forward and flops(model, 8) == 8 * forward


def test_nfe_is_the_mean_over_texts_with_its_error_and_tail():
    found = measured(drawing(tiny(), steps=6), passes=[2, 4, 4, 6])
    assert found["nfe"] == 4 and found["nfe_p95"] == pytest.approx(5.7)
    assert found["nfe_se"] == pytest.approx((8 / 3) ** 0.5 / 2)
    alone = measured(drawing(tiny(), steps=6), passes=[3])
    assert (alone["nfe"], alone["nfe_se"], alone["nfe_p95"]) == (3, 0, 3)


def test_operations_are_those_of_the_passes_that_texts_took_and_not_of_the_steps_allowed():
    sampling = drawing(tiny(), "entropy_bound", steps=12, bound=0.5)
    one, three = (measured(sampling, passes=[n]) for n in (1, 3))
    assert three["generation_flops"] == pytest.approx(3 * one["generation_flops"])
    traced = sampling.traced(LENGTH)
    assert (measured(sampling, passes=traced.passes.tolist())["generation_flops"]
            == pytest.approx(traced.flops))


def test_the_scheduler_keeps_the_sampler_of_few_passes_before_latency_is_measured():
    """As many steps are allowed in all trials: only the passes that texts took tell them apart."""
    space = Space.from_yaml("""
objectives: {perplexity: minimize, latency_ms: minimize}
budget: {trials: 9}
rungs: [2, 4]
trial: {model: {name: masked_lm}, diffusion: {name: masked}, evaluation: {control_tasks: []}}
search: {sampling.sampler.name: {choice: [quota, entropy_bound]}}
""", "a.yaml")
    model = tiny()
    dear, cheap = (measured(drawing(model, name, steps=12, **params), None)
                   for name, params in (("quota", {}), ("entropy_bound", {"bound": 20.0})))
    assert cheap["nfe"] < dear["nfe"] / 2 and cheap["generation_flops"] < dear["generation_flops"] / 2
    scheduler = SuccessiveHalving(problem(space), eta=3)
    for trial in range(6):
        scheduler.report(trial, 0, {"perplexity": 10.0 + trial, **dear})
    assert scheduler.report(6, 0, {"perplexity": 40.0, **cheap}) == "continue"
    assert scheduler.report(7, 0, {"perplexity": 40.0, **dear}) == "stop"


def test_passes_are_those_of_the_texts_that_metrics_read_and_of_counted_ones_where_none_does():
    config = TrialConfig.model_validate({
        "corpus": {"max_length": LENGTH}, "model": {"name": "masked_lm"}, "diffusion": {"name": "masked"},
        "sampling": {"sampler": "entropy_bound", "steps": 8},
        "evaluation": {"samples": 70, "control_tasks": []}})
    law = drawing(tiny(), "entropy_bound", steps=8)
    corpus = SimpleNamespace(decode=lambda row: [str(word) for word in row])
    process = SimpleNamespace(sampling=lambda model, sampling: law)
    m = Measurement(config=config, model=law.model, process=process, corpus=corpus, teacher=None, facts={},
                    device=torch.device("cpu"))
    assert torch.equal(m.passes(), law.traced(LENGTH).passes) and m.traced() is m.traced()
    assert len(m.samples()) == 70 == len(m.passes())
    expected = law.generate(64, LENGTH, m.generator("samples")).passes
    assert torch.equal(m.passes()[:64], expected)
