"""DiffusionGemma of transformers: its logits, its own generate, one weight for encoder and decoder, and one
line for what does not do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import gemma_checkpoints
import pytest
import torch
from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache, LogitsProcessorList
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from search.cli.main import main
from search.run import validation
from spaces.config import LoraConfig, PluginRef, SamplingConfig, TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokenized import END, PAD, START
from trainable.corpora.tokens import NEW, Tokens
from trainable.diffusion.canvas.sampling import _NoStart
from trainable.models.diffusion_gemma.body import transformers_config
from trainable.models.lora import add_lora
from trainable.registry import PROCESSES
from trainable.stages.prepare import Prepared
from trainable.stages.trial import run_trial
from trainable.training.transfer import adopted, check_base
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

PROCESS = PROCESSES.build(PluginRef(name="canvas"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, DiffusionGemmaForBlockDiffusion]:
    folder = tmp_path_factory.mktemp("gemma")
    return folder, gemma_checkpoints.write(folder)


def config_of(folder, key="path", **model):
    return TrialConfig.model_validate({
        "corpus": {"max_length": 16, "tokenizer": str(folder), "mask": "new"},
        "model": gemma_checkpoints.SHAPE | model, "diffusion": {"name": "canvas"},
        "base": {key: str(folder)}})


@pytest.fixture(scope="module")
def model(made):
    return model_of(made[0])


def model_of(folder):
    """The checkpoint in our order of rows."""
    tokens = Tokens.open(folder, NEW)
    vocab = ["START", "END", "UNK", "PAD", *tokens.spellings()]
    corpus = SimpleNamespace(tokens=tokens, vocab=vocab)
    lexicon = Lexicon(vocab, 16, {}, "words", tokenizer=tokens.to_json())
    found, facts = adopted(config_of(folder), corpus, lexicon)
    assert facts == {"checkpoint": "DiffusionGemmaForBlockDiffusion", "dtype": "float32"}
    return found


def drawing(model, steps=6, **params):
    sampler = PluginRef(name="entropy_bound", **params)
    return PROCESS.sampling(model, SamplingConfig(steps=steps, sampler=sampler))


def plain_copy(model) -> DiffusionGemmaForBlockDiffusion:
    """transformers' own class with the weights of our model, in our order of rows."""
    plain = DiffusionGemmaForBlockDiffusion(transformers_config(model.params, model.vocabulary)).eval()
    theirs = {"word_embedding.": "model.decoder.embed_tokens.", "body.": "model.decoder.layers.",
              "norm.": "model.decoder.norm.", "feedback.": "model.decoder.self_conditioning.",
              "reader.": "model.encoder."}
    for name, value in model.state_dict().items():
        start = next(start for start in theirs if name.startswith(start))
        target = f"{theirs[start]}{name.removeprefix(start)}"
        owner, _, leaf = target.rpartition(".")
        getattr(plain.get_submodule(owner), leaf).data.copy_(value)  # tied ones are one array
    return plain


def test_logits_are_those_of_transformers(made, model):
    folder, original = made
    ids = torch.randint(4, model.vocabulary, (2, 12), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor(Tokens.open(folder, NEW).table_rows()[:-1])
    assert (rows[4:] >= 0).all()
    found = model.predict(ids, torch.zeros(2)).log_probs[:, 1:, 4:]
    with torch.no_grad():
        wanted = original(input_ids=rows[ids[:, :1]], decoder_input_ids=rows[ids[:, 1:]],
                          past_key_values=DynamicCache(config=original.config.text_config)).logits
    wanted = wanted[..., rows[4:]]
    assert wanted.std() > 0.1
    assert torch.allclose(found.softmax(-1), wanted.softmax(-1), atol=1e-5)


def test_texts_are_those_of_its_own_generate(model):
    """Bit for bit what the published class returns for the same noise, and the passes that it took."""
    params = {"bound": 2.0, "confidence_threshold": 3.0, "stability_threshold": 0}
    found = drawing(model, **params).generate(3, 12, torch.Generator().manual_seed(5))
    plain, noise = plain_copy(model), torch.Generator().manual_seed(5)
    plain.config.canvas_length = 11
    for row, passes in zip(found.ids, found.passes.tolist(), strict=True):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=noise)))
        own = plain.generate(
            torch.tensor([[START]]), logits_processor=LogitsProcessorList([_NoStart()]),
            generation_config=DiffusionGemmaGenerationConfig(
                max_new_tokens=11, max_denoising_steps=6, t_min=0.4, t_max=0.8, stability_threshold=0,
                confidence_threshold=3.0, sampler_config=EntropyBoundSamplerConfig(entropy_bound=2.0),
                bos_token_id=START, eos_token_id=END, pad_token_id=PAD))
        assert torch.equal(own.sequences[0], row)
        valid = int((row[1:] != PAD).sum())
        assert float(own.tokens_per_forward) == pytest.approx(valid / passes)
    assert (found.ids[:, 0] == START).all() and (found.ids[:, 1:] != START).all()


