"""Classifier-free guidance: what a model is told, what it learns of it, and that a model that is told
nothing is as it was."""


import numpy as np
import pytest
import torch
from control_corpora import CORPORA, LENGTH

from search.cli.main import main
from search.run.validation import load_checked
from spaces import points
from spaces.config import GuidanceConfig, OptimConfig, PluginRef, RuntimeConfig, SamplingConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.control.conditions import (
    Conditions,
    check_conditioned,
    check_conditions,
    conditionable,
    draw_conditions,
    encode_conditions,
    symbols_of,
)
from trainable.control.generating import guided
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.prediction import Prediction
from trainable.registry import TASKS
from trainable.stages.prepare import base_key
from trainable.training.loop import TrainingRun
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

SHAPE = DiffusionLMConfig(embedding_dim=8, hidden=32, layers=2, heads=2, ffn=64, time_dim=8, positions=32,
                          dropout=0.0, self_conditioning=True, normalize_embeddings=True)
VOCAB = ["START", "END", "UNK", "PAD", "a", "b", "c"]
SYMBOLS = ["length word", "length end", "length after"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def task_of(name):
    return TASKS.build(PluginRef(name=name))


def model_of(symbols=(), loss="ce"):
    return DiffusionLM(SHAPE, GaussianConfig(timesteps=50, loss=loss), VOCAB, 3, symbols).eval()


# ---- what is told ----

@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.parametrize("name", conditionable())
def test_every_target_can_be_told_and_targets_are_told_apart(name, kind):
    corpus, task = CORPORA[kind], task_of(name)
    symbols = {symbol: i
               for i, symbol in enumerate(symbols_of([PluginRef(name=name)], Lexicon.of(corpus)), 1)}
    targets = task.targets(corpus, 40, seeded())
    conditions = encode_conditions(task, targets, symbols, LENGTH)
    assert (conditions.shape[0] == 40 and conditions.shape[2] == LENGTH
            and (conditions != 0).any(2).any(1).all())
    assert all(symbol.startswith(f"{name} ") for symbol in symbols) and conditions.max() <= len(symbols)
    same = [[task.code(a) == task.code(b) for b in targets] for a in targets]
    assert [[torch.equal(a, b) for b in conditions] for a in conditions] == same


def test_lengths_tags_and_phrases_stand_where_they_belong():
    assert task_of("length").condition({"length": 2}, 5) == [["", "length word", "length word", "length end",
                                                              "length after"]]
    assert (task_of("pos").condition({"tags": ["DET", "NOUN"]}, 5)
            == [["", "pos DET", "pos NOUN", "pos EDGE", ""]])
    assert task_of("spans").condition({"span": [1, 2, "NP"]}, 5) == [["", "", "spans (NP", "spans NP)", ""]]
    one = task_of("tree").condition({"spans": [[0, 0, "NN-weird"]], "words": 1}, 3)
    assert one == [["", "tree (X", ""], ["", "tree X)", ""], ["", "", "tree end"]]
    both = task_of("compose").condition({"parts": [{"field": "food", "value": "Thai"}, {"tags": ["X"]}]}, 3)
    assert both == [["semantic food = Thai"] * 3, ["", "pos X", "pos EDGE"]]


def test_what_a_model_was_never_told_is_named():
    symbols = {"semantic food = Thai": 1, "semantic food = French": 2}
    with pytest.raises(UserError, match="never told 'semantic food = Greek' .* food = Thai, food = French"):
        encode_conditions(task_of("semantic"), [{"field": "food", "value": "Greek"}], symbols, 4)
    with pytest.raises(UserError, match="'length word' .*; length is not among its model.conditions"):
        encode_conditions(task_of("length"), [{"length": 2}], symbols, 6)
    with pytest.raises(UserError,
                       match="'infill' cannot be told to a model; legal: length, semantic, pos, spans, tree"):
        check_conditions([PluginRef(name="infill")])
    with pytest.raises(UserError, match="'length' is there twice"):
        check_conditions([PluginRef(name="length"), PluginRef(name="length", tolerance=1)])
    conditions = [PluginRef(name="semantic")]
    check_conditioned(task_of("semantic"), "both", conditions)
    check_conditioned(task_of("pos"), "gradient", ())
    with pytest.raises(
            UserError,
            match=r"'compose' is led by both, and 'pos' is not among model.conditions \(semantic\)"):
        check_conditioned(task_of("compose"), "both", conditions)


def test_texts_are_told_as_often_as_asked_for():
    """Task 0 tells symbol 1; task 1 draws symbols 2 and 3 of every text; text 0 has no target of task 1."""
    first = torch.ones(4, 1, 1, 2, dtype=torch.int16)
    second = torch.tensor([2, 3], dtype=torch.int16).view(1, 2, 1, 1).repeat(4, 1, 1, 2)
    second[0] = 0
    conditions = Conditions([first, second], drop=0.2).at([3] * 40_000, seeded())
    assert conditions.shape == (40_000, 3, 2)
    seen = (conditions[:, :, 0] != 0).double()
    silent = (seen.sum(1) == 0).double().mean()
    assert silent.item() == pytest.approx(0.2, abs=0.01)
    assert seen[:, 0].mean().item() == pytest.approx(0.8 * (0.5 + 0.5 * 0.25), abs=0.01)
    two, three = seen[:, 1].bool(), seen[:, 2].bool()
    assert (two | three).double().mean().item() == pytest.approx(0.8 * 0.625, abs=0.01)
    assert (two & three).double().mean().item() == pytest.approx(0.8 * 0.625 / 2, abs=0.01)
    assert ((two & ~three).double().mean().item()
            == pytest.approx((three & ~two).double().mean().item(), abs=0.01))
    assert Conditions([first, second], 0.0).at([0] * 500, seeded())[:, 1:].sum() == 0
    assert Conditions([first], 1.0).at([1, 2], seeded()).sum() == 0


def test_texts_give_their_different_targets():
    corpus = CORPORA["restaurant"]
    symbols = {symbol: i
               for i, symbol in enumerate(symbols_of([PluginRef(name="semantic")], Lexicon.of(corpus)), 1)}
    conditions = draw_conditions(task_of("semantic"), corpus, symbols, LENGTH)
    names = {i: symbol for symbol, i in symbols.items()}
    for row in range(20):
        said = {names[int(i)] for i in conditions[row, :, 0, 0] if i}
        true = {f"semantic {field} = {value}"
                for field, value in corpus.rows("train", [row])[0]["fields"].items()}
        assert said and said <= true and len(said) == int((conditions[row, :, 0, 0] > 0).sum())
    assert draw_conditions(task_of("length"), corpus, {symbol: i for i, symbol in enumerate(SYMBOLS, 1)},
                           LENGTH).shape[1] == 1


# ---- the model ----

def test_a_model_that_is_told_nothing_is_as_it_was():
    plain, able = model_of(), model_of(SYMBOLS)
    assert "condition_embedding.weight" not in plain.state_dict()
    assert all(torch.equal(value, able.state_dict()[name]) for name, value in plain.state_dict().items())
    torch.nn.init.normal_(able.condition_embedding.weight[1:])
    x, t, nothing = (torch.randn(2, 6, 8, generator=seeded()), torch.tensor([3, 40]),
                     torch.zeros(2, 1, 6, dtype=torch.long))
    for conditions in (able.predict(x, t), able.predict(x, t, condition=nothing)):
        assert all(torch.equal(a, b) for a, b in zip(plain.predict(x, t), conditions, strict=True))
    process = GaussianSampling(able, Schedule.make("sqrt", 50), SamplingConfig(steps=6))
    free = process.sample(2, 6, seeded(1))
    assert torch.equal(free,
                       GaussianSampling(plain, process.schedule, process.config).sample(2, 6, seeded(1)))
    assert torch.equal(free, process.under(nothing, 0.0).sample(2, 6, seeded(1)))


def test_a_base_is_still_found_in_caches_made_before_models_were_told():
    space = load_checked("quickstart", {
        "trial.diffusion.mixed_times": 0.0, "trial.base.optim.name": "adamw", "trial.base.optim.steps": 6000,
        "trial.base.optim.lr": 0.01})
    config = space.config(points.complete(space.dimensions, {}))
    assert base_key(config) == "a45f8b49d4d7cc84"
    conditions = [config.model_copy(update={"model": config.model.model_copy(update={"conditions": (PluginRef(
        name=name),)})}) for name in ("length", "pos")]
    assert len({base_key(config), *map(base_key, conditions)}) == 3


def test_beyond_the_condition_by_hand():
    """Float64, from Ho and Salimans' formula: probabilities under ce, clean latents under mse."""
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(7), size=(1, 2)) for _ in range(2))
    wanted = p**3 / q**2
    wanted /= wanted.sum(-1, keepdims=True)
    conditions, free = (Prediction(torch.zeros(1, 2, 8), torch.tensor(np.log(value))) for value in (p, q))
    model = model_of().double()
    found = model.extrapolated(conditions, free, 2.0)
    assert found.log_probs.exp().detach().numpy() == pytest.approx(wanted)
    assert found.x0.detach().numpy() == pytest.approx(wanted @ model.table().detach().numpy())
    model = model_of(loss="mse").double()
    a, b = (torch.tensor(rng.normal(size=(1, 2, 8))) for _ in range(2))
    found = model.extrapolated(Prediction(a, conditions.log_probs), Prediction(b, free.log_probs), 2.0,
                               temperature=0.5)
    assert torch.equal(found.x0, 3 * a - 2 * b)
    logits = (3 * a - 2 * b) @ model.table().T / 0.5  # the head's bias is 0 before training
    assert torch.allclose(found.log_probs.double(), logits.log_softmax(-1), atol=1e-5)


