"""A sampler that remembers the recent past."""

import pytest
from optuna.samplers import TPESampler

from search.samplers import registry
from search.samplers.recent_tpe import RecentTPE
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.objectives import Objective

SPACE = {"x": Dimension(**{"float": [0.0, 1.0]}), "y": Dimension(**{"float": [0.0, 1.0]})}


def proposals(memory, trials, shift=None):
    searcher = StudySearcher(SPACE, [Objective("loss", "minimize"), Objective("other", "minimize")], seed=1,
                             sampler_options={"memory": memory})
    found = []
    for index in range(trials):
        proposal = searcher.ask()
        x, y = proposal.values["x"], proposal.values["y"]
        found.append(x)
        target = 0.1 if shift is None or index < shift else 0.9
        state = "stopped" if index % 3 == 2 else "complete"
        searcher.tell(proposal.number, state, {"loss": abs(x - target), "other": abs(x - target) + 0.01 * y})
    return found


def test_a_short_search_is_that_of_plain_tpe():
    searcher = StudySearcher(SPACE, [Objective("loss", "minimize"), Objective("other", "minimize")], seed=1)
    assert isinstance(registry.build("tpe"), RecentTPE) and isinstance(registry.build("tpe"), TPESampler)
    assert searcher.options == {} and proposals(30, 28) == proposals(1000, 28)


def test_what_is_long_ago_is_forgotten():
    """The best place moves after 60 trials; a memory of 40 follows it, and one of 1000 clings
    to the old one."""
    short, long = (proposals(memory, 160, shift=60)[-40:] for memory in (20, 1000))
    assert sum(abs(x - 0.9) < 0.2 for x in short) > sum(abs(x - 0.9) < 0.2 for x in long)


def test_too_short_a_memory_is_refused():
    with pytest.raises(UserError,
                       match="sampler 'tpe': option 'memory' should be greater than or equal to 20, not 5"):
        registry.build("tpe", {"memory": 5})
