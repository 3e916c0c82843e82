"""`qdlm replay RUN`: a recorded search asked for the same again."""

import json

import pytest
from recorded_run import record

from search.cli.main import main


@pytest.fixture
def run(tmp_path):
    return record(tmp_path)


def rewrite(run, change):
    """Pass each event through `change`; those that come back as None are taken out."""
    path = run / "events.jsonl"
    events = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(event) + "\n" for event in events if event is not None))


def test_an_untouched_run_comes_out_again(run, capsys):
    assert main(["replay", str(run)]) == 0
    assert capsys.readouterr().out.endswith(f"{run.name}: 12 proposals, all the same again (sampler ehvi, "
                                            "seed 4)\n")


def test_results_that_were_changed_afterwards_are_noticed_where_they_change_a_proposal(run, capsys):
    rewrite(run, lambda event: event | {"perplexity": 45.0 - event["perplexity"]} if event["event"] == "row"
            else event)
    assert main(["replay", str(run)]) == 1
    printed = capsys.readouterr().out
    assert (" the same again, then trial " in printed and "was {" in printed
            and "the run was made with" in printed)


def test_records_that_do_not_tell_what_was_proposed_are_no_crash(run, capsys):
    rewrite(run, lambda event: None if event["event"] == "ask" else event)
    assert main(["replay", str(run)]) == 1
    assert ("0 proposals the same again, then trial 0 has a result, and the records do not tell"
            in capsys.readouterr().out)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["replay", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
