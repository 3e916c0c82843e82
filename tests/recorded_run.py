"""The folder of a run as the real engine, searcher and scheduler leave it; what its trials
measure is made up."""

from pathlib import Path

from search.engine.engine import Engine
from search.records.run_folder import RunFolder
from search.run.simulator import VirtualClock, simulate
from search.run.validation import problem
from search.schedulers.registry import build
from search.study.opening import open_search
from spaces.schema import Space

SPACE = {
    "name": "recorded", "objectives": {"perplexity": "minimize", "controllability": "maximize"},
    "search": {"adapt.optim.lr": {"log": [1e-4, 1e-1]}, "lora.rank": {"int": [0, 8]}},
    "rungs": [5, 10], "sampler": {"name": "ehvi", "startup": 3, "candidates": 40}, "budget": {"trials": 12},
    "box": {"perplexity": [1, 40], "controllability": [1, 0]}, "finish": {"repeats": 0}, "seed": 4}


def record(folder: Path) -> Path:
    """Twelve trials of two rungs, three at once."""
    space = Space.from_dict(SPACE)

    def rungs(live):
        rank = live.values["lora.rank"]
        for rung, steps in enumerate(space.rungs):
            yield 1.0, {"rung": rung, "steps": steps, "final": rung == 1, "perplexity": 5.0 + (rank - 5) ** 2
                        + 10 / steps, "controllability": min(1.0, 0.5 + 0.1 * rank)}

    with RunFolder.create(folder, space.name, space.to_yaml()) as run:
        clock = VirtualClock()
        study, _, scheduler_problem = open_search(space, run, problem(space))
        simulate(Engine(space, study, build("halving", scheduler_problem), run, clock=clock, groups=3),
                 clock, rungs, 3)
    return run.path