def test_a_text_does_not_depend_on_its_neighbors_and_global_noise_is_left_alone(model):
    law, state = drawing(model, steps=3), torch.get_rng_state()
    whole = law.generate(3, 10, torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(law.generate(2, 10, torch.Generator().manual_seed(1)).ids, whole.ids[:2])
    assert len({tuple(row) for row in whole.ids.tolist()}) == 3
    prompt = torch.tensor([START, 7, 8])
    begun = law.generate(2, 10, torch.Generator().manual_seed(1), prompt=prompt)
    assert begun.ids[:, :3].tolist() == [prompt.tolist()] * 2


def test_each_weight_is_there_once_and_acts_on_prompt_and_canvas(made, model):
    """A layer that an adapter has wrapped: what both sides compute is what the published class computes with
    the same product in encoder and decoder."""
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names)) and not any(name.startswith("reader.") for name in names)
    changed = model_of(made[0])
    add_lora(changed, LoraConfig(rank=2, targets=("query", "value", "ffn")))
    plain = plain_copy(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, module in changed.named_modules():
            if hasattr(module, "lora_B") and "default" in module.lora_B:
                module.lora_B["default"].weight.normal_(generator=generator)
                target = plain.model.decoder.layers.get_submodule(name.removeprefix("body."))
                target.weight.add_(module.get_delta_weight("default"))
        ids = torch.randint(4, model.vocabulary, (2, 9), generator=generator)
        found = changed.predict(ids, torch.zeros(2)).log_probs[:, 1:]
        wanted = plain(input_ids=ids[:, :1], decoder_input_ids=ids[:, 1:],
                       past_key_values=DynamicCache(config=plain.config.text_config)).logits
    assert torch.allclose(found, wanted.log_softmax(-1), atol=1e-5)
    assert not torch.allclose(found, model.predict(ids, torch.zeros(2)).log_probs[:, 1:], atol=1e-2)


def test_from_checkpoint_to_quantized_text(tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    gemma_checkpoints.write(folder, torch.bfloat16)
    config = TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 100, "max_words": 12}, "max_length": 44,
                   "min_count": 0, "tokenizer": str(folder), "mask": "new", "refuse_left_out": 1},
        "model": gemma_checkpoints.SHAPE, "diffusion": {"name": "canvas", "timesteps": 8},
        "teacher": {"name": "kneser_ney", "order": 3}, "base": {"path": str(folder)},
        "sampling": {"sampler": "entropy_bound", "steps": 3}, "adapt": {"train": False},
        "calibration": {"method": {"name": "gptq", "bits": 4}, "texts": 4},
        "evaluation": {"samples": 4, "heldout": 4, "times": 2, "control_tasks": [], "latency_batch": 1,
                       "latency_repeats": 2}})
    context, payload = WorkerContext(), {"config": config.model_dump(mode="json"), "cache": str(tmp_path)}
    for kind in ("corpus", "teacher", "base"):
        payload[kind] = list(JOBS[kind](payload, context))[-1]["path"]
    prepared = Prepared(payload["corpus"], payload["teacher"], payload["base"])
    final = list(run_trial(config, prepared, [2], tmp_path / "trial", context.device, context.cache))[-1]
    assert final["perplexity"] > 1 and final["nll_bound"] > 0 and final["nll_bound_process"] == "canvas"
    assert 1 <= final["nfe"] <= 3 and final["generation_flops"] > 0 and final["latency_ms"] > 0
    assert final["bits_per_weight_ffn"] < 8 < final["bits_per_weight_embedding"] == 16
    artifact = Path(final["artifact"])
    (folder / "model.safetensors").unlink()
    assert main(["generate", str(artifact), "-n", "2", "--json"]) == 0
    assert len([json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]) == 2


