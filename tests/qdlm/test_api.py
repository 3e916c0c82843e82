"""`import qdlm`: what it costs, what it finds in a run, what it runs, and what it says of bad input."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from docs_world import World, artifact
from report_runs import write_run

import qdlm
from search.cli.main import main
from search.records.run_folder import RunFolder
from search.run import sweep

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"name": "small", "search": {"lora.rank": {"int": [0, 8]}}, "objectives": {"perplexity": "minimize"}}
BUDGET = {"budget": {"trials": 3}}
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    return World(tmp_path_factory.mktemp("world"), re.search(r"^```yaml\n(.*?)^```", text, re.S | re.M)[1])


@pytest.fixture(scope="module")
def run_path(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs"), 30)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> Path:
    return artifact(tmp_path_factory.mktemp("models") / "trial-0001", quantizer="binary")


def python(program: str, *arguments: object, cwd: Path = ROOT) -> str:
    """What a program prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)], cwd=cwd,
                          capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_nothing_but_itself():
    loaded = python("""
        import sys
        before = set(sys.modules)
        import qdlm
        own = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(*sorted(own - sys.stdlib_module_names))
        print(len(dir(qdlm)) > len(qdlm.__all__), qdlm.UserError.__mro__[1].__name__)
    """).splitlines()
    assert loaded == ["qdlm spaces", "True ValueError"]


def test_every_name_is_there_and_documented():
    found = doctest.testmod(qdlm)
    assert found.failed == 0 and found.attempted == 3
    assert all(getattr(qdlm, name).__doc__ for name in qdlm.__all__ if name != "EngineEvent")
    assert re.match(r"\d+\.\d+", qdlm.__version__)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        qdlm.serach  # noqa: B018


def test_a_light_install_runs_models_and_says_what_a_search_needs(model_path, run_path, tmp_path):
    """In a process that finds none of the packages of `qdlm[search]`."""
    shown = python("""
        import io, sys
        from contextlib import redirect_stderr, redirect_stdout
        from spaces.extras import SEARCH
        artifact, run = sys.argv[1:]
        sys.modules.update(dict.fromkeys((*SEARCH, "typer", "rich")))
        from trainable.benchmarking import bench
        # that is taken in another process, which finds them
        bench.weight = lambda *_: dict.fromkeys(("disk", "weights", "resident", "peak"), 1)
        import qdlm
        model = qdlm.load(artifact)
        print(*model.generate(2, seed=2), sep="|")
        print(*model.generate(2, control={"length": 6, "food": "Italian"}), sep="|")
        del sys.modules["typer"], sys.modules["rich"]
        from search.cli.main import main
        print(main(["generate", artifact, "-n", "2", "--seed", "2"]))
        with redirect_stdout(io.StringIO()) as told:
            assert main(["bench", artifact, "--batch", "1", "--repeats", "2", "--out", "bench"]) == 0
        print("sentences/s" in told.getvalue(), main(["export", artifact, "--to", "hf", "--out", "export"]))
        with redirect_stderr(io.StringIO()) as errors:
            print(main(["front", run]), main(["run", "quickstart"]), main(["plugins", "samplers"]))
        for call in (lambda: qdlm.open(run), lambda: qdlm.run("quickstart"), lambda: qdlm.load("s3://a/b")):
            try:
                call()
            except qdlm.UserError as error:
                print(error, file=errors)
        print(errors.getvalue())
    """, model_path, run_path, cwd=tmp_path).splitlines()
    print(*shown, sep="\n")
    assert shown[0].split("|") == qdlm.load(model_path).generate(2, seed=2)
    assert len(shown[1].split("|")) == 2 and shown[2:4] == shown[0].split("|")


def test_the_same_text_as_from_the_command_line(model_path, capsys):
    assert main(["generate", str(model_path), "-n", "4", "--control", "length=6", "--seed", "3"]) == 0
    model = qdlm.load(model_path)
    assert capsys.readouterr().out.splitlines() == model.generate(4, "length=6", seed=3)
    row = next(model.samples(1, {"length": 6}, seed=3))
    assert row["text"] == model.generate(4, ["length=6"], seed=3)[0] or row["oracle"] == "count"
    assert model.config.quantization.quantizer.name == "binary" and model.path == model_path


