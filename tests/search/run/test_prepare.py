"""What trials share: made before them where all need it, when one first needs it where it is searched, each
thing once."""

import json
from collections import Counter

import pytest

from search.engine.engine import RunningTrial
from search.records.run_folder import RunFolder
from search.run import sweep
from search.run.ahead import Ahead
from search.run.prepare import SharedFolders
from search.run.validation import check_shared
from spaces.errors import RunError, UserError
from spaces.schema import Space

SEED = "base.seed"  # decides about teacher and base; 666 cannot be made, see `toy_jobs.making`
WORTH = "adapt.optim.warmup"  # see `toy_jobs.trial`


def make_space(**changes):
    return Space.from_dict({
        "name": "toy", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
        "scheduler": "none", "sampler": "grid", "finish": {"repeats": 1, "retrain": 1}, **changes})


def run(space, storage, **options):
    events = []
    return sweep.run(space, storage=storage, jobs="toy_jobs:JOBS", observer=events.append, **options), events


def made(storage):
    return Counter((storage / "cache" / "made").read_text().splitlines())


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    """Two trials for each of three bases, one of which cannot be made; two at a time."""
    storage = tmp_path_factory.mktemp("searched")
    space = make_space(search={SEED: {"choice": [1, 666, 2]}, WORTH: {"int": [0, 1]}})
    return storage, *run(space, storage, max_concurrent=2)


def test_a_bad_value_of_a_base_setting_fails_its_trials_and_no_others(searched):
    _, result, _ = searched
    rows = RunFolder.open(result.run_folder).rows()
    ends = [row for row in rows if row["state"] in ("complete", "failed") and "again" not in row]
    assert Counter((row[f"config.{SEED}"], row["state"]) for row in ends) == {
        (1, "complete"): 2, (2, "complete"): 2, (666, "failed"): 2}
    assert {row["reason"] for row in ends if row["state"] == "failed"} == {"no such text"}
    assert result.state == "finished"


def test_concurrent_trials_share_what_one_of_them_makes(searched):
    storage, result, _ = searched
    both = {f"{kind} {seed}": 1 for kind in ("teacher", "base") for seed in (1, 2)}
    assert made(storage) == {"corpus 1": 1, "teacher 666": 1, **both}
    recorded = [event for event in RunFolder.open(result.run_folder).events() if event["event"] == "prepare"]
    kinds = Counter(event["stage"].partition(" for ")[0] for event in recorded)
    assert kinds == {"corpus": 1, "teacher": 3, "base": 2}
    assert all(event["seconds"] >= 0 for event in recorded)


def test_it_is_said_before_and_while_it_is_made(searched):
    _, _, events = searched
    assert events[0]["event"] == "run_started" and events[0]["at_most"] == {"teacher": 3, "base": 3}
    told = [event for event in events if event["event"] == "prepare" and "trial" in event]
    ready = [event for event in told if event["progress"] == 1.0]
    assert Counter(event["stage"].partition(" for trial ")[0] for event in ready) == {"teacher": 2, "base": 2}
    assert all(event["stage"].endswith(f" for trial {event['trial']}") for event in ready)


def test_any_value_of_a_range_gets_its_base_however_long_that_takes(ray_session, tmp_path):
    """Teacher and base take longer (`base.optim.clip` / 5 seconds) than a trial may be silent."""
    space = make_space(search={SEED: {"int": [0, 9_999]}}, budget={"trials": 2, "trial_time": "2s"},
                       sampler="random", finish={"repeats": 0}, trial={"base": {"optim": {"clip": 12.5}}})
    result, _ = run(space, tmp_path, max_concurrent=1)
    rows = [row for row in RunFolder.open(result.run_folder).rows() if row["state"] != "rung"]
    assert [row["state"] for row in rows] == ["complete", "complete"]
    wanted = {f"{kind} {row[f'config.{SEED}']}" for kind in ("teacher", "base") for row in rows}
    assert len(wanted) == 4 and made(tmp_path) == Counter({"corpus 0": 1, **dict.fromkeys(wanted, 1)})


