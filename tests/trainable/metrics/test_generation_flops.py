"""`generation_flops` against a count by hand."""

from types import SimpleNamespace

import torch

from spaces.config import CorpusConfig, SamplingConfig, TrialConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.metrics.generation_flops import GenerationFlops
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM

LENGTH, VOCAB, HIDDEN, LATENT = 12, 20, 8, 4


def flops(model, steps):
    config = TrialConfig(corpus=CorpusConfig(max_length=LENGTH), model=model.params,
                         diffusion=model.diffusion, sampling=SamplingConfig(steps=steps))
    process = GaussianSampling(model, Schedule.make("sqrt", 20), config.sampling)
    measurable = SimpleNamespace(config=config, sampling=process, device=torch.device("cpu"))
    return GenerationFlops(GenerationFlops.Params()).measure(measurable)["generation_flops"]


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
