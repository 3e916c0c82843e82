"""The corpus that is made while a cluster starts: real processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from search.run.ahead import NOTHING, corpus_ahead
from spaces.errors import UserError
from spaces.schema import Space
from trainable.stages.prepare import corpus_key, prepare_corpus
from trainable.storage.folders import verified

SPACE = """
trial: {{corpus: {{source: {{name: restaurant, sentences: {sentences}}}, max_length: 30}}}}
search: {{{search}}}
objectives: {{perplexity: minimize}}
budget: {{trials: 2}}
"""


def space(sentences=200, search="lora.rank: {int: [0, 8]}") -> Space:
    return Space.from_yaml(SPACE.format(sentences=sentences, search=search))


def folder(cache: Path, wanted: Space) -> Path:
    return cache / f"corpus-{corpus_key(wanted.example)}"


def test_the_corpus_of_a_first_run_is_there_when_it_is_waited_for(tmp_path):
    looked = []
    with corpus_ahead(space(), tmp_path / "cache", worth=True) as ahead:
        ahead.wait(lambda: looked.append(time.monotonic()))
        assert verified(folder(tmp_path / "cache", space()))
    assert looked and 0 < ahead.seconds < 60
    with corpus_ahead(space(300), tmp_path / "cache", worth=True) as ahead:
        assert ahead is NOTHING  # the job sees whether one of these is its own
    ahead.wait(lambda: pytest.fail("there is nothing to wait for"))


@pytest.mark.parametrize("search, worth", [("lora.rank: {int: [0, 8]}", False),
                                           ("corpus.min_count: {choice: [1, 5]}", True)])
def test_nothing_is_made_where_workers_are_at_hand_or_trials_differ_in_it(tmp_path, search, worth):
    with corpus_ahead(space(search=search), tmp_path / "cache", worth) as ahead:
        assert ahead is NOTHING
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("interrupts", [signal.SIG_DFL, signal.SIG_IGN])
def test_half_a_corpus_is_not_kept_and_what_the_watch_raises_ends_the_waiting(tmp_path, interrupts):
    """A hundred thousand texts take longer than it may; with Ctrl-C ignored too, as in a background."""
    before = signal.signal(signal.SIGINT, interrupts)
    cache = tmp_path / "cache"

    def watch():
        if any(cache.glob(".corpus-*.partial")):
            raise TimeoutError("the budget is used up")

    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError), corpus_ahead(space(100_000), cache, worth=True) as ahead:
            ahead.wait(watch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30 and list(cache.iterdir()) == []


def test_what_cannot_be_made_is_left_to_the_job_which_says_why(tmp_path):
    """Texts of at most six words: hardly any is left."""
    few = Space.from_yaml(SPACE.format(sentences=200, search="lora.rank: {int: [0, 8]}").replace(
        "max_length: 30", "max_length: 8"))
    with corpus_ahead(few, tmp_path / "cache", worth=True) as ahead:
        ahead.wait(lambda: None)
        assert ahead.seconds is None
    with pytest.raises(UserError, match=r"corpus\.max_length"):
        list(prepare_corpus(few.example, tmp_path / "cache"))


def test_a_process_that_cannot_be_had_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    with corpus_ahead(space(), tmp_path / "cache", worth=True) as ahead:
        assert ahead is NOTHING


def test_it_ends_with_the_process_that_started_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # whose child it is not
    with corpus_ahead(space(), tmp_path / "cache", worth=True) as ahead:
        ahead.wait(lambda: None)
    assert not (tmp_path / "cache").exists()
