"""The page in an exported folder that says how other programs use it."""

from __future__ import annotations

from typing import Any

from trainable.artifacts.artifact import Loaded

REST, SETTINGS, BASE, ADAPTER = "diffusion.safetensors", "qdlm.json", "base", "adapter"
ADAPTED = f"""
The adapter stands apart from the quantized weights:
`PeftModel.from_pretrained(AUTO.from_pretrained("EXPORT/{BASE}"), "EXPORT/{ADAPTER}")` is the same model as
EXPORT itself, in which it is merged. It fits this base and no other.
"""
"""AUTO stands for the class that loads the folder."""
_ENDS = ("ForMaskedLM", "ForCausalLM")


def page(loaded: Loaded, made: Any, more: str) -> str:
    """Markdown for the folder of `made`, a model of transformers; `more` stands near its end."""
    name = type(made).__name__
    auto = next((f"AutoModel{end}" for end in _ENDS if name.endswith(end)), "AutoModel")
    what, gives, field = (("The body of a", "states", "last_hidden_state") if auto == "AutoModel"
                          else ("A", "logits", "logits"))
    return f"""# {loaded.path.name}

{what} diffusion language model (`qdlm export`): `{name}`. It attends to both sides; no remote code is needed.

```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("EXPORT")
model = {auto}.from_pretrained("EXPORT").eval()
{gives} = model(**tokenizer("a place to eat", return_tensors="pt")).{field}
```

{_meaning(loaded, auto)}
{more.replace("AUTO", auto)}
The whole model runs with `qdlm generate ARTIFACT`; settings: `{SETTINGS}`.
"""


def _meaning(loaded: Loaded, auto: str) -> str:
    """What the outputs are."""
    if loaded.config.diffusion.name != "masked":
        return ("The states are those of clean words at time 0. For noisy latents x_t give `inputs_embeds = "
                "up(x_t) + time(sinusoids(t))`; `down` of the states is what the model predicts; all three "
                f"are in `{REST}`.")
    shifted = getattr(loaded.model, "shift", False)
    left = "; the logits of a position come from the state one to its left" if shifted else ""
    if auto != "AutoModel":
        return (f"`[MASK]` stands for a hidden word{left}. What they say of `[MASK]` itself, and of tokens "
                f"that were not in the model's vocabulary, is no answer (`no_answers` in `{SETTINGS}`). "
                "`generate` of transformers writes from left to right, which is not what the model learned.")
    return (f"`[MASK]` stands for a hidden word{left}. The logits are `states @ table[:words].T + bias`, "
            f"table being the input embeddings and `bias` of `{REST}`, behind `transform` where it has one.")
