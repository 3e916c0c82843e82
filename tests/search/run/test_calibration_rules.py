"""What goes with post-training quantization, at every combination that a space reaches: one line where it
does not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from search.run.calibration_rules import most_texts
from search.run.first_points import unquantized_point
from search.run.validation import check
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space

SPACE = """
objectives: {{kl_to_base: minimize}}
budget: {{trials: 2}}
trial: {{adapt: {{train: false}}, evaluation: {{control_tasks: []}}{fixed}}}
search: {{sampling.steps: {{choice: [10, 20]}}{searched}}}
"""


def space(fixed: str = "", searched: str = "") -> Space:
    return Space.from_yaml(
        SPACE.format(fixed=fixed and f", {fixed}", searched=searched and f", {searched}"), "a.yaml"
    )


@pytest.mark.parametrize(
    ("fixed", "searched", "message"),
    [
        (
            "calibration: {method: gptq}, quantization: {quantizer: 'uniform:4', sites: [ffn]}",
            "",
            r"calibration \(gptq\) and quantizer uniform would both round site ffn",
        ),
        (
            "quantization: {body: int8_dynamic}",
            "calibration.method.name: {choice: [none, rtn]}",
            r"reaches calibration.method.name=rtn: calibration \(rtn\) and quantization.body int8_dynamic",
        ),
        (
            "calibration: {activation_bits: 8}, quantization: {per_site: {attention: 'uniform:4'}}",
            "",
            r"calibration \(activation_bits 8\) and quantizer uniform would both round site attention",
        ),
        ("lora: {rank: 4}", "", "lora.rank=4 needs training, and adapt.train is false"),
        ("calibration: {method: gptq, transforms: [rotation, awq]}", "", "put rotation behind it"),
        ("calibration: {method: awq, transforms: [rotation]}", "", "awq needs statistics of channels"),
        (
            "calibration: {method: rtn, transforms: [gptq]}",
            "",
            "gptq transforms nothing; legal: awq, smoothquant, rotation",
        ),
        ("calibration: {method: gtpq}", "", "unknown post-training method 'gtpq' .did you mean 'gptq'"),
        ("calibration: {method: 'gptq:9'}", "", "parameter 'bits': Input should be less than or equal to 8"),
        ("calibration: {method: quant_dllm, bits: {ffn: 8}}", "", r"calibration.bits.ffn=8: .* 'quant_dllm', "
         "parameter 'bits': Input should be less than or equal to 4"),
        ("calibration: {method: {name: rtn, group: 24}}, model: {hidden: 64, heads: 4, ffn: 128}", "",
         r"calibration.method: group 24 does not divide a weight of 64 inputs; legal: 0"),
        ("calibration: {token_weight: cgq}", "", "unknown token weight 'cgq'"),
        (
            "calibration: {method: rtn, source: masked}",
            "",
            "'clean', 'corrupted', 'rollout' or 'rollout_quota', not masked",
        ),
        ("", "calibration.activation_bits: {choice: [16, 6]}", "activation_bits.choice"),
        (
            "calibration: {corrections: [{name: ia_aq, scales: token}]}",
            "",
            "a scale per token leaves nothing for attention to weigh; legal: scales: feature",
        ),
        ("calibration: {corrections: [tca]}", "", "unknown correction 'tca' .did you mean 'tac'"),
        ("calibration: {corrections: ['ia_aq:3']}", "", "parameter 'bits': Input should be 4 or 8"),
        (
            "calibration: {method: gptq, intervals: 4}",
            "",
            "calibration.intervals: 4 and nothing that differs between them",
        ),
        (
            "calibration: {method: gptq, activation_bits: 8}",
            "calibration.corrections: {choice: [[], [tac, state_clip]]}, "
            "calibration.activation_range: {choice: [dynamic, static]}",
            "state_clip cuts a range of each token; legal with activation_range: dynamic",
        ),
        (
            "calibration: {method: gptq, transforms: [{name: rotation, blocks: false}]}, "
            "model: {hidden: 184, heads: 4}",
            "",
            "rotation of 184 channels: no Hadamard matrix .* legal: blocks: true",
        ),
        (
            "calibration: {method: rtn, transforms: [rotation]}, model: {hidden: 64, heads: 4}",
            "model.ffn: {choice: [128, 130]}",
            "reaches model.ffn=130: calibration: rotation of 130 channels",
        ),
        (
            "model: {hidden: 64, heads: 4}, calibration: {method: gptq, corrections: "
            "[{name: tac, block: 24}]}",
            "",
            "tac in blocks of 24, which do not divide model.hidden=64",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(fixed, searched, message):
    with pytest.raises(UserError, match=message) as error:
        check(space(fixed, searched))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fixed",
    [
        "calibration: {method: gptq, sites: [ffn]}, quantization: {quantizer: nf4, sites: [embedding]}",
        "calibration: {method: none}, quantization: {body: int8_dynamic}",
        "calibration: {method: 'gptq:3', transforms: [awq, rotation], activation_bits: 4}",
        "calibration: {method: 'gptq:3', activation_bits: 4, intervals: 4, token_weight: rsq, corrections: "
        "[tac, 'ia_aq:8', 'softmax_bias:8', state_clip, interval_scales]}",
        "calibration: {method: rtn, activation_bits: 8, activation_range: static}",
    ],
)
def test_what_goes_together_is_let_through(fixed):
    check(space(fixed))


def test_a_trial_by_hand_keeps_to_the_same_rules():
    with pytest.raises(ValidationError, match="would both round site ffn"):
        TrialConfig(calibration={"method": "rtn"}, quantization={"quantizer": "uniform:4", "sites": ["ffn"]})


def test_the_arm_that_others_are_compared_with_rounds_nothing():
    searched = (
        "calibration.method: {choice: [none, 'gptq:3']}, calibration.activation_bits: {choice: [4, 16]}"
    )
    assert unquantized_point(space("", searched)) == {
        "calibration.method": "none",
        "calibration.activation_bits": 16,
    }
    fixed = "calibration: {activation_bits: 8}"
    assert unquantized_point(space(fixed, "calibration.method: {choice: [none, 'gptq:3']}")) is None


@pytest.mark.parametrize(("fixed", "searched", "texts"), [
    ("calibration: {texts: 7}", "", 7),
    ("calibration: {method: gptq}", "calibration.texts: {choice: [4, 900, 8]}", 900),
    ("calibration: {method: gptq}", "calibration.texts: {int: [4, 800]}, "
     "calibration.source: {choice: [rollout, clean]}", 800),
    ("", "calibration.method.name: {choice: [none, gptq]}, "
     "calibration.texts: {choice: [5, 90], when: {calibration.method.name: [gptq]}}", 90),
    ("calibration: {method: gptq, source: rollout}", "calibration.texts: {choice: [4, 900]}", 4),
])
def test_a_corpus_is_asked_for_the_most_texts_of_any_trial(fixed, searched, texts):
    found = most_texts(space(fixed, searched))
    assert found.calibration.texts == texts
    assert found.calibration.active == ("method" in fixed + searched)
