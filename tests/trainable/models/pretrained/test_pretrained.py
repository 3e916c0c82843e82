"""Hugging Face checkpoints as bases: logits as transformers' own classes give them, and one line for
what does not do."""

import json
from types import SimpleNamespace

import checkpoints
import pytest
import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import NEW, Tokens
from trainable.models.pretrained.formats import FORMATS
from trainable.registry import BACKBONES, PROCESSES
from trainable.stages.prepare import base_key
from trainable.training.transfer import adopted, begin_from, check_base, start_key

MARKS = ["START", "END", "UNK", "PAD"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (folder, the transformers model), each written once."""
    root, found = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name):
        if name not in found:
            found[name] = root / name, checkpoints.write(name, root / name)
        return found[name]

    return get


def config_of(name, folder, key="path", recipe="uniform", **model):
    return TrialConfig.model_validate({
        "corpus": {"max_length": 16, "tokenizer": str(folder)}, "model": checkpoints.shape(name, **model),
        "diffusion": {"name": "masked", "recipe": recipe}, "base": {key: str(folder)}})


def corpus_of(folder, mask=None):
    """The face of a corpus in the tokens of a folder."""
    tokens = Tokens.open(folder, mask)
    return SimpleNamespace(tokens=tokens, vocab=[*MARKS, *tokens.spellings()])


def lexicon_of(corpus):
    return Lexicon(corpus.vocab, 16, {}, "words", tokenizer=corpus.tokens.to_json())


def check(config):
    for key in ("path", "start"):
        check_base(config, key)


def rows(corpus, count=2, length=12):
    """Our ids with MASKs among them, and the same in the tokenizer's."""
    generator = torch.Generator().manual_seed(0)
    table = corpus.tokens.table_rows()
    ids = torch.randint(4, len(table) - 1, (count, length), generator=generator)
    ids[:, ::3] = len(table) - 1
    return ids, torch.tensor(table)[ids]


@pytest.mark.parametrize("name", checkpoints.SHAPES)
def test_logits_are_those_of_transformers(made, name):
    folder, original = made(name)
    corpus = corpus_of(folder)
    model, facts = adopted(config_of(name, folder), corpus, lexicon_of(corpus))
    ids, theirs = rows(corpus)
    found, wanted = model(ids).detach(), checkpoints.reference(original, theirs)
    if checkpoints.SHAPES[name].get("shift"):
        wanted = torch.cat([wanted[:, :1], wanted[:, :-1]], 1)
    own = torch.tensor(corpus.tokens.table_rows()[4:-1])
    assert found.shape[-1] == len(corpus.vocab) and wanted[..., own].std() > 0.1
    assert torch.allclose(found[..., 4:], wanted[..., own], atol=2e-5)
    assert facts["checkpoint"] in FORMATS and facts["dtype"] == "float32"


def test_an_exported_checkpoint_keeps_its_dtype_and_runs_without_the_folder(tmp_path):
    checkpoints.write("llada", tmp_path / "model", torch.bfloat16)
    corpus, config = corpus_of(tmp_path / "model"), config_of("llada", tmp_path / "model")
    model, _ = adopted(config, corpus, lexicon_of(corpus))
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    export(model, config, lexicon_of(corpus), tmp_path / "artifact", {})
    wanted = model(rows(corpus)[0])
    (tmp_path / "model" / "model.safetensors").unlink()
    loaded = load(tmp_path / "artifact")
    assert torch.equal(loaded.model(rows(corpus)[0]), wanted)
    words = loaded.words(loaded.generate(3, torch.Generator().manual_seed(0), steps=4))
    assert len(words) == 3 and loaded.lexicon.tokens.source == corpus.tokens.source
    assert (tmp_path / "artifact" / "tokenizer.json").read_text() == corpus.tokens.source


def fresh(config, corpus):
    return BACKBONES.get("masked_lm").from_config(BACKBONES.params(config.model),
                                                  PROCESSES.params(config.diffusion), corpus.vocab, seed=5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_training_begins_with_the_body_and_fewer_layers_may_be_asked_for(made, name):
    folder, original = made(name)
    corpus, config = corpus_of(folder), config_of(name, folder, "start", layers=2, positions=16)
    model = fresh(config, corpus)
    assert begin_from(model, config, corpus)["words_shared"] >= (len(corpus.vocab) - 4) / len(corpus.vocab)
    theirs = original.state_dict()
    prefix = "bert." if name == "bert" else "model."
    for key, value in model.state_dict().items():
        if key.startswith("body.") and "embeddings." not in key:
            assert torch.equal(value, theirs[prefix + key.removeprefix("body.")]), key
    if name == "bert":
        assert torch.equal(model.state_dict()["body.embeddings.position_embeddings.weight"],
                           theirs["bert.embeddings.position_embeddings.weight"][:16])


def test_words_begin_as_the_mean_of_their_tokens(made):
    folder, original = made("bert")
    config = TrialConfig.model_validate({"corpus": {"max_length": 16}, "model": checkpoints.shape("bert"),
                                         "diffusion": {"name": "masked"}, "base": {"start": str(folder)}})
    corpus = SimpleNamespace(tokens=None, vocab=[*MARKS, "pub", "restaurant", "isn't"])
    model, tokens = fresh(config, corpus), Tokens.open(folder)
    begin_from(model, config, corpus)
    table = original.bert.embeddings.word_embeddings.weight.detach()
    for row, word in enumerate(corpus.vocab[4:], 4):
        pieces = torch.tensor([int(tokens.ids[i - 4]) for i in tokens.word(word)])
        assert torch.allclose(model.word_embedding.weight[row], table[pieces].mean(0), atol=1e-6)
    assert torch.equal(model.word_embedding.weight[-1], table[tokens.marks.mask])


def test_a_causal_model_may_get_a_new_mask_and_a_masked_one_may_not(made):
    folder, original = made("llama")
    corpus, config = corpus_of(folder, NEW), config_of("llama", folder)
    model, _ = adopted(config, corpus, lexicon_of(corpus))
    mean = original.model.embed_tokens.weight.detach().mean(0)
    assert torch.allclose(model.word_embedding.weight[-1], mean, atol=1e-6)
    folder, _ = made("bert")
    with pytest.raises(UserError,
                       match="BertForMaskedLM was trained with MASK, and corpus.mask: new would begin"):
        corpus = corpus_of(folder, NEW)
        adopted(config_of("bert", folder), corpus, lexicon_of(corpus))


def test_shards_are_read_and_a_missing_one_is_named(tmp_path, made):
    checkpoints.write("qwen2", tmp_path / "m", shards=True)
    folder, corpus = tmp_path / "m", corpus_of(tmp_path / "m")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    model, _ = adopted(config_of("qwen2", folder), corpus, lexicon_of(corpus))
    whole, _ = adopted(config_of("qwen2", made("qwen2")[0]), corpus, lexicon_of(corpus))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"^base.path: .*: 1 of \d+ shards are missing: model-00002-of"):
        check(config_of("qwen2", folder))


def test_a_space_of_another_shape_is_told_the_checkpoints_own(made):
    folder, _ = made("llada")
    with pytest.raises(UserError,
                       match=r"base.path: .*: has ffn=24, the space asks for model.ffn=32; its own shape: "
                       r"model: \{name: masked_lm, body: llama, hidden: 16, layers: 3, heads: 4, "
                       r"kv_heads: 2, ffn: 24, positions: 48, tied: false, norm_eps: 1e-05, "
                       r"rope_theta: 500000.0\}"):
        check(config_of("llada", folder, ffn=32))
    with pytest.raises(UserError, match="base.path: .*: has layers=3, the space asks for model.layers=2"):
        check(config_of("llada", folder, layers=2))
    check(config_of("llada", folder, "start", layers=2))
    with pytest.raises(UserError, match="base.path: .*: LLaDAModelLM needs model.shift: false"):
        check(config_of("llada", folder, recipe="dream"))
    with pytest.raises(UserError, match="base.start: .*: DreamModel needs model.shift: true"):
        check(config_of("dream", made("dream")[0], "start", shift=None))


CONFIG = {"architectures": ["BertForMaskedLM"]}


@pytest.mark.parametrize(("change", "message"), [
    ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is no known class; legal: BertForMaskedLM, "),
    ({"architectures": ["StrangeLM"], "auto_map": {"AutoModel": "a.B"}},
     "StrangeLM is no known class; its auto_map asks for code of its own, which is never run; legal: "),
    ({"hidden_act": "relu"}, "config.json: hidden_act='relu' is not supported; legal: 'gelu'"),
    ({"num_hidden_layers": None}, "config.json: no num_hidden_layers"),
    ({"num_hidden_layers": 4}, r"holds no tensor bert.encoder.layer.3"),
    ({"intermediate_size": 32},
     r"bert.encoder.layer.0.intermediate.dense.weight has shape \(24, 16\), its config"),
    ({"mask_token_id": 7}, "its MASK is token 7, that of the tokenizer is 4; set corpus.mask"),
])
def test_what_a_config_says_wrong_is_one_line(tmp_path, made, change, message):
    folder, _ = made("bert")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in folder.iterdir():
        (wrong / path.name).symlink_to(path)
    (wrong / "config.json").unlink()
    (wrong / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | change))
    corpus = corpus_of(folder)
    shape = {"layers": change.get("num_hidden_layers") or 3, "ffn": change.get("intermediate_size", 24)}
    with pytest.raises(UserError, match=message) as caught:
        adopted(config_of("bert", wrong, **shape), corpus, lexicon_of(corpus))
    assert str(caught.value).startswith(f"base.path: {wrong}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("files", "message"), [
    ({}, "not an artifact and not a Hugging Face checkpoint: no config.json"),
    ({"config.json": "[1]"}, "config.json is not a JSON object"),
    ({"config.json": "{"}, "config.json cannot be read as JSON"),
    ({"config.json": CONFIG}, "no model.safetensors in it"),
    ({"config.json": CONFIG, "pytorch_model.bin": ""}, "pytorch_model.bin is a pickle, which is never read"),
    ({"config.json": CONFIG, "model.safetensors": "what"}, "model.safetensors cannot be read"),
    ({"config.json": CONFIG, "model.safetensors.index.json": {}}, "index.json holds no weight_map"),
])
def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        start_key(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_does_not_fit_is_one_line(made):
    folder, _ = made("llama")
    other, _ = made("bert")
    corpus = corpus_of(other)
    with pytest.raises(UserError,
                       match="base.path: .*: a vocabulary that does not fit: corpus.tokenizer writes "):
        adopted(config_of("llama", folder), corpus, lexicon_of(corpus))


def test_the_key_of_a_base_is_of_the_checkpoints_content(tmp_path, made):
    import shutil
    folder, _ = made("bert")
    copy = shutil.copytree(folder, tmp_path / "copy")
    for key in ("path", "start"):
        assert base_key(config_of("bert", folder, key)) == base_key(config_of("bert", copy, key))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert base_key(config_of("bert", folder)) != base_key(config_of("bert", copy))
