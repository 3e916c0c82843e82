"""Two models with weights at every site: a whole BertModel in the denoiser's place, and the
denoiser itself."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import BertConfig, BertModel

from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM

V, D, H = 40, 8, 32


class Small(nn.Module):
    """The attributes that sites are found by, around a whole BertModel."""
    sites = DiffusionLM.sites

    def __init__(self):
        super().__init__()
        self.word_embedding = nn.Embedding(V, D)
        self.up = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, H))
        self.time = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, H))
        self.down = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, D))
        self.body = BertModel(BertConfig(hidden_size=H, num_hidden_layers=2, num_attention_heads=2,
                                         intermediate_size=64,
            vocab_size=5, hidden_dropout_prob=0, attention_probs_dropout_prob=0), add_pooling_layer=False)

    def forward(self, ids, t):
        hidden = self.up(self.word_embedding(ids)) + self.time(t)[:, None]
        latent = self.down(self.body(inputs_embeds=hidden).last_hidden_state)
        return latent @ self.word_embedding.weight.t()  # tied rounding head


class Encoder(DiffusionLM):
    """The real denoiser, called as `Small` is."""

    def __init__(self):
        shape = DiffusionLMConfig(embedding_dim=D, hidden=H, layers=2, heads=2, ffn=64, time_dim=4, dropout=0)
        super().__init__(shape, GaussianConfig(), [f"w{i}" for i in range(V)])

    def forward(self, ids, t):
        return self.logits(super().forward(self.embed(ids), t[:, 0]))


def lora(model, how):
    settings = LoraConfig(r=2, target_modules=["query", "value", "output.dense"], init_lora_weights=False)
    if how == "inject":
        inject_adapter_in_model(settings, model.body)
    elif how == "wrap":
        model.body = get_peft_model(model.body, settings)
    return model
