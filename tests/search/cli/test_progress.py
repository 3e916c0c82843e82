"""What a run shows: a recorded list of events through each of the four observers."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from search.cli.live import LivePanel, sparkline
from search.cli.progress import JsonLines, Lines, LiveDisplay, Silent, choose
from spaces.objectives import Objective

OBJECTIVES = [Objective("perplexity", "minimize"), Objective("latency_ms", "minimize"),
              Objective("size_bytes", "minimize")]
VALUES = {"quantization.quantizer": "fixed:Q0i8f",
          "quantization.sites": ["embedding", "projection"], "lora.rank": 4}
STOPPED = "infeasible on size_bytes at rung 0: 5e+06 where <= 1e+06 is asked"


def event_of(event: str, elapsed: float, running: int = 0, complete: int = 0, stopped: int = 0,
             failed: int = 0, **more) -> dict:
    """An event with the engine's summary."""
    return {"event": event, "running": running, "complete": complete, "stopped": stopped, "failed": failed,
            "trials": 4, "front_size": min(1, complete), "best": {"perplexity": 12.34, "size_bytes": 1.5e6}
            if complete else {}, "hypervolume": 0.5 if complete else None, "elapsed": elapsed,
            "eta": 90.0 if complete else None, "cpu_hours": 0.25, "gpu_hours": 0.0, **more}


EVENTS = [
    event_of("run_started", 0, run="/far/runs/quick-1", name="quick", resumed=False, groups=2),
    event_of("prepare", 1, stage="base", progress=0.0, detail=None),
    event_of("prepare", 2, stage="base", progress=0.1, detail="step 100"),
    event_of("prepare", 4, stage="base", progress=0.6, detail="step 600, loss 1.2"),
    event_of("prepare", 5, stage="base", progress=1.0, detail=None),
    event_of("trial_started", 6, running=1, trial=0, values=VALUES, tag="unquantized"),
    event_of("rung", 9, running=1, trial=0, rung=0, of=3, steps=[10, 40],
             metrics={"perplexity": 20.0, "train_loss": 3.0}),
    event_of("trial_finished", 12, complete=1, trial=0, state="complete", rung=2, reason=None, values=VALUES,
             seconds=6.0, metrics={"perplexity": 12.34, "latency_ms": 5.5, "size_bytes": 1.5e6}),
    event_of("front", 12, complete=1, trial=0, members=[0]),
    event_of("trial_started", 13, running=1, complete=1, trial=1, values=VALUES, tag=None),
    event_of("trial_finished", 14, complete=1, failed=1, trial=1, state="failed", rung=-1,
             reason="ValueError: [loss] is nan", values=VALUES, seconds=1.0, metrics={}),
    {"event": "warning", "message": "a worker group died and is replaced"},
    event_of("trial_started", 15, running=1, complete=1, failed=1, trial=2, values=VALUES, tag=None),
    event_of("trial_finished", 16, complete=1, failed=1, stopped=1, trial=2, state="stopped", rung=0,
             values=VALUES, seconds=1.0, reason=STOPPED, metrics={"perplexity": 99.0}),
    event_of("run_finished", 3605, complete=1, failed=1, stopped=1, state="finished",
             run="/far/runs/quick-1"),
]


def recorded(width: int = 200) -> Console:
    """A console that keeps what is printed."""
    return Console(file=io.StringIO(), record=True, width=width, force_terminal=False)


def test_what_will_be_made_on_demand_is_said_first_and_while_it_is_made():
    about = {"run": "/far/runs/quick-1", "at_most": {"teacher": 2, "base": 6}}
    making = {"stage": "base for trial 3", "trial": 3}
    events = [event_of("run_started", 0, **about),
              event_of("trial_started", 1, trial=3, values=VALUES, tag=None),
              event_of("prepare", 2, progress=0.5, detail="step 50", **making)]
    lines = lines_of([*events, event_of("prepare", 3, progress=1.0, detail=None, **making)])
    assert lines[0].endswith("(up to 2 teachers, 6 bases, each made when a trial first needs it)")
    assert lines[2].endswith("prepare base for trial 3 50%, step 50") and lines[3].endswith("trial 3 ready")
    ended = event_of("trial_finished", 3, trial=3, state="failed", rung=0, reason="it diverged",
                     values=VALUES, seconds=0.0)
    for last in (event_of("prepare", 3, progress=1.0, detail=None, **making), ended):
        live = LivePanel(recorded(), OBJECTIVES)
        for event in events:
            live.note(event)
        assert list(live.stages) == ["base for trial 3"]
        live.note(last)
        assert not live.stages, "its trial goes on, or has failed for it"


def lines_of(events) -> list[str]:
    """What the line mode prints for the events."""
    console = recorded()
    with Lines(console, OBJECTIVES) as observer:
        for event in events:
            observer(event)
    return console.export_text().splitlines()


def test_lines_tell_the_whole_story():
    assert lines_of(EVENTS) == [
        "00:00  run /far/runs/quick-1",
        "00:01  prepare base 0%",
        "00:04  prepare base 60%, step 600, loss 1.2",
        "00:05  prepare base ready",
        "00:06  trial 0   started   quantizer=fixed:Q0i8f sites=embedding+projection rank=4 (unquantized)",
        "00:09  trial 0   rung 0 (10 of 40 steps)  perplexity 20",
        "00:12  trial 0   complete  perplexity 12.3, latency 5.5 ms, size 1.5 MB",
        "00:12  front 1 members, hypervolume 50.0%  1 complete, 1 m 30 s to go, 0.25 CPU-hours",
        "00:13  trial 1   started   quantizer=fixed:Q0i8f sites=embedding+projection rank=4",
        "00:14  trial 1   failed    ValueError: [loss] is nan",
        "00:14  warning a worker group died and is replaced",
        "00:15  trial 2   started   quantizer=fixed:Q0i8f sites=embedding+projection rank=4",
        f"00:16  trial 2   stopped   perplexity 99 {STOPPED}",
        "1:00:05  run finished 1 complete, 1 stopped, 1 failed, 0.25 CPU-hours",
    ]


