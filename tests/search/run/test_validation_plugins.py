"""Backbones, processes, metrics and lists of a space: what goes together, and what a mistake is called."""


import pytest

from search.run import validation
from spaces.errors import UserError
from spaces.schema import Space

HEAD = "objectives: {perplexity: minimize}\nbudget: {trials: 4}\n"


def message_of(text: str) -> str:
    space = Space.from_yaml(text, "a.yaml")
    with pytest.raises(UserError) as caught:
        validation.check(space)
    message = str(caught.value)
    assert message.startswith("a.yaml:") and "\n" not in message
    return message


def with_search(*lines: str, trial: str = "{}") -> str:
    return f"{HEAD}trial: {trial}\nsearch:\n" + "".join(f"  {line}\n" for line in lines)


RANK = "lora.rank: {choice: [0, 4]}"


MODEL = with_search(RANK, trial="{model: {hidden: 64, heads: 4}}")


RULED = "model.hidden: {choice: [64, 96]}", "model.heads: {choice: [4, 12]}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (MODEL.replace("4}}", "5}}"),
         ["a.yaml:3: trial.model: backbone 'diffusion_lm'", "hidden=64 is not a multiple of heads=5"]),
        (MODEL.replace(", heads: 4", ""),
         ["trial.model: backbone", "hidden=64 is not a multiple of heads=12"]),
        (MODEL.replace("64", "4"),
         ["trial.model.hidden: backbone 'diffusion_lm'", "greater than or equal to 8"]),
        (MODEL.replace("hidden", "hiden"), ["trial.model.hiden: backbone 'diffusion_lm', parameter 'hiden': "
                                            "no such parameter (did you mean 'hidden'?)"]),
        (MODEL.replace("hidden: 64", "positions: 16, hidden: 64"),
         ["trial.corpus.max_length: corpus.max_length=64 should be at most model.positions=16"]),
        (MODEL.replace("hidden: 64", "embeddings: pretrained, hidden: 64"),
         ["embeddings=pretrained needs pretrained_path"]),
        (MODEL.replace("hidden: 64", "name: diffusion, hidden: 64"),
         ["trial.model.name: unknown backbone 'diffusion' (did you mean 'diffusion_lm'?)"]),
        (MODEL.replace("hidden: 64, heads: 4",
                       "{}").replace("{{}}", "{}").replace("model", "diffusion: {name: gauss}, model"),
         ["trial.diffusion.name: unknown diffusion process 'gauss' (did you mean 'gaussian'?)"]),
        (with_search("sampling.steps: {choice: [9, 5000]}"),
         ["search.sampling.steps: the space reaches sampling.steps=5000",
          "should be at most diffusion.timesteps=2000"]),
        (with_search("diffusion.timesteps: {int: [10, 60]}"),
         ["search.diffusion.timesteps: the space reaches", "sampling.steps=50 should be at most"]),
        (with_search(*RULED), ["model.heads: the space reaches", "hidden=64 is not a multiple of heads=12"]),
        (with_search(RANK, trial="{quantization: {embedding_rms: 1.0}}"),
         ["trial.quantization.embedding_rms: quantization.embedding_rms=1.0 needs "
          "model.normalize_embeddings: true"]),
    ],
)
def test_backbone_and_process_are_plug_ins_with_rules(text, parts):
    message = message_of(text)
    for part in parts:
        assert part in message


def test_further_metrics_are_those_that_there_are():
    text = with_search(RANK, trial="{evaluation: {metrics: [nll_bond]}}")
    assert ("trial.evaluation.metrics[0]: unknown metric 'nll_bond' (did you mean 'nll_bound'?)"
            in message_of(text))
    space = Space.from_yaml(text.replace("nll_bond", "nll_bound"), "a.yaml")
    validation.check(space)
    assert space.example.evaluation.metrics == ("nll_bound", "perplexity")


def test_rules_hold_where_conditions_keep_settings_apart():
    validation.check(Space.from_yaml(with_search(*RULED).replace("[4, 12]", "[4, 8]"), "a.yaml"))
    apart = with_search("model.hidden: {choice: [96, 192]}",
                        "model.heads: {choice: [12], when: {model.hidden: [96]}}")
    validation.check(Space.from_yaml(apart, "a.yaml"))


def test_defaults_of_backbone_and_process_are_written_out():
    space = validation.completed(Space.from_yaml(MODEL, "a.yaml"))
    assert space.form.trial["model"]["layers"] == 12 and space.form.trial["model"]["hidden"] == 64
    assert space.form.trial["diffusion"]["name"] == "gaussian"
    assert not validation.completed(space.with_overrides({"trial.model.layers": 12})).difference(space)
    assert validation.completed(space.with_overrides({"trial.model.layers": 3})).difference(space)
    searched = validation.completed(Space.from_yaml(with_search("model.layers: {choice: [1, 2]}"), "a.yaml"))
    assert "layers" not in searched.form.trial["model"]
    validation.check(searched)


@pytest.mark.parametrize(("lines", "trial", "told"), [
    ([RANK], "{lora: {targets: []}}", "a.yaml:3: trial.lora.targets: is empty: no matrix would get an "
                                      "adapter, whatever its rank; for none write lora.rank: 0"),
    ([RANK], "{quantization: {sites: []}}",
     "trial.quantization.sites: is empty: the quantizer would act nowhere; for none"),
    (["quantization.sites: {choice: [[embedding], []]}"], "{quantization: {quantizer: 'fixed:Q0i4f'}}",
     "search.quantization.sites.choice[1]: is empty"),
    (["lora.targets: {choice: [[query], []]}"], "{lora: {rank: 2}}",
     "search.lora.targets.choice[1]: is empty"),
])
def test_an_empty_list_that_would_make_another_trial_of_it_is_refused(lines, trial, told):
    assert told in message_of(with_search(*lines, trial=trial))


@pytest.mark.parametrize(("bound", "told"), [
    ("size <= 200kB", "size is not told in 'kB' (did you mean size_bytes?)"),
    ("size <= 200000", "unknown metric 'size' (did you mean 'size_bytes'?)"),
    ("latency <= 5ms", "latency is not told in 'ms' (did you mean latency_ms?)"),
    ("perplexity <= 5ms", "perplexity is not told in 'ms'; legal"),
])
def test_a_metric_without_its_end_is_guessed(bound, told):
    with pytest.raises(UserError) as caught:
        validation.check(Space.from_yaml(f"{HEAD}search: {{{RANK}}}\nconstraints: [{bound}]\n", "a.yaml"))
    assert told in str(caught.value)


def test_the_share_of_unknown_words_can_be_bounded():
    space = Space.from_yaml(f"{HEAD}search: {{{RANK}}}\nconstraints: [unk_share <= 2%]\n", "a.yaml")
    validation.check(space)
    assert str(space.constraints[0]) == "unk_share <= 0.02"
