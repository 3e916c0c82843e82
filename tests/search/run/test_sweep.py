"""Whole runs on a real cluster, with toy jobs: what RUN/ holds after success, faults, Ctrl-C, mistakes and
a killed driver."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from search.cli.main import main
from search.records.run_folder import RunFolder
from search.run import first_points, sweep
from search.run.opening import disk_errors
from spaces.errors import RunError, UserError
from spaces.schema import Space, load

HERE = Path(__file__).resolve().parents[1]
FAULTS, WORTH = "lora.rank", "adapt.optim.warmup"  # see `toy_jobs.trial`


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "scheduler": "none", "search": {WORTH: {"int": [0, 5]}}, "sampler": "grid",
        "finish": {"repeats": 2, "retrain": 3}, **changes})


def run(space, storage, **options):
    events = []
    options = {"observer": events.append, "max_concurrent": 1, **options}
    result = sweep.run(space, storage=storage, jobs="toy_jobs:JOBS", **options)
    return result, events


def finished_once(storage):
    """How often each trial came to its end, by the jobs' own count."""
    return Counter((storage / "cache" / "log").read_text().split())


@pytest.fixture(scope="module")
def faulty(ray_session, tmp_path_factory):
    """A run with trials that raise, return NaN, and kill their worker once or twice."""
    storage = tmp_path_factory.mktemp("faulty")
    space = make_space(search={FAULTS: {"choice": [0, 1, 2, 3, 4]}, WORTH: {"choice": [2]}},
                       track=["tensorboard"])
    return run(space, storage, max_concurrent=2, callbacks=[broken])


def broken(event):
    """A callback with a bug."""
    if event["event"] == "trial_finished":
        raise KeyError("loss")


def by_fault(result):
    rows = RunFolder.open(result.run_folder).rows()
    return {row[f"config.{FAULTS}"]: row for row in rows if row["state"] != "rung"}


def test_every_fault_is_a_row_with_its_reason_and_the_search_goes_on(faulty):
    ends = by_fault(faulty[0])
    assert {fault: row["state"] for fault, row in ends.items()} == {
        0: "complete", 1: "failed", 2: "failed", 3: "failed", 4: "complete"}
    assert ends[1]["reason"] == "ValueError: it broke"
    assert ends[2]["reason"] == "objective loss is nan at rung 1"
    assert ends[3]["reason"].startswith("its workers died twice: worker 0 died")


def test_a_retried_trial_has_one_row_per_rung(faulty):
    number = by_fault(faulty[0])[4]["trial"]
    table = pyarrow.parquet.read_table(faulty[0].run_folder / "trials.parquet").to_pylist()
    assert ([(row["rung"], row["state"]) for row in table if row["trial"] == number]
            == [(0, "rung"), (1, "complete")])


def test_the_traceback_of_a_failed_trial_is_in_the_log(faulty):
    logged = [entry
              for entry in RunFolder.open(faulty[0].run_folder).events() if entry["event"] == "traceback"]
    assert [entry["trial"] for entry in logged] == [by_fault(faulty[0])[1]["trial"]]
    assert "toy_jobs.py" in logged[0]["traceback"]


def test_events_tell_the_whole_story(faulty):
    events = faulty[1]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished"
    stages = {event["stage"] for event in events if event["event"] == "prepare" and event["progress"] == 1.0}
    assert stages == {"corpus", "teacher", "base", "measuring the front again", "training the front again"}
    assert kinds.count("trial_started") == kinds.count("trial_finished") == 5
    assert sum("a worker group died" in event.get("message", "") for event in events) == 3
    last = events[-1]
    assert (last["complete"], last["failed"], last["running"], last["trials"]) == (2, 3, 0, 5)
    assert last["best"] == {"loss": pytest.approx(1 / 3), "size": 2.0} and last["cpu_hours"] > 0


def test_a_callback_that_raises_is_recorded_and_the_search_goes_on(faulty):
    warned = [entry["message"] for entry in RunFolder.open(faulty[0].run_folder).events()
              if entry["event"] == "warning" and entry["message"].startswith("callback ")]
    assert warned[0] == "callback broken raised KeyError: 'loss' at trial_finished" and len(warned) == 3


