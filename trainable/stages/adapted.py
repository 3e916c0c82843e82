"""A trial's model as it is before anything trains: the base with quantizers and adapter in place."""

from __future__ import annotations

import torch

from spaces.config import SITES, TrialConfig
from spaces.errors import UserError
from trainable.adapters.intervals import AdaptedByInterval, by_interval
from trainable.artifacts.artifact import Loaded
from trainable.artifacts.assembling import blank_model
from trainable.models.backbone import Backbone
from trainable.models.lora import add_lora, count_parameters, set_trainable
from trainable.quantization.sites import apply, frozen_weights
from trainable.seeds import stream_seed


def adapted_model(config: TrialConfig, base: Loaded, take: bool = False) -> tuple[Backbone, dict]:
    """The base with this trial's quantizers and adapter in place, and what was counted on the way. A base
    in another dtype stays in it where nothing acts on its weights; whatever trains or rounds them does so in
    float32 (calibration in a model of its own), and what is left as floats is stored in the base's dtype.
    `take`: the base is not used again, and its tensors need no copies."""
    if any(isinstance(module, AdaptedByInterval) for module in base.model.modules()):
        raise UserError(f"{base.path}: its adapters differ between intervals of the noise level, so it is no "
                        "base of another trial; legal: an artifact of lora.intervals: 1")
    model, state = blank_model(config, base.lexicon), base.model.state_dict()
    acts = (config.adapt.train or config.quantization.body.name != "float32"
            or config.quantization.embedding_rms is not None
            or any(config.quantization.at(site).name != "none" for site in SITES))
    rounds, floats = config.calibration.active, config.calibration.activation_bits == 16
    if (acts or rounds) and config.quantization.body.name == "float32" and floats:
        model.stored = next(iter(state.values())).dtype
    wide = acts or rounds and not floats  # what rounds its inputs is stored in float32
    shares = take or rounds and not wide  # nothing writes to the weights
    model.load_state_dict({name: value.to(torch.float32 if wide else value.dtype, copy=not shares)
                           for name, value in state.items()}, assign=True)
    model.requires_grad_(True).start_trial(config)
    reports = apply(model, config.quantization)
    with torch.no_grad(), frozen_weights(model):  # peft asks each layer for its weight again and again
        add_lora(model, config.lora, stream_seed("lora", config.seed) % 2**31)
    by_interval(model, config.lora)
    set_trainable(model, config.adapt)
    if not config.adapt.train:
        model.requires_grad_(False)
    trainable, total = count_parameters(model)
    facts = {"trainable_params": trainable, "total_params": total}
    if "embedding" in reports:
        facts["embedding_collapsed_rows"] = reports["embedding"].collapsed_rows
    return model, facts
