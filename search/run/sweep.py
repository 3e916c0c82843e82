"""One run, start to finish: connect, prepare, search, measure the front again, and leave all in RUN/."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from search.distributed import environment
from search.engine.engine import ENDED, Engine, Observer, RunningTrial
from search.engine.events import EngineEvent
from search.pareto.front import Front
from search.records import mirror
from search.records.events import RunEndedEvent
from search.records.mirror import Mirror
from search.records.run_folder import FRONT_PNG, RunFolder
from search.run import warm_start as warm
from search.run.ahead import Ahead, corpus_ahead
from search.run.allocation import TAG as ALLOCATED
from search.run.allocation import allocated
from search.run.callbacks import Callbacks
from search.run.cards import FolderFiles, write_cards
from search.run.checks import check_request, check_writable
from search.run.finish import not_retrained, record_repeats, retrain
from search.run.first_points import first_points
from search.run.machine import others_at_work
from search.run.opening import created, disk_errors, versions
from search.run.resuming import agree
from search.run.validation import notes, problem
from search.schedulers import registry
from search.study.opening import open_search
from search.trackers.base import TrackedRun, Tracker
from search.trackers.registry import close_all, start
from spaces.config import TrialConfig
from spaces.errors import UserError, one_line
from spaces.schema import Space
from spaces.shared import demand
from spaces.uris import is_uri, joined, node_folder
from spaces.uris import parent as parent_uri
from trainable.messages import JobEvent, Payload, TrialPayload

if TYPE_CHECKING:  # Ray is imported after `environment.apply`
    from search.distributed.client import PoolClient
    from search.run.prepare import SharedFolders

State = Literal["finished", "failed"]
ARTIFACTS, TRIALS, SCRATCH, CACHE, AGAIN = "artifacts", "trials", "scratch", "cache", "again"
SAMPLES, READABLE, JOBS = "samples.json", "samples", "trainable.workers.jobs:JOBS"


@dataclass(frozen=True)
class RunResult:
    """What a run left: its folder, its front, and `failed` when not one trial was complete."""

    run_folder: Path
    front: Front
    state: State


def run(space: Space, *, storage: Path | str | None = None, address: str | None = None,
        max_concurrent: int | None = None,
        resume: Path | str | None = None, warm_start: Path | None = None, observer: Observer | None = None,
        callbacks: Sequence[Observer] = (), cpus: int | None = None, jobs: str = JOBS) -> RunResult:
    """Search `space`, or go on with the run at `resume`.

    `warm_start`: an earlier run to learn from (see `search.run.warm_start`). `storage`: where RUN/ and the
    shared cache lie (of a resumed run: where it lies), a folder that all nodes share or a URI: then RUN/ is a
    folder of this node, which the URI follows (see `search.records.mirror`). `max_concurrent`: trials at
    once, default as many as there is room for. `observer` is told what happens, and what it raises ends
    the run; what `callbacks` raise is recorded instead. `cpus`: size of a local cluster. `jobs`: import path
    of the jobs that workers run. Raises `UserError` for what the user can mend, with nothing left behind that
    a next run would stumble over; KeyboardInterrupt (and any bug) after the run folder was brought in order,
    so that `resume` goes on.
    """
    check_request(space, max_concurrent, cpus, bool(resume and warm_start))
    environment.apply(attach=address not in (None, "local"))
    from search.distributed.cluster import connected, starts_here
    from search.distributed.prometheus import RunMetrics
    from search.distributed.worker_pool import WorkerPool

    uri = (parent_uri(str(resume))[0] if resume and is_uri(resume) else str(storage)
           if storage and is_uri(storage) else None)
    if uri is not None:
        mirror.check_writable(uri)
        resume = mirror.resume_from_uri(str(resume), lambda text: _say(observer, text)) if resume else None
        storage = node_folder("stores", uri)
    else:
        storage = Path(resume).resolve().parent if resume else Path(storage or "runs").resolve()
    check_writable(storage)
    busy = others_at_work()  # before the cluster is
    with disk_errors(storage), ExitStack() as stack:
        folder = stack.enter_context(_resumed(Path(resume), space)) if resume else None
        ahead = stack.enter_context(corpus_ahead(
            space, storage / CACHE, worth=starts_here(address) and uri is None and jobs == JOBS))
        cluster = stack.enter_context(connected(address, cpus))
        room = cluster.room(space.hardware)
        groups = max(1, min(room, max_concurrent or room, space.budget.trials or room))
        folder = folder or stack.enter_context(created(storage, space))
        try:
            metrics = RunMetrics(folder.path.name, observer or (lambda event: None))
            stages = RunStages(space, folder, storage / CACHE, groups, metrics, uri, callbacks)
        except BaseException:
            if not resume:
                folder.discard()
            raise
        stack.callback(stages.finish_mirror)
        scratch = folder.path / SCRATCH
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        try:
            stack.callback(stages.close_trackers)
            stages.open(cluster.address, wanted=max_concurrent, resumed=resume is not None)
            if cluster.local and busy:
                stages.notice(busy)
            if warm_start:
                stages.learn(Path(warm_start))
            pool = WorkerPool(groups, space.hardware, scratch, jobs=jobs, on_notice=stages.notice,
                              private=cluster.local,
                              store=mirror.depot_settings(uri) if uri else None)
            stack.callback(pool.close)
            if stages.unfinished:
                stages.follow(pool.start().client, scratch, ahead)
            return stages.finish()
        except KeyboardInterrupt:
            stages.close("interrupted")
            raise
        except UserError as error:
            stages.abandon(str(error), fresh=resume is None)
            raise
        except BaseException as error:
            stages.close("failed", one_line(error))
            raise


class RunStages:
    """The stages of one run on one folder."""

    def __init__(self, space: Space, folder: RunFolder, cache: Path, groups: int, observer: Observer,
                 uri: str | None = None, callbacks: Sequence[Observer] = ()):
        """`uri`: of the storage, when that is no folder that all nodes share."""
        self.space, self.folder, self.cache, self.groups, self.observer = (space, folder, cache,
                                                                           groups, observer)
        self.callbacks, self.trackers = Callbacks(callbacks, self._warn), list[Tracker]()
        self.place = joined(uri, folder.path.name) if uri else str(folder.path)
        self.mirror = Mirror(self.place, folder.path, self.notice) if uri else None
        rows = folder.rows()
        self.study, self.restored, scheduler_problem = open_search(space, folder, problem(space))
        scheduler = registry.build(space.scheduler.name, scheduler_problem, space.scheduler.options)
        ended = {row["trial"] for row in rows if row["state"] in ENDED}
        known = [row for row in rows if row["trial"] in ended]  # the others meet no rival in themselves
        scheduler.restore([*warm.rival_rows(space.rungs, folder.events()), *known])
        self.engine = Engine(space, self.study, scheduler, folder, observer=self._on_engine_event,
                             versions=versions(),
                             spent=folder.meta.get("spent", 0.0), groups=groups, keep=self._keep)

    def open(self, address: str, wanted: int | None, resumed: bool) -> None:
        """Say what begins. The cache folder is made here."""
        self.trackers = start(self.space.track, TrackedRun(self.folder.path, self.space))
        self.callbacks = Callbacks([*self.trackers, *self.callbacks.callbacks], self._warn)
        self.folder.update(state="running", reason=None, versions=versions(), groups=self.groups)
        self.cache.mkdir(parents=True, exist_ok=True)
        if self.mirror:
            self.mirror.start(fresh=not resumed)
        name, made = self.space.name, {kind: count for kind, count in demand(self.space).items() if count > 1}
        self.folder.event({"event": "run_started", "address": address, "run": self.place, "name": name,
                           "resumed": resumed, "groups": self.groups, "at_most": made})
        self.engine.emit("run_started", run=self.place, name=name, resumed=resumed, groups=self.groups,
                         at_most=made)
        for note in notes(self.space):
            self._warn(note)
        if wanted and wanted > self.groups:
            self._warn(f"{wanted} trials at once were asked for; there is room or work for {self.groups}")
        if "working_dir_files" in self.folder.path.parts:
            self._warn("this job's folder is Ray's copy, which is deleted one day; name the storage: "
                       "--storage DIR")
        if self.restored.lost:
            numbers = ", ".join(map(str, self.restored.lost))
            self._warn(f"trials that had not ended run again, under new numbers: {numbers}")

    def learn(self, path: Path) -> None:
        """Take over what an earlier run found."""
        earlier = RunFolder.open(path)
        other = Space.from_yaml(*earlier.space_text())
        found, left = warm.prior_results(self.space, other, earlier.rows())
        if not found:
            why = ", ".join(f"{reason} ({count})" for reason, count in left.items()) or "it has no trials"
            raise UserError(f"--warm-start {path}: nothing can be learned from it: {why}")
        first = warm.apply_prior_results(self.engine, found)
        for reason, count in left.items():
            self._warn(f"warm start: {count} of {sum(left.values()) + len(found)} trials were left "
                       f"out: {reason}")
        self.engine.emit("warm_start", source=str(path), learned=len(found), tried_first=first)

    @property
    def unfinished(self) -> bool:
        """Whether there is anything to do for workers."""
        engine = self.engine
        return (not engine.over
                or bool(self._not_remeasured() or not_retrained(engine, self.space.finish.retrain)))

    def follow(self, client: PoolClient, scratch: Path, ahead: Ahead) -> None:
        """Prepare, search, measure the front again."""
        from search.distributed.tune import run_trials
        from search.run.prepare import SharedFolders

        shared = SharedFolders(self.space, client, self.cache, self.engine)
        if not self.engine.over:
            shared.make_common(ahead)
            self._tell_base(shared)
        for values, tag in first_points(self.space):
            self.engine.enqueue(values, tag)
        if not self.engine.over:
            for values in allocated(self.space, shared):
                self.engine.enqueue(values, ALLOCATED)
            run_trials(self.engine, client, lambda trial: self._payload(trial, shared), shared.note,
                       self.groups, scratch)
        again = [*self._not_remeasured(), *not_retrained(self.engine, self.space.finish.retrain)]
        shared.make([self._config(row) for row in again])  # those of earlier sessions are not known yet
        self._remeasure_front(client, shared)
        retrain(self.engine, client, self.space.finish.retrain, self._config, shared.of,
                self.folder.path / AGAIN, self._warn)

    def _tell_base(self, shared: SharedFolders) -> None:
        """Let the box know what the base has, where trials share one that is timed: as at first."""
        if known := self.folder.meta.get("base") or shared.base_figures(self.space.example):
            self.folder.update(base=known)
            self.space.box.told(known)

    def finish(self) -> RunResult:
        """Leave the folder in order."""
        self._tidy()
        files = self.mirror.store if self.mirror else FolderFiles(self.folder.path)
        write_cards(self.engine.front, self.space.name, files, self._warn)
        complete = "complete" in self.engine.ended.values()
        begun = self.engine.ended or self.engine.spent
        state: State = "finished" if complete or not begun else "failed"
        self.engine.emit("run_finished", state=state, run=self.place)
        self.close(state)
        return RunResult(self.folder.path, self.engine.front, state)

    def close(self, state: str, reason: str | None = None) -> None:
        """Bring the files of the run up to date. Trials that run now will run again when the run is resumed.

        `reason`: why it has failed, in one line."""
        engine = self.engine
        self.study.flush()
        self.folder.update(spent=engine.elapsed)
        ended: RunEndedEvent = {"event": "run_ended", "state": state, **engine.summary()}
        if reason:
            ended["reason"] = reason
        self.folder.event(ended)
        self.folder.write_front(engine.front)
        # the picture is drawn from it, and a killed session may have left an old one
        self.folder.write_parquet()
        if len(engine.front):
            self._plot()
        self.folder.close(state, reason)

    def close_trackers(self, state: str | None = None) -> None:
        """However the session ends, what trackers have open ends too, once. `state`: of the run, where its
        folder will not tell."""
        trackers, self.trackers = self.trackers, []
        if trackers:
            close_all(trackers, state or self.folder.state, self.notice)

    def finish_mirror(self) -> None:
        """Nothing is left to be done but to wait until the URI has it all."""
        if self.mirror:
            self.mirror.finish(f"trial-{number:04d}" for number in self.engine.members)

    def abandon(self, reason: str, fresh: bool) -> None:
        """After a user's mistake: a new run that has no result yet leaves no folder."""
        if fresh and not self.engine.recorded:
            self.close_trackers("failed")
            self.folder.discard()
            if self.mirror:
                self.mirror.discard()
                self.mirror = None
        else:
            self.close("failed", reason)

    def notice(self, message: str) -> None:
        """A remark of the pool. Called from its threads."""
        self.engine.emit("warning", message=message)

    def _payload(self, trial: RunningTrial, shared: SharedFolders) -> TrialPayload:
        prepared, request = shared.request(trial.config)
        payload: TrialPayload = {
            "config": trial.config.model_dump(mode="json"), "prepared": prepared, "shared": request,
            "rungs": list(self.space.rungs), "folder": str(self._trial_folder(trial.number)),
            "number": trial.number, "values": trial.values, "proposed": time.time()}
        if self.mirror:
            payload["keep"] = str(self.folder.path / ARTIFACTS / f"trial-{trial.number:04d}")
        return payload

    def _trial_folder(self, number: int) -> Path:
        return self.folder.path / TRIALS / f"trial-{number:04d}"

    def _keep(self, number: int, artifact: str) -> str:
        """Move an exported model to RUN/artifacts/trial-NNNN; its path within RUN."""
        place = Path(ARTIFACTS) / f"trial-{number:04d}"
        target, kept = self.folder.path / place, Path(READABLE) / f"trial-{number:04d}.json"
        if self.mirror:  # the node that made it has put it at its place
            self.mirror.fetch(f"{place}/{SAMPLES}", kept)
            return str(place)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        Path(artifact).rename(target)
        if (target / SAMPLES).is_file():  # of every complete trial, though only the front's artifacts stay
            (self.folder.path / kept).parent.mkdir(exist_ok=True)
            shutil.copyfile(target / SAMPLES, self.folder.path / kept)
        return str(place)

    def _on_engine_event(self, event: EngineEvent) -> None:
        """Every event of the engine passes here on its way to the observer."""
        if event["event"] == "trial_finished":
            shutil.rmtree(self._trial_folder(event["trial"]), ignore_errors=True)
            self._tidy()
            if self.mirror:
                self.mirror.trial_ended(event["trial"], {*self.engine.members, *self.engine.live})
        self.observer(event)
        self.callbacks(event)

    def _tidy(self) -> None:
        """Drop artifacts of trials that are not on the front, and leavings of trials that do not run."""
        engine = self.engine
        wanted = {f"trial-{number:04d}" for number in [*engine.members, *engine.live]}
        for parent in (self.folder.path / ARTIFACTS, self.folder.path / TRIALS):
            for path in parent.iterdir() if parent.is_dir() else ():
                if path.name not in wanted:
                    shutil.rmtree(path, ignore_errors=True)
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    def _remeasure_front(self, client: PoolClient, shared: SharedFolders) -> None:
        """Each member of the front from its exported files alone, with fresh noise: METRIC_again,
        and METRIC_again_sd.

        A trial won its place by one measurement each, so the front's own figures are a little too
        good; these are not.
        """
        repeats, members = self.space.finish.repeats, self._not_remeasured()
        tasks: list[tuple[str, Payload]] = [
            ("remeasure", {"artifact": str(self.folder.path / row["artifact"]), "seed": 1 + repeat,
                           "prepared": shared.of(self._config(row))})
            for row in members for repeat in range(repeats)]
        if not tasks:
            return
        done = 0

        def on_event(i: int, event: JobEvent) -> None:
            nonlocal done
            done += 1
            self.engine.emit("prepare", stage="measuring the front again", progress=done / len(tasks),
                             after=True)

        found = client.map(tasks, on_event, patience=self.space.budget.trial_time, forgiving=True)
        record_repeats(self.engine, members, found, repeats, "again", "measured", self._warn)

    def _not_remeasured(self) -> list[dict[str, Any]]:
        """Members of the front that are still to be measured again."""
        return [dict(row) for row in self.engine.front
                if self.space.finish.repeats and row.get("artifact") and "again" not in row]

    def _config(self, row: dict[str, Any]) -> TrialConfig:
        from search.pareto.objectives import searched

        values = {path: value for path, value in searched(row).items() if path in self.space.dimensions}
        return self.space.config(values)

    def _plot(self) -> None:
        try:
            from dashboards.plot import front_png
        except ImportError:
            self._warn("front.png is not drawn: matplotlib is missing")
            return
        front_png(self.folder.path, self.folder.path / FRONT_PNG)

    def _warn(self, message: str) -> None:
        if self.folder.is_writer:  # the mirror still speaks when the records are closed
            self.folder.event({"event": "warning", "message": message})
        self.engine.emit("warning", message=message)


def _say(observer: Observer | None, text: str) -> None:
    """Something that is worth a line before there is an engine to tell it."""
    if observer:
        observer({"event": "warning", "message": text})


def _resumed(path: Path, space: Space) -> RunFolder:
    """The run at `path`, locked. Raises `UserError` when it is no run, or of a space that differs in
    more than its end."""
    folder = RunFolder.open(path)
    recorded = Space.from_yaml(*folder.space_text())
    agree(space, recorded, f"--resume {path}: it is a run of another space")
    return folder.lock()