def test_a_tracker_is_told_of_every_trial(faulty):
    kept = sorted(path.name for path in (faulty[0].run_folder / "tensorboard").iterdir())
    assert kept == ["search", *(f"trial-{number:04d}" for number in range(5))]


def test_front_members_have_artifacts_and_are_measured_again(faulty):
    result, folder = faulty[0], faulty[0].run_folder
    members = {row["trial"]: row for row in result.front}
    # equal objectives: both stay
    assert set(members) == {by_fault(result)[0]["trial"], by_fault(result)[4]["trial"]}
    for number, row in members.items():
        assert row["artifact"] == f"artifacts/trial-{number:04d}"
        assert (folder / row["artifact"] / "weights").read_text() == "2"
        assert row["again"] == 2 and row["loss_again"] == pytest.approx(1 / 3 + 0.015)
        assert row["loss_again_sd"] == pytest.approx(0.01 / 2**0.5)
        assert (row["seeds"] == 3 and row["loss_seeds"] == pytest.approx(1 / 3 + 1.001)
                and row["size_seeds_sd"] == 0.0)
        assert row["loss_seeds_sd"] == pytest.approx(0.001), "seeds 1000, 1001 and 1002"
    assert len((folder / "front.csv").read_text().splitlines()) == 1 + len(members)


def test_nothing_useless_stays_in_the_run_folder(faulty):
    kept = {path.name for path in faulty[0].run_folder.iterdir()}
    assert {"space.yaml", "run.json", "events.jsonl", "trials.parquet", "front.csv",
            "study.journal", "artifacts"} <= kept
    assert not kept & {"scratch", "trials"}
    assert RunFolder.open(faulty[0].run_folder).state == "finished"


def test_after_ctrl_c_and_after_a_killed_board_resume_runs_only_the_rest(ray_session, tmp_path):
    space, ended, where = make_space(), [], []

    def impatient(event):
        where.extend([event["run"]] if event["event"] == "run_started" else [])
        if event["event"] == "trial_finished":
            ended.append(event["trial"])
            if len(ended) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(space, tmp_path, observer=impatient)
    folder = RunFolder.open(Path(where[0]))
    assert folder.state == "interrupted" and not folder.is_live()
    assert [row["trial"] for row in folder.rows() if row["state"] == "complete"] == ended
    assert (folder.path / "front.csv").exists() and folder.meta["spent"] > 0

    def deadly(event):
        if event["event"] == "trial_finished" and event["complete"] == 3:
            (broker,) = (child for child in psutil.Process().children(recursive=True)
                         if "ray::Broker" in child.cmdline()[0])
            broker.kill()

    with pytest.raises(RunError, match="the process that hands out the workers died"):
        run(space, tmp_path, observer=deadly, resume=folder.path)
    assert folder.state == "failed" and not folder.is_live() and not (folder.path / "scratch").exists()

    result, events = run(space, tmp_path, resume=folder.path)
    assert events[0]["resumed"] and events[0]["complete"] >= 3
    complete = [row for row in folder.rows() if row["state"] == "complete" and "again" not in row]
    assert sorted(row[f"config.{WORTH}"] for row in complete) == [0, 1, 2, 3, 4, 5]
    assert max(finished_once(tmp_path).values()) == 1
    assert result.state == "finished" and len(result.front) == 6

    # nothing is left to do, so no worker is started
    result, events = run(space, tmp_path, resume=folder.path)
    assert [event["event"] for event in events] == ["run_started", "run_finished"]


def test_a_trial_that_hangs_is_ended_its_worker_replaced_and_waiting_for_workers_is_no_hanging(ray_session,
                                                                                               tmp_path):
    space = make_space(search={"adapt.optim.clip": {"choice": [0.1, 600.0, 0.2]}}, finish={"repeats": 0},
                       # seconds per rung; a worker takes about as long to start, and a busy machine is slow
                       budget={"trial_time": "4s"})
    result, events = run(space, tmp_path)
    ends = {row["config.adapt.optim.clip"]: row
            for row in RunFolder.open(result.run_folder).rows() if row["state"] != "rung"}
    assert ({seconds: row["state"] for seconds, row in ends.items()}
            == {0.1: "complete", 600.0: "failed", 0.2: "complete"})
    assert (ends[600.0]["reason"] == "it said nothing for 4 s (budget.trial_time)"
            and 4 < ends[600.0]["seconds"] < 30)
    assert len({row["pid"] for row in ends.values() if row["state"] == "complete"}) == 2
    assert sum("a worker group died and is replaced" in event.get("message", "") for event in events) == 1
    assert result.state == "finished" and max(finished_once(tmp_path).values()) == 1


