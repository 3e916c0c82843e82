"""Points to try first by an integer program over what parts lose, against every assignment there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.run.allocation import SLACK, allocated_points, check_budgets, example, searched_bits
from search.run.validation import check
from spaces.errors import UserError
from spaces.schema import Space

FIXED, GPTQ = 1000, "method: gptq"
SPACE = """
objectives: {{kl_to_base: minimize, size_bytes: minimize}}
budget: {{trials: 2}}
start_budgets: {count}
constraints: [{bound}]
trial:
  adapt: {{train: false}}
  model: {{layers: 2}}
  evaluation: {{control_tasks: []}}
  calibration: {{{fixed}}}
search:
  sampling.steps: {{choice: [10, 20]}}
{searched}
"""
BITS = {"attention": [2, 3, 4], "ffn_0": [2, 4], "ffn_1": [3, 8]}


def space(count=3, bound="", searched=None, fixed=GPTQ):
    lines = [f"  calibration.bits.{part}: {{choice: {bits}}}" for part, bits in BITS.items()]
    return Space.from_yaml(SPACE.format(count=count, bound=bound, fixed=fixed, searched="\n".join(
        lines if searched is None else searched)), "a.yaml")


def table(seed):
    noise = np.random.default_rng(seed)
    costs = [{"site": part, "choice": str(bits), "bytes": 100 * bits + int(noise.integers(40)),
              "kl": float(noise.uniform(0.5, 2) * 4.0**-bits)}
             for part, each in BITS.items() for bits in each]
    return {"costs": costs, "fixed_bytes": FIXED}


def every(measured):
    """(bytes, KL, bits of each part) of all assignments."""
    cells = {(cost["site"], int(cost["choice"])): cost for cost in measured["costs"]}
    for bits in itertools.product(*BITS.values()):
        chosen = [cells[pair] for pair in zip(BITS, bits, strict=True)]
        size, loss = (sum(cost[key] for cost in chosen) for key in ("bytes", "kl"))
        yield size, loss, dict(zip(BITS, bits, strict=True))


def bits_of(point):
    return {path.removeprefix("calibration.bits."): bits for path, bits in point.items()}


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.05, 1.2))
@settings(max_examples=15, deadline=None)
def test_the_points_lose_least_of_all_assignments_of_their_size(seed, count, share):
    measured = table(seed)
    all_of_them = list(every(measured))
    least, most = min(all_of_them, key=lambda one: one[0])[0], max(all_of_them, key=lambda one: one[0])[0]
    room = int(least + share * (most - least))
    found = allocated_points(space(count, f"size_bytes <= {room + FIXED + SLACK}"), measured)
    assert 1 <= len(found) <= count
    sizes = []
    for point in found:
        size, loss, _ = next(one for one in all_of_them if one[2] == bits_of(point))
        sizes.append(size)
        assert size <= room
        assert loss <= min(kl for other, kl, _ in all_of_them if other <= size) + 1e-12
    best = min(kl for other, kl, _ in all_of_them if other <= room)
    assert loss == pytest.approx(best, rel=1e-9)  # the last one uses the whole bound
    assert sizes == sorted(sizes)


def test_without_a_bound_the_last_point_has_the_most_bits():
    found = allocated_points(space(2), table(0))
    assert [bits_of(point) for point in found] == [{"attention": 2, "ffn_0": 2, "ffn_1": 3},
                                                   {"attention": 4, "ffn_0": 4, "ffn_1": 8}]


def test_a_bound_that_no_assignment_meets_is_one_line():
    with pytest.raises(UserError, match=r"no assignment of the searched bits meets size_bytes <= 1300: the "
                                        r"smallest takes 2,\d\d\d bytes, 1,256 of them beside") as caught:
        allocated_points(space(3, "size_bytes <= 1300"), table(1))
    assert "\n" not in str(caught.value)


def test_points_say_what_the_bits_are_searched_under():
    given = space(1, fixed="texts: 8", searched=[
        "  calibration.method.name: {choice: [hqq, rtn, gptq]}",
        "  calibration.bits.ffn: {choice: [2, 4], when: {calibration.method.name: [gptq, rtn]}}"])
    check(given)
    assert searched_bits(given) == {"ffn": [2, 4]} and example(given).calibration.method.name == "gptq"
    costs = [{"site": "ffn", "choice": str(bits), "bytes": bits, "kl": 1.0 / bits} for bits in (2, 4)]
    found, = allocated_points(given, {"costs": costs, "fixed_bytes": 0})
    assert found == {"calibration.method.name": "gptq", "calibration.bits.ffn": 4}
    assert given.config({**found, "sampling.steps": 10}).calibration.bits == {"ffn": 4}


def test_points_are_calibrated_as_the_parts_were_and_leave_the_rest_to_the_sampler():
    given = space(2, fixed="texts: 8", searched=[
        "  calibration.method.name: {choice: [gptq, quant_dllm]}",
        "  calibration.bits.ffn: {choice: [2, 4], when: {calibration.method.name: [gptq]}}",
        "  calibration.bits.attention: {choice: [3], when: {calibration.method.name: [gptq]}}",
        "  calibration.source: {choice: [corrupted, rollout]}",
        "  calibration.activation_bits: {choice: [8, 4]}"])
    check(given)
    costs = [{"site": part, "choice": str(bits), "bytes": bits, "kl": 1.0 / bits}
             for part, bits in (("ffn", 2), ("ffn", 4), ("attention", 3))]
    found = allocated_points(given, {"costs": costs, "fixed_bytes": 0})
    assert [bits_of(point)["ffn"] for point in found] == [2, 4]
    settings = example(given).calibration
    for point in found:
        assert point.keys() == given.dimensions.keys() - {"sampling.steps"}
        own = given.config({**point, "sampling.steps": 20}).calibration
        assert own.model_copy(update={"bits": settings.bits}) == settings


@pytest.mark.parametrize(("searched", "fixed", "message"), [
    ([], GPTQ, "start_budgets: assigns bits, and no calibration.bits.PART is searched"),
    (["  calibration.bits.ffn: {choice: [4]}", "  base.seed: {choice: [0, 1]}"], GPTQ,
     "start_budgets: measures one base, and base.seed gives each of its values one of its own"),
    (["  calibration.bits.ffn: {choice: [1, 4]}"], GPTQ, "bits.*greater than or equal to 2"),
    (["  calibration.bits.ffn: {choice: [9]}"], GPTQ, "less than or equal to 8"),
    (["  calibration.bits.head: {choice: [4]}"], GPTQ, "'head' is not legal here; legal: names like"),
    (["  calibration.bits.ffn_2: {choice: [4]}"], GPTQ, "ffn_2: the model has blocks 0 to 1"),
    (["  calibration.bits.ffn: {choice: [4]}"], f"{GPTQ}, sites: [attention]",
     "ffn is not rounded; calibration.sites: attention"),
])
def test_what_cannot_be_assigned_is_one_line(searched, fixed, message):
    with pytest.raises(UserError, match=message) as caught:
        check(space(3, searched=searched, fixed=fixed))
    assert "\n" not in str(caught.value)


def test_no_budgets_need_no_bits():
    check_budgets(space(0, searched=[]))