@pytest.mark.parametrize(("change", "message"), [
    ({"canvas_length": 8}, "has positions=9, the space asks for model.positions=44; its own shape: "
                           r"model: \{name: diffusion_gemma, hidden: 16, layers: 3, heads: 4"),
    ({"text_config": None}, "config.json: no text_config"),
    ({"attention_bias": True}, "text_config.attention_bias=True is not supported; legal: False"),
    ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
     "layer_types are not one global layer in every so many"),
    ({"num_experts": None}, "config.json: text_config: no num_experts"),
    ({"num_experts": "many"}, "config.json: text_config cannot be read"),
    ({"moe_intermediate_size": 10}, "has expert_ffn=10, the space asks for model.expert_ffn=12"),
])
def test_what_a_config_says_wrong_is_one_line(tmp_path, made, change, message):
    for path in made[0].iterdir():
        (tmp_path / path.name).symlink_to(path)
    said = json.loads((made[0] / "config.json").read_text())
    for name, value in change.items():
        (said if name in said else said["text_config"])[name] = value
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message) as caught:
        check_base(config_of(tmp_path), "path")
    assert str(caught.value).startswith(f"base.path: {tmp_path}: ") and "\n" not in str(caught.value)


def test_what_it_cannot_do_is_one_line(made, model):
    masked = TrialConfig.model_validate({"model": {"name": "masked_lm"}, "diffusion": {"name": "masked"},
                                         "base": {"path": str(made[0])}})
    with pytest.raises(UserError, match="a checkpoint of DiffusionGemmaForBlockDiffusion is the start of "
                                        "model diffusion_gemma; set model.name: diffusion_gemma"):
        check_base(masked, "path")
    law = drawing(model)
    for call, message in ((lambda: law.under(torch.zeros(1), 1.0), "is told no condition"),
                          (lambda: law.sample(1, 9, torch.Generator(), object()), "takes no guide"),
                          (lambda: law.sample(1, 99, torch.Generator()), "the model has 44"),
                          (lambda: law.sample(1, 4, torch.Generator(), None, torch.zeros(5)), "longer than"),
                          (lambda: law.sample(1, 4, torch.Generator(), None, torch.tensor([0, -1, 5])),
                           "keeps tokens behind free ones")):
        with pytest.raises(UserError, match=message):
            call()


SPACE = """
objectives: {perplexity: minimize}
budget: {trials: 2}
trial:
  model: {name: diffusion_gemma, positions: POSITIONS}
  diffusion: {name: canvas}
  sampling: {sampler: SAMPLER}
  calibration: {source: SOURCE}
  evaluation: {control_tasks: TASKS}
search: {lora.rank: {choice: [0, 2]}}
"""
FITS = {"POSITIONS": "257", "SAMPLER": "entropy_bound", "SOURCE": "corrupted", "TASKS": "[]"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"TASKS": "[length]"}, "diffusion canvas offers no .* guidance; legal: none, so no control tasks"),
    ({"SOURCE": "rollout_quota"}, "calibration.source=rollout_quota needs to see what a sampler asks"),
    ({"SAMPLER": "quota"}, "unknown sampler 'quota'.*; legal: entropy_bound"),
    ({"SAMPLER": "{name: entropy_bound, t_min: 0.9}"}, "t_min=0.9 must be below t_max=0.8"),
    ({"POSITIONS": "32"}, "should be at most model.positions=32"),
])
def test_a_space_that_asks_for_what_is_not_there_is_one_line(changes, message):
    text = SPACE
    for part, value in (FITS | changes).items():
        text = text.replace(part, value)
    with pytest.raises(UserError, match=message) as caught:
        validation.check(Space.from_yaml(text, "a.yaml"))
    assert "\n" not in str(caught.value)
