"""A model whose layers come from several, site by site, in every backbone."""

from copy import deepcopy

import pytest
import torch
from masked_models import tiny

from trainable.adapters.supernet import Member
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.models.checkpointing import checkpoint_blocks
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.stages.supernet_model import Mixed, mixed_places, site_of


def gaussian():
    shape = DiffusionLMConfig(embedding_dim=4, hidden=16, layers=2, heads=2, ffn=8, time_dim=4, positions=12,
                              dropout=0.0)
    return DiffusionLM(shape, GaussianConfig(timesteps=20), ["START", "END", "UNK", "PAD", "a", "b"])


MODELS = {"diffusion_lm": (gaussian, torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0))),
          "masked_lm": (lambda: tiny(layers=2, dropout=0.0), torch.arange(36).view(3, 12) % 21)}  # 20: MASK


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_it_computes_as_a_model_that_holds_those_weights(name, checkpointed):
    make, state = MODELS[name]
    models = {2: make().eval()}
    models[4] = deepcopy(models[2])
    places, noise = mixed_places(models[2]), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in models[4].body.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=noise))
        for (key, value), other in zip(models[4].named_parameters(), models[2].parameters(), strict=True):
            if site_of(key, places) is None:  # what they have in common
                value.copy_(other)
    mixed = Mixed(models)
    if checkpointed:
        assert len(checkpoint_blocks(mixed.model)) == 2
        mixed.model.train()
    said = {}
    for bits, ffn in ((2, 2), (2, 4), (4, 2), (4, 4)):
        expected = deepcopy(models[bits])
        expected.load_state_dict({key: value for key, value in models[ffn].state_dict().items()
                                  if site_of(key, places) == "ffn"}, strict=False)
        mixed.take(Member(0, bits, (("ffn", ffn),)), 1.0)
        said[bits, ffn], wanted = (model.predict(state, torch.full((3,), 5)).log_probs
                                   for model in (mixed.model, expected.train(checkpointed)))
        assert torch.equal(said[bits, ffn], wanted)
        assert {key for key, _ in mixed.model.named_parameters()} == set(dict(expected.named_parameters()))
    assert not torch.equal(said[2, 4], said[2, 2]) and not torch.equal(said[2, 4], said[4, 4])
    assert places and all(models[2].get_submodule(key) is not models[4].get_submodule(key) for key in places)