def test_lines_are_one_per_event_and_never_wrap():
    long = event_of("trial_started", 1, running=1, trial=7,
                    values={f"group.key{i}": "x" * 20 for i in range(20)}, tag=None)
    assert len(lines_of([long])) == 1


def test_a_resumed_run_says_so():
    assert lines_of([{**EVENTS[0], "resumed": True}]) == ["00:00  run resumed /far/runs/quick-1"]


def test_an_event_of_the_future_is_no_error():
    assert lines_of([event_of("something_new", 1)]) == []


def board_after(count: int, now: float = 0.0, width: int = 120) -> str:
    """The live board as text after the first `count` events, each heard at its own time,
    `now` seconds later."""
    console, clock = recorded(width), [0.0]
    live = LivePanel(console, OBJECTIVES, now=lambda: clock[0])
    for event in EVENTS[:count]:
        clock[0] = event.get("elapsed", clock[0])
        live.note(event)
    clock[0] += now
    console.print(live.panel())
    return console.export_text()


def test_board_before_anything_happened():
    assert "starting Ray" in board_after(0)
    assert "starting workers" in board_after(1)


def test_board_of_a_resumed_run_before_its_workers_are_there():
    console = recorded()
    live = LivePanel(console, OBJECTIVES)
    live.note(event_of("run_started", 700, complete=2, name="quick", run="runs/quick-1", resumed=True))
    console.print(live.panel())
    text = console.export_text()
    assert "2/4" in text and "waiting for workers" in text and "to go" not in text


def test_board_while_preparing():
    text = board_after(4)
    assert (text.startswith("quick ") and "base" in text and "60%" in text and "loss 1.2" in text
            and "trials" not in text)


def test_board_while_searching():
    text = board_after(7, now=3)
    assert "0/4" in text and "1 running" in text and "no complete trial yet" in text
    running = next(line for line in text.splitlines() if line.startswith("trial 0"))
    assert ("6 s" in running and "rung 0 of 3" in running and "perplexity 20" in running
            and "quantizer=fixed:Q0i8f" in running)


def test_board_counts_front_best_time_and_cost():
    text = board_after(9, now=30)
    assert ("1/4" in text and "1 complete" in text and "1 members" in text
            and "hypervolume 50.0% of the box" in text)
    assert "perplexity 12.3↓" in text and "size 1.5 MB↓" in text
    assert ("42 s" in text and "about 1 m 00 s to go" in text and "0.25 CPU-hours" in text
            and "GPU" not in text)


def test_board_forgets_trials_that_ended():
    assert "trial 1" in board_after(10) and "trial 1" not in board_after(11)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_board_fits_the_terminal(width):
    assert all(len(line) <= width for line in board_after(13, width=width).splitlines())


def test_board_counts_what_it_has_no_room_for():
    console = recorded()
    live = LivePanel(console, OBJECTIVES)
    for number in range(9):
        live.note(event_of("trial_started", 1, running=number + 1, trial=number, values=VALUES, tag=None))
    console.print(live.panel())
    assert "and 3 more" in console.export_text()


def test_live_display_keeps_what_ended_and_erases_the_board():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None, _environ={})
    with LiveDisplay(console, OBJECTIVES) as observer:
        for event in EVENTS:
            observer(event)
    written = console.file.getvalue()
    assert ("trial 0   complete  perplexity 12.3" in written
            and "trial 1   failed    ValueError: [loss] is nan" in written)
    # the cursor is back, the board's lines are erased
    assert written.endswith("\x1b[?25h") or "\x1b[2K" in written


def test_json_lines_are_one_object_per_event_without_nan():
    stream = io.StringIO()
    with JsonLines(stream) as observer:
        for event in [*EVENTS, event_of("rung", 1, trial=3, rung=0, metrics={"perplexity": math.nan},
                                        hypervolume=math.inf)]:
            observer(event)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]
    assert [row["event"] for row in rows[:-1]] == [event["event"] for event in EVENTS]
    assert rows[7]["metrics"]["size_bytes"] == 1.5e6


def test_silence_lets_warnings_through(capsys):
    with Silent() as observer:
        for event in EVENTS:
            observer(event)
    assert capsys.readouterr() == ("", "qdlm: warning: a worker group died and is replaced\n")


def test_mode_follows_options_and_terminal(monkeypatch):
    assert isinstance(choose(OBJECTIVES, quiet=True, as_json=False), Silent)
    assert isinstance(choose(OBJECTIVES, quiet=False, as_json=True), JsonLines)
    assert isinstance(choose(OBJECTIVES, quiet=False, as_json=False), Lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(choose(OBJECTIVES, quiet=False, as_json=False), LiveDisplay)


def test_sparkline():
    assert sparkline([1.0, 1.0]) == "▅▅"
    assert sparkline([0.0, 1.0]) == "▁█"
    assert len(sparkline(list(range(100)))) == 16