# ---- without workers


def test_more_bases_than_are_allowed_are_refused_in_one_line():
    text = """
name: toy
search:
  adapt.optim.lr: {log: [1.0e-4, 1.0e-2]}
  runtime.precision: {choice: [fp32, bf16]}
  diffusion.timesteps: {int: [1000, 12000]}
objectives: {size_bytes: minimize}
budget: {trials: 30}
"""
    with pytest.raises(UserError) as refused:
        check_shared(Space.from_yaml(text, "my.yaml"))
    assert str(refused.value) == (
        "my.yaml:6: search.diffusion.timesteps: up to 30 of 22,002 bases would be made for the values of "
        "runtime.precision, diffusion.timesteps, and budget.bases is 8; search fewer values (choice, "
        "or int with a step), or allow as many: --set budget.bases=30")
    check_shared(Space.from_yaml(text.replace("trials: 30", "trials: 30, bases: 30")))
    check_shared(Space.from_yaml(text.replace("trials: 30", "trials: 8")))


class Makers:
    """A client whose jobs are done at once; notes them."""

    def __init__(self):
        self.jobs, self.lent = [], []

    def map(self, tasks, on_event, watch=None):
        self.lent += [job["borrow"] for kind, job in tasks if kind == "base"]
        self.jobs.append([(kind, job["config"]["base"]["seed"], job.get("corpus")) for kind, job in tasks])
        for i, (kind, _) in enumerate(tasks):
            on_event(i, {"progress": 0.5})
            if kind == "corpus":
                on_event(i, {"progress": 1.0, "path": "/corpus"})
        return [{"path": f"/{kind}-{job['config']['base']['seed']}"} for kind, job in tasks]


class Records:
    """An engine as far as it is told of what is made."""

    spent: str | None = None

    def __init__(self):
        self.said, self.folder = [], self

    def emit(self, event, **more):
        self.said.append((more["stage"], more["progress"]))

    def add_shared_seconds(self, seconds):
        self.busy = seconds

    def event(self, event):
        self.recorded = event


@pytest.fixture
def shared(tmp_path):
    space = make_space(search={SEED: {"choice": [1, 2, 3]}, "lora.rank": {"choice": [0, 4]}})
    return SharedFolders(space, Makers(), tmp_path, Records()), space


class MadeMeanwhile(Ahead):
    """A corpus that is there after two looks."""

    busy = True

    def wait(self, watch):
        watch()
        watch()
        self.busy, self.seconds = False, 2.5


def test_a_corpus_that_is_being_made_is_told_of_and_waited_for_within_the_budget(shared):
    things, _ = shared
    ahead = MadeMeanwhile()
    things.make_common(ahead)
    assert things.engine.said[0] == ("corpus", 0.0) and not ahead.busy
    assert things.client.jobs == [[("corpus", 1, None)], []]  # the job takes it, and checks targets
    assert things.engine.recorded["stage"] == "corpus" and things.engine.recorded["ahead_seconds"] == 2.5
    assert things.engine.recorded["seconds"] < 2
    things.engine.spent = "time"
    with pytest.raises(RunError, match=r"the time budget was used up .*\(corpus 0% ready\)"):
        things.make_common(MadeMeanwhile())


def test_what_all_trials_need_comes_first_and_nothing_twice(shared):
    things, space = shared
    things.make_common()
    assert things.client.jobs == [[("corpus", 1, None)], []]
    configs = [space.config({SEED: seed, "lora.rank": rank}) for seed in (1, 2) for rank in (0, 4)]
    assert things.made(configs[0]) == {"corpus": "/corpus-1"}
    things.make(configs)
    both = [(kind, seed, "/corpus-1") for kind in ("teacher", "base") for seed in (1, 2)]
    assert things.client.jobs[2:] == [[], both]
    assert things.engine.said[-1] == ("base 2 of 2", 0.5)
    things.make(configs)
    assert things.client.jobs[4:] == [[], []]
    assert things.of(configs[3]) == {"corpus": "/corpus-1", "teacher": "/teacher-2", "base": "/base-2"}