def test_a_users_mistake_while_preparing_leaves_nothing_behind(ray_session, tmp_path):
    space = make_space(trial={"base": {"seed": 666}})  # see `toy_jobs.prepare`
    with pytest.raises(UserError, match="no such text"):
        run(space, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.fixture
def no_ray(monkeypatch):
    """Whoever connects is told of one free place, on no cluster."""
    class Room:
        address, local = "nowhere", True

        def room(self, hardware):
            return 1

    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr("search.distributed.cluster.connected", lambda *_: nullcontext(Room()))


@pytest.mark.parametrize("space, options, message", [
    ({"sampler": "nonsense"}, {}, "space: sampler: unknown sampler 'nonsense'"),
    ({"sampler": {"name": "tpe", "nonsense": 1}}, {}, "space: sampler.nonsense: "),
    ({"scheduler": {"name": "halving", "eta": 1}}, {}, "space: scheduler.eta: "),
    ({}, {"max_concurrent": 0}, "max_concurrent is 0; legal: at least 1"),
    ({}, {"cpus": -1}, "cpus is -1; legal: at least 1"),
    ({}, {"resume": "a", "warm_start": "b"}, "resume and warm_start contradict each other"),
    ({}, {"warm_start": "nowhere"}, "nowhere is not a run folder"),
])
def test_a_users_mistake_from_python_leaves_nothing_behind(no_ray, tmp_path, space, options, message):
    with pytest.raises(UserError) as mistake:
        run(make_space(**{"budget": {"trials": 3}, **space}), tmp_path, **options)
    assert message in str(mistake.value) and "\n" not in str(mistake.value)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


@pytest.mark.parametrize("error", [UserError("the space was wrong"), TypeError("a bug"), KeyboardInterrupt()])
def test_a_run_that_cannot_be_opened_leaves_nothing_behind(no_ray, tmp_path, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(sweep, "open_search", broken)
    with pytest.raises(type(error)):
        run(make_space(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_breaks_down_says_that_it_has_failed_and_why(no_ray, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise ModuleNotFoundError("No module named 'nonsense'")

    monkeypatch.setattr("search.distributed.worker_pool.WorkerPool", broken)
    with pytest.raises(ModuleNotFoundError):
        run(make_space(), tmp_path)
    (folder,) = (RunFolder.open(path) for path in tmp_path.iterdir() if path.name.startswith("toy"))
    why = "ModuleNotFoundError: No module named 'nonsense'"
    assert (folder.state, folder.meta["reason"], list(folder.events())[-1]["reason"]) == ("failed", why, why)
    assert main(["status", str(folder.path)]) == 0 and f"failed: {why}" in capsys.readouterr().out


def test_resuming_with_another_space_is_refused(ray_session, faulty):
    with pytest.raises(UserError, match="a run of another space: "):
        run(make_space(), None, resume=faulty[0].run_folder)
    with pytest.raises(UserError, match="is not a run folder"):
        run(make_space(), None, resume=faulty[0].run_folder / "artifacts")


def test_storage_that_cannot_be_written_is_refused_before_ray(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match="cannot write to the storage"):
        run(make_space(), tmp_path / "file" / "runs")


def test_a_run_ends_in_order_where_a_killed_session_left_a_torn_table(tmp_path):
    space = make_space()
    with RunFolder.create(tmp_path, "toy", space.to_yaml()) as folder:
        stages = sweep.RunStages(space, folder, tmp_path / "cache", 1, lambda event: None)
        number = stages.engine.ask().number
        stages.engine.report(number, {"rung": 1, "steps": 10, "final": True, "loss": 1.0, "size": 2.0})
        (folder.path / "trials.parquet").write_bytes(b"PAR1 and no more")
        stages.close("finished")
    assert pyarrow.parquet.read_table(folder.path / "trials.parquet").num_rows == 1
    assert (folder.path / "front.png").stat().st_size > 1000 and folder.state == "finished"


def test_a_full_disk_is_one_line_whoever_meets_it_and_another_error_is_a_bug(tmp_path):
    message = "cannot be written: No space left on device; make room, then go on with --resume"
    with pytest.raises(RunError, match=message), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "nothing").read_text()


def test_the_unquantized_arm_is_the_point_without_quantizer_and_adapter():
    quantizer = {"quantization.quantizer": {"choice": ["binary", "none"]}}
    searched = {**quantizer, "lora.rank": {"choice": [0, 4]}}
    assert first_points.unquantized_point(make_space(search=searched)) == {
        "quantization.quantizer": "none", "lora.rank": 0}
    assert first_points.unquantized_point(make_space(search=quantizer)) == {"quantization.quantizer": "none"}
    assert first_points.unquantized_point(make_space()) is None
    always = make_space(search={"quantization.quantizer": {"choice": ["binary"]}})
    assert first_points.unquantized_point(always) is None


def test_a_start_point_that_is_the_unquantized_arm_settles_it():
    search = {"quantization.quantizer": {"choice": ["binary", "none"]}, "lora.rank": {"choice": [0, 4]},
              WORTH: {"int": [0, 5]}}
    arm, other = ({"quantization.quantizer": "none", "lora.rank": 0, WORTH: 3},
                  {"quantization.quantizer": "binary"})
    assert sweep.first_points(make_space(search=search)) == [
        ({"quantization.quantizer": "none", "lora.rank": 0}, "unquantized")]
    assert (sweep.first_points(make_space(search=search, start=[other, arm]))
            == [(arm, "unquantized"), (other, None)])
    assert sweep.first_points(make_space(start=[{WORTH: 2.0}])) == [({WORTH: 2}, None)]


# ---- drivers in processes of their own, on clusters of their own

DRIVEN = make_space(trial={"adapt": {"optim": {"clip": 0.2}}})  # seconds per rung


@pytest.fixture
def driver(tmp_path, worker_path, warm_env):
    """A driver of `DRIVEN` with its storage at tmp_path/runs; it is killed in the end."""
    (tmp_path / "space.yaml").write_text(DRIVEN.to_yaml())
    command = [sys.executable, str(HERE / "toy_driver.py"), str(tmp_path / "space.yaml"),
               str(tmp_path / "runs")]
    path = os.pathsep.join([worker_path, warm_env["PYTHONPATH"]])
    process = subprocess.Popen(command, env={**os.environ, **warm_env, "PYTHONPATH": path}, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def read_until(process, count):
    """Read events until that many trials have finished; all lines."""
    lines = []
    for line in process.stdout:
        lines.append(line.split())
        if sum(words[0] == "trial_finished" for words in lines) == count:
            return lines
    pytest.fail(f"the driver ended early: {lines}")


def test_a_killed_driver_loses_no_finished_trial_and_repeats_none(ray_session, driver, tmp_path):
    """Another process, on another cluster, goes on with its run."""
    read_until(driver, 2)
    driver.kill()
    driver.wait()
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("toy"))
    before = [row["trial"] for row in RunFolder.open(folder).rows() if row["state"] == "complete"]
    assert len(before) >= 2 and RunFolder.open(folder).state == "interrupted"
    result, events = run(DRIVEN, tmp_path / "runs", resume=folder)
    assert result.state == "finished"
    assert not {event["trial"] for event in events if event["event"] == "trial_finished"} & set(before)
    complete = [row
                for row in RunFolder.open(folder).rows() if row["state"] == "complete" and "again" not in row]
    assert sorted(row[f"config.{WORTH}"] for row in complete) == [0, 1, 2, 3, 4, 5]
    ends = finished_once(tmp_path / "runs")
    assert all(ends[str(row["trial"])] == 1 for row in complete)
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"


def test_sigint_to_the_whole_process_group_ends_the_run_in_order(driver, tmp_path):
    read_until(driver, 1)
    os.killpg(driver.pid, signal.SIGINT)
    begun = time.monotonic()
    assert driver.wait(timeout=400) == 1
    assert time.monotonic() - begun < 60
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("toy"))
    assert RunFolder.open(folder).state == "interrupted"
    assert load(folder / "space.yaml").name == "toy"
    assert not (folder / "scratch").exists()
