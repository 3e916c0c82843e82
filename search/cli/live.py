"""The board below the log on a terminal: trials, front, best values, time and cost, and what
runs right now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.markup import escape, render
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from search.cli.format import ARROWS, compact, duration, figure, label, short_names
from spaces.objectives import Objective

MOST_RUNNING = 6  # lines of running trials; a cluster's further ones are counted
BARS = "▁▂▃▄▅▆▇█"
BAR = 30  # columns of a progress bar


@dataclass
class Running:
    """One trial that is under way."""

    values: Mapping[str, Any]
    since: float
    rung: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


class LivePanel:
    """Keeps what the last events said and draws it twice a second."""

    def __init__(self, console: Console, objectives: Sequence[Objective],
                 now: Callable[[], float] = time.monotonic):
        self.console, self.objectives, self.now = console, list(objectives), now
        self.name, self.updated = "qdlm", now()
        self.summary: dict[str, Any] = {}
        self.stages: dict[str, tuple[float, str]] = {}
        self.running: dict[int, Running] = {}
        self.volumes: list[float] = []
        # whether a stage or a trial has begun in this session: a resumed run has trials before that
        self.moving = False
        self.display = RichLive(console=console, get_renderable=self.panel, refresh_per_second=2,
                                transient=True)

    def start(self) -> None:
        """Begin drawing."""
        self.display.start()

    def stop(self) -> None:
        """Stop drawing; the board vanishes, the lines above it stay."""
        self.display.stop()

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        kind = event["event"]
        if "elapsed" in event:
            self.summary, self.updated = dict(event), self.now()
        if kind == "trial_finished" and event.get("hypervolume") is not None:
            self.volumes.append(float(event["hypervolume"]))
        if kind == "run_started":
            self.name = str(event.get("name") or event.get("run") or "")
        elif kind == "prepare":
            self.moving = True
            left, detail = event.get("left"), str(event.get("detail") or "")
            told = [detail] if detail else []
            told += [f"about {duration(left)} to go"] if left is not None else []
            self.stages[str(event.get("stage"))] = float(event.get("progress") or 0), ", ".join(told)
            if event.get("trial") is not None and event.get("progress", 0) >= 1:
                del self.stages[str(event.get("stage"))]  # its trial goes on
        elif kind == "trial_started":
            self.moving = True
            self.stages.clear()
            self.running[event["trial"]] = Running(event.get("values", {}), self.now())
        elif kind == "rung" and event["trial"] in self.running:
            trial = self.running[event["trial"]]
            trial.rung = f"rung {event['rung']} of {event.get('of', '?')}"
            trial.metrics = event.get("metrics", {})
        elif kind == "trial_finished":
            self.running.pop(event["trial"], None)
            mine = f" for trial {event['trial']}"
            self.stages = {stage: far for stage, far in self.stages.items() if not stage.endswith(mine)}

    def panel(self) -> RenderableType:
        """Everything that is drawn."""
        rows = list(self._rows())
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True,
                         min_width=max(cell_len(render(name).plain) for name, _ in rows))
        table.add_column(no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*row)
        return Group(Rule(f"[bold]{escape(self.name)}[/]", align="left", style="dim"), table)

    def _rows(self) -> Iterator[tuple[str, RenderableType]]:
        """The board's lines: a name and what stands beside it."""
        for stage, (progress, detail) in self.stages.items():
            yield stage, beside(ProgressBar(1.0, progress, BAR), f"{progress:4.0%}  [dim]{escape(detail)}[/]")
        begun = any(self.summary.get(state) for state in ("complete", "stopped", "failed", "running"))
        if begun:
            yield from (("trials", self._trials()), ("front", self._front()), ("best", self._best()))
        if begun or self.stages:
            yield "time", self._time()
        else:
            passed = self.now() - self.updated + self.summary.get("elapsed", 0.0)
            yield "time", f"{duration(passed)}, starting {'workers' if self.summary else 'Ray'}"
        yield from self._running()

    def _trials(self) -> RenderableType:
        summary = self.summary
        ended = sum(summary.get(state, 0) for state in ("complete", "stopped", "failed"))
        total = summary.get("trials")
        counts = (f"[green]{summary.get('complete', 0)} "
                  f"complete[/]  [yellow]{summary.get('stopped', 0)} stopped[/]  "
                  f"[red]{summary.get('failed', 0)} failed[/]  [cyan]{summary.get('running', 0)} running[/]")
        bar = ProgressBar(total or max(1, ended), ended, BAR)
        return beside(bar, f"{ended}{f'/{total}' if total else ''}  {counts}")

    def _front(self) -> Text:
        text = Text.from_markup(f"[bold]{self.summary.get('front_size', 0)}[/] members")
        if self.volumes:
            text.append(f"   hypervolume {self.volumes[-1]:.1%} of the box ")
            text.append(sparkline(self.volumes), style="magenta")
        return text

    def _time(self) -> Text:
        summary, passed = self.summary, self.now() - self.updated
        text = Text(duration(summary["elapsed"] + passed))
        if not self.moving:
            text.append("   waiting for workers")
        elif summary.get("eta"):
            text.append(f"   about {duration(max(0.0, summary['eta'] - passed))} to go")
        for key, unit in (("cpu_hours", "CPU"), ("gpu_hours", "GPU")):
            if summary.get(key):
                text.append(f"   {figure('', summary[key])} {unit}-hours", style="dim")
        if (summary.get("cost") or {}).get("money") is not None:
            text.append(f"   money {figure('', summary['cost']['money'])}", style="dim")
        return text

    def _best(self) -> Text:
        best = self.summary.get("best") or {}
        parts = [
            f"{label(item.metric)} [bold]{figure(item.metric, best[item.metric])}[/]{ARROWS[item.direction]}"
            for item in self.objectives if item.metric in best]
        return Text.from_markup("   ".join(parts) if parts else "[dim]no complete trial yet[/]")

    def _running(self) -> Iterator[tuple[str, str]]:
        """Name and state of each trial that runs."""
        names = short_names(list(dict.fromkeys(key for trial in self.running.values()
                                               for key in trial.values)))
        for number, trial in list(self.running.items())[:MOST_RUNNING]:
            measured = [f"{label(item.metric)} {figure(item.metric, trial.metrics[item.metric])}"
                        for item in self.objectives if item.metric in trial.metrics]
            values = escape(" ".join(f"{names[key]}={compact(value)}" for key, value in trial.values.items()))
            parts = [f"{duration(self.now() - trial.since):>7}", trial.rung, *measured, f"[dim]{values}[/]"]
            yield f"[cyan]trial {number}[/]", "  ".join(part for part in parts if part)
        if len(self.running) > MOST_RUNNING:
            yield "", f"[dim]and {len(self.running) - MOST_RUNNING} more[/]"


def beside(bar: ProgressBar, markup: str) -> Table:
    """A progress bar and what it means."""
    table = Table.grid(padding=(0, 2))
    table.add_row(bar, markup)
    return table


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The last values as bars between the lowest and the highest of them."""
    shown = list(values)[-width:]
    low, high = min(shown), max(shown)
    if high == low:
        return BARS[4] * len(shown)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in shown)
