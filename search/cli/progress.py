"""What a run looks like while it goes on: a live display, plain lines, JSON lines, or nothing.
Each observes events.

Every event holds the engine's summary (counts, front, best values, time, cost), so an observer
does no arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

from search.cli.format import SafeConsole, compact, duration, figure, label, short_names, shown
from search.cli.live import LivePanel
from search.reporting.corpora import corpus_line, has_facts
from spaces.objectives import Objective
from spaces.shared import PLURAL

Event = Mapping[str, Any]
ENDED_BY = {"space": "every point was tried", "trials": "all trials have run",
            "patience": "the front stopped growing"}
COLORS = {"complete": "green", "stopped": "yellow", "failed": "red"}


def choose(objectives: Sequence[Objective], quiet: bool,
           as_json: bool) -> Silent | JsonLines | Lines | LiveDisplay:
    """The observer for this terminal: live where standard error is one, plain lines where it is
    a file or a pipe."""
    if as_json:
        return JsonLines(sys.stdout)
    if quiet:
        return Silent()
    console = SafeConsole(stderr=True, highlight=False, force_jupyter=False)  # in a notebook, plain lines
    return LiveDisplay(console, objectives) if console.is_terminal else Lines(console, objectives)


class Silent:
    """Tells nothing but warnings, which go to standard error."""

    def __call__(self, event: Event) -> None:
        if event["event"] == "warning":
            print(f"qdlm: warning: {event.get('message', '')}", file=sys.stderr)

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class JsonLines:
    """One JSON object per event, for job logs and programs. NaN and infinities are null, named
    under `nonfinite`."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, event: Event) -> None:
        from search.records.journal import dumps

        print(dumps(event), file=self.stream, flush=True)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines:
    """One readable line per event."""

    def __init__(self, console: Console, objectives: Sequence[Objective]):
        self.console, self.event_text = console, EventText(objectives)

    def __call__(self, event: Event) -> None:
        text = self.event_text.line(event)
        if text:
            self.console.print(text, soft_wrap=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LiveDisplay:
    """Finished trials scroll by; below them a board with what runs, the front so far, time and cost."""

    def __init__(self, console: Console, objectives: Sequence[Objective]):
        self.console, self.event_text = console, EventText(objectives, remind=True)
        self.live = LivePanel(console, objectives)

    def __call__(self, event: Event) -> None:
        self.live.note(event)
        kind = event["event"]
        text = self.event_text.line(event)
        lasting = kind in ("run_started", "trial_finished", "warning", "run_finished") or (
            kind == "prepare" and event.get("progress", 0) >= 1)
        if lasting and text:
            self.console.print(text, overflow="ellipsis", no_wrap=True)
        self.live.display.refresh()

    def __enter__(self) -> LiveDisplay:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()


class EventText:
    """Events as lines of text with rich markup."""

    def __init__(self, objectives: Sequence[Objective], remind: bool = False):
        """`remind`: say a trial's settings again when it ends, for a display that does not keep its start."""
        self.objectives, self.remind = list(objectives), remind
        self.quarters_said: dict[str, int] = {}
        self.estimated: set[str] = set()
        self.elapsed = 0.0

    def line(self, event: Event) -> str | None:
        """The event in one line behind the time since the start; None for one that says nothing new."""
        self.elapsed = event.get("elapsed", self.elapsed)
        teller = getattr(self, f"_{event['event']}", None)
        text = teller(event) if teller else None
        return f"[dim]{clock(self.elapsed)}[/]  {text}" if text else None

    def _run_started(self, event: Event) -> str:
        resumed = " resumed" if event.get("resumed") else ""
        made = ", ".join(f"{count} {PLURAL[kind]}" for kind, count in (event.get("at_most") or {}).items())
        more = f" [dim](up to {made}, each made when a trial first needs it)[/]" if made else ""
        return f"[bold]run{resumed}[/] {escape(shown(event.get('run', '')))}{more}"

    def _prepare(self, event: Event) -> str | None:
        stage, progress = str(event.get("stage", "")), float(event.get("progress") or 0)
        quarter, left = int(progress * 4), event.get("left")
        new = left is not None and progress < 1 and stage not in self.estimated
        if self.quarters_said.get(stage) == quarter and not new:
            return None
        if left is not None:
            self.estimated.add(stage)
        self.quarters_said[stage] = quarter
        detail = f", {escape(str(event['detail']))}" if event.get("detail") else ""
        detail += f", about {duration(left)} to go" if left is not None else ""
        if event.get("after"):  # nothing is prepared: the search is over
            return f"{escape(stage)} " + ("[green]done[/]" if progress >= 1 else f"{progress:.0%}{detail}")
        if progress >= 1:
            return (f"prepare {escape(stage)} [green]ready[/]"
                    + (f": {corpus_line(event)}" if has_facts(event) else ""))
        return f"prepare {escape(stage)} {progress:.0%}{detail}"

    def _trial_started(self, event: Event) -> str:
        tag = f" [dim]({escape(str(event['tag']))})[/]" if event.get("tag") else ""
        return f"trial {event['trial']:<3} started   {settings(event.get('values', {}))}{tag}"

    def _warm_start(self, event: Event) -> str:
        return (f"warm start: learned {event['learned']} trials of {escape(shown(event['source']))}, "
                f"{event['tried_first']} of its front are tried first")

    def _rung(self, event: Event) -> str:
        return (f"trial {event['trial']:<3} {rung_text(event)}  "
                f"{self.measured(event.get('metrics', {}))}")

    def _trial_finished(self, event: Event) -> str:
        state = event["state"]
        head = f"trial {event['trial']:<3} [{COLORS.get(state, 'default')}]{state:<8}[/]  "
        results = self.measured(event.get("metrics") or {})
        if state == "failed":
            return head + escape(str(event.get("reason")))
        why = f" [dim]{escape(str(event['reason']))}[/]" if event.get("reason") else ""
        given = f"  {settings(event.get('values', {}))}" if self.remind else ""
        return f"{head}{results}{given}{why}"

    def _front(self, event: Event) -> str:
        volume = event.get("hypervolume")
        size = f", hypervolume {volume:.1%}" if volume is not None else ""
        return f"[bold]front[/] {event['front_size']} members{size}  {totals(event)}"

    def _warning(self, event: Event) -> str:
        return f"[yellow]warning[/] {escape(str(event.get('message', '')))}"

    def _run_finished(self, event: Event) -> str:
        by = event.get("ended_by")
        why = f" [dim]({ENDED_BY.get(by, f'the {by} budget is used up')})[/]" if by else ""
        return f"[bold]run finished[/]{why} {totals(event)}"

    def measured(self, metrics: Mapping[str, Any]) -> str:
        """The objectives that a result holds: `perplexity 12.3, latency 4.1 ms`."""
        return ", ".join(f"{label(item.metric)} {figure(item.metric, metrics[item.metric])}"
                         for item in self.objectives if item.metric in metrics)


def rung_text(event: Event) -> str:
    """`rung 0 (10 of 40 steps)`: rungs are counted from 0, as in the records."""
    steps, whole = event.get("steps") or (None, None)
    return f"rung {event['rung']}" + (f" ({steps:,} of {whole:,} steps)" if steps and whole else "")


def settings(values: Mapping[str, Any]) -> str:
    """Searched values in short: `rank=8 quantizer=binary`."""
    names = short_names(list(values))
    return ("[dim]"
            + escape(" ".join(f"{names[key]}={compact(value)}" for key, value in values.items())) + "[/]")


def totals(event: Event) -> str:
    """Counts, time and cost of an event's summary."""
    parts = [f"{event[state]} {state}" for state in ("complete", "stopped", "failed") if event.get(state)]
    if event.get("eta") and event["event"] != "run_finished":
        parts.append(f"{duration(event['eta'])} to go")
    return "[dim]" + ", ".join([*parts, *cost(event)]) + "[/]"


def cost(event: Event) -> list[str]:
    """`0.08 CPU-hours`, and GPU-hours where GPUs are used; the money where there is a price."""
    hours = [f"{figure('', event[key])} {unit}-hours"
             for key, unit in (("cpu_hours", "CPU"), ("gpu_hours", "GPU")) if event.get(key)]
    money = (event.get("cost") or {}).get("money")
    return hours if money is None else [*hours, f"money {figure('', money)}"]


def clock(seconds: float) -> str:
    """`12:34` since the start, `1:02:03` after an hour."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
