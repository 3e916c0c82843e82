"""A supernet's members as the lowest rung: the surrogate learns by how much, and where, they differ from
trials of their own, and predicts those of points that never trained by themselves."""

import numpy as np
import pytest

from search.samplers.acquisition import AcquisitionProblem, Surrogate
from search.samplers.encoding import PointEncoder
from spaces.dimensions import Dimension
from spaces.objectives import Objective

WIDTHS = [{"name": "uniform", "bits": bits} for bits in (2, 3, 4, 5, 6)]
SPACE = {"quantization.quantizer": Dimension(choice=WIDTHS), "lora.rank": Dimension(choice=[1, 2, 4, 8, 16])}
OBJECTIVES = [Objective("nll_bound", "minimize"), Objective("size_bytes", "minimize")]
BOX = {"nll_bound": [1.4, 2.4], "size_bytes": [1e5, 4e5]}
TOP, MIDDLE, LOW = 300, 100, 30


def own(bits, rank):
    """What a trial of its own measures at its last rung."""
    return {"nll_bound": 1.45 + 1.2 * 2.0 ** -(bits - 1) * (1 - 0.12 * np.log2(rank)),
            "size_bytes": 1e5 + 12e3 * bits + 9e3 * rank}


def member(bits, rank):
    """A supernet's: behind, at few bits and large ranks most."""
    return {**own(bits, rank), "nll_bound": own(bits, rank)["nll_bound"] + 0.06 + 0.3 * 2.0 ** -(bits - 1)
            + 0.02 * np.log2(rank)}


def surrogate(rungs_below, trained, rng):
    """Every point measured at the lowest rung; `trained` of them by themselves as well."""
    points = [(width, rank) for width in WIDTHS for rank in (1, 2, 4, 8, 16)]
    order = [points[at] for at in rng.permutation(len(points))]
    curves = []
    for place, (width, rank) in enumerate(order):
        rungs = [(steps, measure(width["bits"], rank)) for steps, measure in rungs_below[:1]]
        if place < trained:
            rungs = [(steps, measure(width["bits"], rank)) for steps, measure in (*rungs_below, (TOP, own))]
        curves.append([(float(np.log(TOP / steps)),
                        {**found, "nll_bound": found["nll_bound"] + 0.003 * rng.standard_normal()})
                       for steps, found in rungs])
    encoder = PointEncoder(SPACE)
    rows = encoder.rows([{"quantization.quantizer": width, "lora.rank": rank} for width, rank in order])
    problem = AcquisitionProblem(encoder, OBJECTIVES, corners=BOX, top=TOP)
    complete = [place < trained for place in range(len(order))]
    return Surrogate(problem, rows, curves, complete), encoder.features(rows), order


@pytest.mark.parametrize("rungs_below", [[(LOW, member)], [(LOW, member), (MIDDLE, own)]],
                         ids=["two rungs", "three rungs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_members_bias_is_learned_and_taken_off_where_nothing_trained_by_itself(rungs_below, seed):
    trained = 10
    found, features, order = surrogate(rungs_below, trained, np.random.default_rng(seed))
    expected, _ = found.predicted(features)
    low, high = BOX["nll_bound"]
    predicted = low + expected[0].middle * (high - low)
    left = slice(trained, None)
    truth, raw = (np.array([measure(width["bits"], rank)["nll_bound"] for width, rank in order])
                  for measure in (own, member))
    wrong, behind = predicted - truth, raw - truth
    assert np.abs(behind[left]).mean() > 0.1
    assert np.abs(wrong[left]).mean() < 0.25 * np.abs(behind[left]).mean()
    assert np.corrcoef(predicted[left], truth[left])[0, 1] > 0.97