@pytest.mark.parametrize("call, said", [
    (lambda model: model.generate(0), "n: 0 sentences"),
    (lambda model: model.generate(1, steps=0), "steps: 0"),
    (lambda model: model.generate(1, {"lenght": 3}), "did you mean 'length'"),
    (lambda model: qdlm.load(model.path / "none"), "no such folder"),
    (lambda model: qdlm.load(model.path.parent), "is not an artifact"),
    (lambda model: qdlm.open(model.path), "is not a run folder"),
    (lambda model: qdlm.run(), "which space?"), (lambda model: qdlm.run(3), "space: int is none"),
    (lambda model: qdlm.run("quickstrat"), "did you mean 'quickstart'"),
    (lambda model: qdlm.run("quickstart", callbacks=[4]), "callbacks: 4 cannot be called"),
    (lambda model: qdlm.run("quickstart", within=["size_bytes < 3"]), "within: 'size_bytes < 3' is not"),
    (lambda model: qdlm.run("quickstart", seed=1, settings={"seed": 2}), "the same setting twice"),
    (lambda model: qdlm.run("quickstart", address="ray://a:1"), "with address='auto'"),
    (lambda model: qdlm.run("quickstart", resume="a", warm_start="b"), "contradict each other"),
    (lambda model: qdlm.run({**KEYS, **BUDGET, "objectives": {"perplexty": "minimize"}}), "perplexty"),
    (lambda model: qdlm.run(KEYS), "the search would never end"),
])
def test_bad_input_is_one_line(model_path, call, said):
    with pytest.raises(qdlm.UserError) as found:
        call(qdlm.load(model_path))
    assert said in str(found.value) and "\n" not in str(found.value)


def test_a_run_as_records(run_path):
    run = qdlm.open(run_path)
    assert run.state == "finished" and run.name == run_path.name and run.space.name == "toy"
    front, trials = run.front, run.trials
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.number for trial in front} == {trial.number for trial in trials if trial.on_front}
    table = run.to_pandas()
    assert len(table) == 30 and table["config.lora.rank"].isin([0, 4, 8]).all()
    assert table.loc[9, "state"] == "failed" and table.loc[9, "why"].startswith("</script>")
    complete = next(trial for trial in trials if trial.state == "complete")
    assert [steps for steps, _ in complete.rungs] == [10, 40] and complete.steps == 40
    assert complete.device_hours == pytest.approx(3.0 / 3600) and complete.money is None


def test_what_became_of_each_trial(run_path):
    run = qdlm.open(run_path)
    for trial in run.trials:
        if trial.state != "complete":
            assert trial.why and not trial.on_front
        elif trial.metrics["latency_ms"] > 40:
            assert trial.why.startswith("breaks latency_ms <= 40 by ")
        elif not trial.on_front:
            rival = run.trials[int(re.match(r"dominated by (\d+)", trial.why)[1])]
            assert rival.metrics["perplexity"] <= trial.metrics["perplexity"]
            assert rival.metrics["latency_ms"] <= trial.metrics["latency_ms"]
        else:
            assert trial.why == "on the front"


def test_the_best_within_bounds(run_path):
    run = qdlm.open(run_path)
    fast = run.best("latency_ms")
    assert fast.metrics["latency_ms"] == min(trial.metrics["latency_ms"] for trial in run.front)
    bounded = run.best(within=f"latency_ms <= {fast.metrics['latency_ms'] + 0.01}")
    assert bounded.number == fast.number and run.best("knee").on_front
    for metric, within, said in (("latency", (), "best: latency: not an objective"),
                                 (None, "latency_ms <= 1 kB", "within: "),
                                 (None, ["latenzy <= 1"], "within latenzy <= 1: unknown metric"),
                                 (None, ["latency_ms <= 1"], "no complete trial is within all bounds")):
        with pytest.raises(qdlm.UserError) as found:
            run.best(metric, within)
        assert said in str(found.value)


def test_a_trial_that_is_not_on_the_front_has_no_model(run_path):
    other = next(trial for trial in qdlm.open(run_path).trials if not trial.on_front)
    with pytest.raises(qdlm.UserError, match=f"trial {other.number} has no exported model"):
        qdlm.load(other)


def test_trials_that_have_not_ended(tmp_path):
    """A killed session's are lost; of a run that lives, those that only were proposed are told too."""
    space = qdlm.Space.from_dict({**KEYS, "budget": {"trials": 3, "price": 2.0},
                                  "hardware": {"cpus": 2, "workers": 2}})
    with RunFolder.create(tmp_path, "halves", space.to_yaml()) as folder:
        folder.event({"event": "ask", "trial": 0, "values": {"lora.rank": 3}})
        folder.append({"trial": 0, "rung": 0, "state": "rung", "fidelity": 5, "perplexity": 9.0,
                       "config.lora.rank": 3, "seconds": 900.0})
        folder.event({"event": "ask", "trial": 1, "values": {"lora.rank": 4}})
        begun, asked = qdlm.open(folder.path).trials
        assert begun.state == "running" and begun.metrics == {"perplexity": 9.0}
        assert begun.device_hours == 1.0 and begun.money == 2.0, "2 workers of 2 CPUs, a quarter of an hour"
        assert (asked.state, asked.params, asked.seconds) == ("running", {"lora.rank": 4}, 0.0)
    assert {trial.state for trial in qdlm.open(folder.path).trials} == {"lost"}


