"""Spaces of adapters by interval of the noise level: one line for what cannot be, before anything runs."""

import pytest

from search.run.adapter_rules import check_intervals
from search.run.validation import check
from spaces.errors import UserError
from spaces.schema import Space

SPACE = """
objectives: {{nll_bound: minimize}}
sampler: grid
budget: {{trials: 4}}
trial:
  model: {{name: {model}}}
  diffusion: {{name: {process}}}
  evaluation: {{control_tasks: []}}
search:
  lora.intervals: {{choice: [1, 2]}}
  lora.rank: {{choice: [{ranks}]}}
{more}
"""


def space(more="", model="masked_lm", process="masked", ranks="0, 2"):
    return Space.from_yaml(SPACE.format(more=more, model=model, process=process, ranks=ranks), "a.yaml")


@pytest.mark.parametrize("changes", [
    {}, {"model": "diffusion_lm", "process": "gaussian"},
    {"ranks": "0", "more": "  lora.variant: {choice: [dora]}"},
    {"more": "  lora.start: {choice: [zero, loftq]}"}])
def test_what_can_be_is_legal(changes):
    check(space(**changes))


@pytest.mark.parametrize(("changes", "message"), [
    ({"more": "  lora.variant: {choice: [lora, dora]}"}, "lora.variant: dora reads one weight for all noise"),
    ({"more": "  lora.start.name: {choice: [zero, apiq]}"}, "lora.start: apiq reads one weight"),
    ({"more": "  quantization.body: {choice: [float32, int8_dynamic]}"},
     "quantization.body rounds merged weights after training, and these adapters are never merged"),
    ({"more": "  calibration.activation_bits: {choice: [16, 8]}"}, "calibration rounds merged weights"),
    ({"model": "diffusion_gemma", "process": "canvas"}, "model diffusion_gemma tells no layer how noisy"),
])
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        (check_intervals if "model" in changes else check)(space(**changes))
    assert "\n" not in str(error.value) and "lora.intervals" in str(error.value)