def test_one_pass_predicts_what_two_would():
    model = model_of(SYMBOLS)
    torch.nn.init.normal_(model.condition_embedding.weight[1:], generator=seeded())
    x, t = torch.randn(3, 6, 8, generator=seeded()), torch.full((3,), 20)
    conditions = torch.randint(0, 4, (3, 2, 6), generator=seeded())
    under = GaussianSampling(model, Schedule.make("sqrt", 50),
                             SamplingConfig(temperature=0.7)).under(conditions, 1.5)
    wanted = model.extrapolated(model.predict(x, t, x, 0.7, conditions), model.predict(x, t, x, 0.7), 1.5)
    found = under.predict(x, t, x)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))
    assert not torch.allclose(found.log_probs, model.predict(x, t, x, 0.7).log_probs, atol=0.1)


@pytest.fixture(scope="module")
def learned():
    """A model of random words, told half of the texts how long they are."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 12, 600)
    ids = np.full((600, 16), PAD, dtype=np.int32)
    for row, size in zip(ids, sizes, strict=True):
        row[:size + 2] = [START, *rng.integers(4, 7, size), END]
    symbols = {symbol: i for i, symbol in enumerate(SYMBOLS, 1)}
    conditions = encode_conditions(task_of("length"), [{"length": int(size)} for size in sizes], symbols,
                                   16)[:, None].short()
    model = DiffusionLM(SHAPE, GaussianConfig(timesteps=50, loss="ce", mixed_times=0.5), VOCAB, 3, SYMBOLS)
    run = TrainingRun(model, Gaussian(GaussianConfig(loss="ce", timesteps=50)), ids,
                      OptimConfig(steps=250, batch_size=32, lr=5e-3, ema=0.9),
                      RuntimeConfig(), 0, torch.device("cpu"), conditions=Conditions([conditions], 0.5))
    run.advance(250)
    return GaussianSampling(model.eval(), Schedule.make("sqrt", 50), SamplingConfig(steps=20))


def test_a_told_model_does_as_it_is_told_and_an_untold_one_as_it_likes(learned):
    class Face:
        encode = staticmethod(lambda words: [VOCAB.index(word) for word in words])
        decode = staticmethod(lambda ids: Lexicon(VOCAB, 16, {}, "words").decode(ids))

    task, targets = task_of("length"), [{"length": n} for n in range(2, 12)] * 6
    by = {}
    for kind in ("classifier_free", "gradient"):
        settings = GuidanceConfig(by=kind, inner_steps=0, scale=1.0)
        words = guided(learned, task, targets, settings, Face, 16, seeded(7))
        by[kind] = (sum(len(text) == target["length"] for text, target in zip(words, targets, strict=True))
                    / len(targets))
    assert by["classifier_free"] > 0.9 and by["gradient"] < 0.4
    assert not learned.model.condition_embedding.weight[0].any()


# ---- from a space to a command ----

def test_a_wrong_space_is_told_before_anything_starts():
    conditions = {"trial.model.conditions": ["length", "semantic"]}
    load_checked("quickstart", conditions)
    for changes, message in (
        ({"trial.model.conditions": ["infill"]}, "model.conditions: control task 'infill' cannot be told"),
        ({"trial.evaluation.guidance.by": "both"}, "guidance.by: control task 'length' is led by both"),
        ({**conditions, "search.evaluation.guidance.by.choice": ["gradient", "both"]},
         "guidance.by: control task 'pos'"),
        ({**conditions, "trial.evaluation.control_tasks": ["length", {"name": "pos", "by": "both"}]},
         r"control_tasks\[1\].by: .* add it there, or give the task by: gradient"),
    ):
        with pytest.raises(UserError, match=message):
            load_checked("quickstart", changes)


SETTINGS = {
    "corpus": {"source": {"name": "restaurant", "sentences": 300, "valid_sentences": 40, "max_words": 18},
               "max_length": 20, "min_count": 1},
    "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16,
              "time_dim": 8, "dropout": 0.0}, "diffusion": {"timesteps": 100, "loss": "ce"},
    "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 10, "lr": 3e-3}},
    "base": {"optim": {"steps": 15, "lr": 5e-3, "ema": 0.9}},
    "adapt": {"optim": {"batch_size": 8, "lr": 1e-3}}, "sampling": {"steps": 5}, "lora": {"rank": 2},
    "quantization": {"quantizer": "fixed:Q0i4f"},
    "evaluation": {"samples": 8, "heldout": 8, "times": 2, "control_samples": 4, "latency_batch": 2,
                   "latency_repeats": 2},
}


def test_a_told_base_becomes_a_trial_an_artifact_and_text(tmp_path, capsys):
    """The base learns, the trial goes on being told, the exported model can still be, and the command
    says which control."""
    def job(name, **payload):
        return list(JOBS[name](payload, context))

    context = WorkerContext()
    changes = {"model": {**SETTINGS["model"], "conditions": ["length", "semantic"]},
               "evaluation": {**SETTINGS["evaluation"], "guidance": {"by": "classifier_free", "scale": 0.5}}}
    settings, cache = (TrialConfig.model_validate({**SETTINGS, **changes}).model_dump(mode="json"),
                       str(tmp_path))
    corpus = job("corpus", config=settings, cache=cache)[-1]["path"]
    shared = {"corpus": corpus, **{kind: job(kind, config=settings, cache=cache, corpus=corpus)[-1]["path"]
                                   for kind in ("teacher", "base")}}
    base = load(shared["base"])
    assert base.model.condition_embedding.weight[1:].abs().max() > 0
    row = job("trial", config=settings, prepared=shared, rungs=[5], folder=str(tmp_path / "trial"))[-1]
    assert 0 <= row["controllability_length_count"] <= 1 and "controllability_semantic_grammar" in row
    made = load(row["artifact"])
    before, after = base.model.condition_embedding.weight, made.model.condition_embedding.weight
    assert before.shape == after.shape and not torch.equal(before, after)
    assert made.model.symbols == base.model.symbols
    assert main(["generate",
                 row["artifact"], "--control", "length=6", "--control", "food=Italian", "-n", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["generate", row["artifact"], "--control", "pos=DET NOUN", "--by", "both"]) == 2
    assert "'pos' is not among model.conditions (length, semantic)" in capsys.readouterr().err