def taken(base):
    return json.dumps({"latency_ms": float(base[-1]), "yardstick_ms": 0.5, "size_bytes": 8.0})


def test_what_a_base_takes_goes_to_the_trials_that_start_from_it(tmp_path):
    class Timing(Makers):
        def map(self, tasks, on_event, watch=None):
            return [{**event, "reference": taken(event["path"])} if "base" in event["path"] else event
                    for event in super().map(tasks, on_event, watch)]

    space = make_space(search={SEED: {"choice": [1, 2]}})
    things = SharedFolders(space, Timing(), tmp_path, Records())
    one, two = (space.config({SEED: seed}) for seed in (1, 2))
    things.make([one, two])
    assert [things.of(config)["reference"] for config in (one, two)] == [taken("/base-1"), taken("/base-2")]
    assert things.request(two)[0]["reference"] == taken("/base-2")
    assert things.base_figures(two) == {"latency_ms": 2.0, "size_bytes": 8.0}


@pytest.mark.parametrize(("deterministic", "lent"), [(0, [True, False]), (2, [False, False])])
def test_idle_processors_are_lent_before_the_first_trial_unless_the_search_is_to_be_the_same(
        tmp_path, deterministic, lent):
    space = make_space(deterministic=deterministic, search={"lora.rank": {"choice": [0, 4]}})
    things = SharedFolders(space, Makers(), tmp_path, Records())
    things.make_common()
    other = space.example.base.model_copy(update={"seed": 9})
    things.make([space.example.model_copy(update={"base": other})])
    assert things.client.lent == lent


@pytest.mark.parametrize(("path", "where"), [
    ("calibration.texts", "my.yaml:5: search.calibration.texts: 99"),
    ("calibration.levels", "my.yaml:4: trial.calibration.levels: 99"), ("base", "base: 99")])
def test_what_a_job_refuses_has_its_place_in_the_file(path, where, tmp_path):
    class Refusing(Makers):
        def map(self, tasks, on_event, watch=None):
            _, job = tasks[0]
            raise UserError(f"{path}: {job['config']['calibration']['texts']} asked for")

    text = """
objectives: {loss: minimize}
budget: {trials: 2}
trial: {calibration: {method: rtn, levels: 2}}
search: {calibration.texts: {choice: [4, 99, 8]}}
"""
    things = SharedFolders(Space.from_yaml(text, "my.yaml"), Refusing(), tmp_path, Records())
    with pytest.raises(UserError) as refused:
        things.make_common()
    assert str(refused.value) == f"{where} asked for"


def test_what_a_trial_made_is_known_to_later_ones(shared):
    things, space = shared
    things.make_common()
    trial = RunningTrial(7, {}, space.config({SEED: 3, "lora.rank": 0}), None, 0.0)
    things.note(trial, {"kind": "teacher", "progress": 0.5})
    things.note(trial, {"kind": "teacher", "progress": 1.0, "seconds": 2.0, "path": "/t"})
    things.note(trial, {"kind": "base", "seconds": 3.0, "failed": "it diverged"})
    assert things.engine.said[-2:] == [("teacher for trial 7", 0.5), ("teacher for trial 7", 1.0)]
    assert things.engine.recorded == {"kind": "base", "failed": "it diverged", "event": "prepare",
                                      "stage": "base for trial 7", "seconds": 3.0}
    prepared, request = things.request(space.config({SEED: 3, "lora.rank": 4}))
    assert prepared == {"corpus": "/corpus-1", "teacher": "/t"}
    assert list(request["settings"]) == ["corpus", "teacher", "base"]


def test_settings_that_nothing_depends_on_make_no_further_base(tmp_path):
    """What is told to no model is dropped from no text."""
    space = make_space(search={"diffusion.condition_drop": {"choice": [0.1, 0.2]}})
    things = SharedFolders(space, Makers(), tmp_path, Records())
    things.make([space.config({"diffusion.condition_drop": value}) for value in (0.1, 0.2)])
    assert [kind for kind, *_ in things.client.jobs[1]] == ["teacher", "base"]
