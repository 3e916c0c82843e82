import json
import threading
import time
import urllib.request
from wsgiref.simple_server import make_server

import pytest
from report_runs import write_run

from search.cli.main import main
from search.records.follow import Tail, Tally, follow
from search.records.run_folder import RunFolder
from search.reporting.comparison import compare
from search.study.searcher import StudySearcher
from spaces.errors import UserError
from spaces.schema import Space


def test_new_whole_lines_are_read_once(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "row", "trial": 0, "state": "rung"}\n{"event": "ro')
    tail = Tail(path)
    assert [entry["trial"] for entry in tail.read()] == [0] and tail.read() == []
    with open(path, "a") as file:
        file.write('w", "trial": 1, "state": "rung"}\n')
    assert [entry["trial"] for entry in tail.read()] == [1]
    with open(path, "a") as file:
        file.write("broken\n")
    with pytest.raises(UserError, match="damaged"):
        tail.read()


def test_a_run_is_followed_to_its_end_and_not_beyond(tmp_path):
    run = RunFolder.open(write_run(tmp_path, 5)).lock()
    run.update(state="running")
    naps, seen = [], []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 1:
            run.append({"trial": 5, "state": "complete", "rung": 1, "perplexity": 1.0})
        else:
            run.close("finished")

    for batch in follow(run.path, 0.5, sleep=sleep):
        seen += batch
    assert naps == [0.5, 0.5] and seen[-1]["trial"] == 5
    tally = Tally()
    for entry in seen:
        tally.add(entry)
    assert tally.counts == {"complete": 6} and tally.worked.total == 30.0


def test_watch_tells_what_ended_and_the_front(tmp_path, capsys):
    run = write_run(tmp_path, 12)
    assert main(["watch", str(run)]) == 0
    text = capsys.readouterr().out
    assert " at rung 0: " in text and "12 of 12 trials ended" in text and "Front: " in text
    assert main(["watch", str(run), "--once"]) == 0
    assert main(["watch", str(tmp_path / "none")]) == 2


def test_optuna_dashboard_serves_the_study(tmp_path):
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    from dashboards.optuna_server import application

    run = write_run(tmp_path, 2)
    space = Space.from_yaml((run / "space.yaml").read_text(), "space.yaml")
    study = StudySearcher(space.dimensions, space.objectives, storage=run / "study.journal")
    study.ask()
    server = make_server("127.0.0.1", 0, application(run / "study.journal"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/api/studies"

        def studies():
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.loads(answer.read())["study_summaries"]

        assert [item["study_name"] for item in studies()] == ["qdlm"]
        study.ask()
        with urllib.request.urlopen(f"{address}/0?after=0", timeout=10) as answer:
            assert len(json.loads(answer.read())["trials"]) == 2, "the dashboard follows the live study"
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_that_is_taken_or_a_run_without_study_is_one_line(tmp_path, capsys):
    run = write_run(tmp_path, 1)
    assert main(["dashboard", str(run)]) == 2 and "no study yet" in capsys.readouterr().err


def dominated(tmp_path, factor):
    """A copy of a run whose objectives to minimize are `factor` times as large."""
    run = write_run(tmp_path, 20)
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("perplexity", "latency_ms") if line.get("perplexity") else ():
            line[name] *= factor
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_run_that_is_better_everywhere_has_all_of_the_joint_front(tmp_path, capsys):
    better, worse = dominated(tmp_path, 0.5), dominated(tmp_path, 1.0)
    first, second = compare([better, worse])["runs"]
    assert first["joint"] == first["front"] and second["joint"] == 0
    assert 0 < second["share"] < first["share"] <= 1 and first["low"] < first["share"] < first["high"]
    assert main(["compare", str(better), str(worse), "--figure", str(tmp_path / "f.svg")]) == 0
    assert "the same space" in capsys.readouterr().out and (tmp_path / "f.svg").stat().st_size > 5000


def test_runs_are_compared_by_what_was_measured_anew(tmp_path):
    """Of two equal runs the one whose members turn out worse has less; whose members lost their place, they
    are out."""
    run, plain = write_run(tmp_path, 20), write_run(tmp_path, 20)
    members = compare([run, plain])["runs"][0]["front"]
    rows = {row["trial"]: row for row in RunFolder.open(run).rows() if row["state"] == "complete"}
    with RunFolder.open(run).lock() as folder:
        for row in rows.values():
            folder.append({**row, "again": 1, "perplexity_again": 1.2 * row["perplexity"],
                           "latency_ms_again": 1.2 * row["latency_ms"]})
    worse, equal = compare([run, plain])["runs"]
    assert worse["front"] == equal["front"] == members
    assert worse["share"] < equal["share"] and worse["joint"] < equal["joint"] == members
    assert worse["best"]["perplexity"] == 1.2 * equal["best"]["perplexity"]


def test_equal_runs_are_equal_and_the_share_is_of_the_box(tmp_path):
    found = compare([write_run(tmp_path, 20), write_run(tmp_path, 20)])
    one, other = found["runs"]
    assert one["share"] == other["share"] and one["joint"] == one["front"] and found["warnings"] == []


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    run, other = write_run(tmp_path, 6), write_run(tmp_path, 6)
    text = (other / "space.yaml").read_text()
    (other / "space.yaml").write_text(text.replace("seed: 3", "seed: 4"))
    assert "seed: 4" in compare([run, other])["changes"][0]["lines"][0]
    (other / "space.yaml").write_text(text.replace("latency_ms: minimize", "size_bytes: minimize"))
    assert main(["compare", str(run), str(other)]) == 2 and "other objectives" in capsys.readouterr().err
    assert main(["compare", str(run)]) == 2
    lines = (run / "events.jsonl").read_text().replace("cpu 1", "gpu 7")
    (run / "events.jsonl").write_text(lines)
    assert "different devices" in compare([run, write_run(tmp_path, 6)])["warnings"][0]


def test_a_live_run_on_shared_storage_is_seen_by_its_writing(tmp_path, monkeypatch):
    run = RunFolder.open(write_run(tmp_path, 1)).lock()
    run.update(state="running")
    run._lock.release()
    batches = follow(run.path, 0.01, sleep=lambda seconds: None)
    next(batches)
    assert next(batches) == [], "written a moment ago: it may go on elsewhere"
    later = time.time() + 3600
    monkeypatch.setattr("search.records.follow.time.time", lambda: later)
    assert list(batches) == [[]]