def test_what_was_measured_anew_is_believed(tmp_path):
    """The better of two by one measurement each is beaten when both are measured again."""
    space = qdlm.Space.from_dict({**KEYS, **BUDGET})
    with RunFolder.create(tmp_path, "again", space.to_yaml()) as folder:
        for trial, (own, anew) in enumerate(((5.0, 9.0), (6.0, 6.0))):
            folder.append({"trial": trial, "rung": 0, "state": "complete", "config.lora.rank": trial,
                           "perplexity": own, "perplexity_se": 0.1, "perplexity_again": anew,
                           "perplexity_se_again": 0.1, "again": 1, "seconds": 1.0})
    run = qdlm.open(folder.path)
    assert [trial.number for trial in run.front] == [0]
    assert run.front[0].why == "on the front, and held its place when measured anew"
    with pytest.raises(qdlm.UserError, match="trial 0 is left out: measured anew, its perplexity is 9"):
        run.best(within=["perplexity <= 5.5"])
    assert run.best(within=["perplexity <= 6.5"]).number == 1


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A stand-in for the sweep that says what it was asked, and tells callbacks two events."""
    monkeypatch.chdir(tmp_path)
    fake = SimpleNamespace()

    def search(space, **options):
        fake.space, fake.options = space, options
        for kind in ("run_started", "run_finished"):
            for callback in options["callbacks"]:
                callback({"event": kind, "name": space.name})
        return SimpleNamespace(run_folder=options["resume"] or RunFolder.create(
            tmp_path / "runs", space.name, space.to_yaml()).path)

    monkeypatch.setattr(sweep, "run", search)
    return fake


def test_arguments_reach_space_and_sweep(asked):
    told = []
    run = qdlm.run("quickstart", n_trials=3, timeout=90, within=["size_bytes <= 200kB"], seed=7,
                   settings={"trial.adapt.optim.batch_size": 8}, storage="kept", max_concurrent=2,
                   callbacks=[told.append], progress=False)
    assert (asked.space.budget.trials, asked.space.budget.time, asked.space.seed) == (3, 90.0, 7)
    assert [str(bound) for bound in asked.space.constraints][-1] == "size_bytes <= 200000"
    assert asked.space.form.trial["adapt"]["optim"]["batch_size"] == 8
    assert asked.options["storage"] == "kept" and asked.options["max_concurrent"] == 2
    assert isinstance(run, qdlm.Run) and [event["event"] for event in told] == ["run_started", "run_finished"]

    qdlm.run(resume=run, n_trials=5, progress=False)
    assert asked.space.budget.trials == 5 and asked.options["resume"] == run.path
    with pytest.raises(qdlm.UserError, match="cannot go on with other settings: seed: 9 here, 7 in the run"):
        qdlm.run(resume=run, seed=9)


def test_a_space_may_be_keys_or_an_object(asked):
    earlier = qdlm.run(KEYS, n_trials=2, progress=False)
    once = asked.space
    qdlm.run(qdlm.Space.from_dict({**KEYS, **BUDGET}), n_trials=2, warm_start=earlier, progress=False)
    assert asked.space.resolved() == once.resolved() and once.name == "small"
    assert asked.options["warm_start"].is_dir()


def test_a_callback_is_called_by_the_kind_of_event():
    heard = []

    class Listener(qdlm.Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda event: heard.append((name, event["event"]))
            return super().__getattribute__(name)

    listener = Listener()
    for kind in ("run_started", "prepare", "warm_start", "trial_started", "rung", "front", "warning",
                 "run_finished"):
        listener({"event": kind})
    for state in ("complete", "stopped", "failed"):
        listener({"event": "trial_finished", "state": state})
    assert [name for name, _ in heard] == [
        "on_run_start", "on_prepare", "on_warm_start", "on_trial_start", "on_trial_result", "on_front_change",
        "on_warning", "on_run_end", "on_trial_complete", "on_trial_complete", "on_trial_error"]
    qdlm.Callback()({"event": "front"})


def test_the_examples_of_the_page_run(world, monkeypatch, capsys):
    world.enter(monkeypatch)
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M))
    program = program.replace('"RUN"', repr(str(world.run))).replace('"ARTIFACT"', repr(str(world.artifact)))
    names: dict = {}
    exec(compile(program, "docs/python.md", "exec"), names)
    assert len(world.searched) == 2 and world.searched[-2]["space"].budget.trials == 16
    assert sorted(path.name for path in names["folder"].iterdir())[:2] == ["README.md", "config.json"]
    assert len(names["texts"]) == 4 and names["size"] > 100 and len(names["table"]) == 12
    assert capsys.readouterr().out.splitlines()[0] == "finished toy"
