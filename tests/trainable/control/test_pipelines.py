"""Oracles that run other people's parsers, here on small ones that are trained on the built-in grammar
within the test."""

import itertools
import json
import random
from types import SimpleNamespace

import nltk
import pytest
import torch

from search.cli.doctor import findings
from search.run.validation import check_sources, load_checked
from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.control.oracles.brackets import reading_of
from trainable.control.oracles.choosing import oracle_named
from trainable.control.oracles.penn import to_upos
from trainable.corpora.restaurant import Restaurant
from trainable.metrics.controllability import column
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

TEXTS = list(itertools.islice(Restaurant(Restaurant.Params(sentences=200, max_words=12)).examples("train"),
                              160))
HELD = list(itertools.islice(
    Restaurant(Restaurant.Params(valid_sentences=60, max_words=12)).examples("valid"), 40))
PENN = {"ADJ": "JJ", "ADP": "IN", "ADV": "RB", "AUX": "VBZ", "CCONJ": "CC", "DET": "DT", "NOUN": "NN",
        "NUM": "CD", "PART": "TO", "PRON": "PRP", "PROPN": "NNP", "PUNCT": ".", "SCONJ": "IN", "VERB": "VBZ",
        "SYM": "SYM", "INTJ": "UH", "X": "FW"}


def agreement(oracle) -> float:
    """Share of the grammar's own tags in held-out texts."""
    pairs = [(tag, gold) for text in HELD
             for tag, gold in zip(oracle.read(text.words).tags, text.upos, strict=True)]
    return sum(tag == gold for tag, gold in pairs) / len(pairs)


# ---- spaCy ----

@pytest.fixture(scope="module")
def spacy_folder(tmp_path_factory) -> str:
    """A blank English pipeline with a morphologizer, trained for a few seconds on the grammar's
    universal tags."""
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    nlp = spacy.blank("en", config={"nlp": {"batch_size": 64}})
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 32, "depth": 1,
               "embed_size": 500, "window_size": 1, "maxout_pieces": 2, "subword_features": True}
    nlp.add_pipe("morphologizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": tok2vec}})
    examples = [Example.from_dict(Doc(nlp.vocab, words=list(text.words)), {"pos": list(text.upos)})
                for text in TEXTS]
    spacy.util.fix_random_seed(0)
    optimizer, rng = nlp.initialize(lambda: examples), random.Random(0)
    for _ in range(12):
        rng.shuffle(examples)
        for start in range(0, len(examples), 40):
            nlp.update(examples[start:start + 40], sgd=optimizer)
    folder = tmp_path_factory.mktemp("models") / "tiny_en"
    nlp.to_disk(folder)
    return str(folder)


def test_a_trained_spacy_pipeline_tags_as_it_was_taught(spacy_folder):
    oracle = oracle_named(f"spacy:{spacy_folder}", "tags")
    assert agreement(oracle) > 0.9
    assert oracle.read([]).tags == () and oracle.read(["xyzzy"]).spans == ()
    assert oracle.full_name == f"spacy:{spacy_folder}"


def test_a_pipeline_is_loaded_once_however_many_targets_are_drawn(spacy_folder, monkeypatch):
    import spacy

    oracle_named(f"spacy:{spacy_folder}").read(["a"])
    monkeypatch.setattr(spacy, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert oracle_named(f"spacy:{spacy_folder}").read(["a", "pub"]).whole


def test_a_spacy_pipeline_that_cannot_tag_or_load_is_one_line(tmp_path):
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError,
                       match=r"the pipeline \(empty\) gives no universal tags; it needs a morphologizer"):
        oracle_named(f"spacy:{tmp_path / 'blank'}").read(["a", "pub"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.cfg").write_text("[nlp]\nlang = \"xx_none\"\npipeline = []\n")
    (tmp_path / "broken" / "meta.json").write_text(json.dumps({"lang": "xx", "name": "b",
                                                               "version": "0.0.1"}))
    with pytest.raises(UserError, match="the pipeline cannot be loaded") as error:
        oracle_named(f"spacy:{tmp_path / 'broken'}").read(["a"])
    assert "\n" not in str(error.value)


def test_a_space_with_a_spacy_oracle_passes_its_check_and_a_whole_trial_is_scored_by_it(spacy_folder,
                                                                                        tmp_path):
    """Targets, counts, guidance, score and column: all by the pipeline."""
    task = {"name": "pos", "oracle": f"spacy:{spacy_folder}"}
    check_sources(load_checked("quickstart", {"trial.evaluation.control_tasks": [task]}))
    settings = TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 30, "max_words": 12},
                   "max_length": 14, "min_count": 1},
        "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8,
                  "dropout": 0.0}, "diffusion": {"timesteps": 50, "loss": "ce"}, "sampling": {"steps": 5},
        "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 5}},
        "base": {"optim": {"steps": 5}},
        "evaluation": {"samples": 4, "heldout": 4, "times": 1, "control_tasks": [task], "control_samples": 6,
                       "latency_batch": 2, "latency_repeats": 2}}).model_dump(mode="json")
    context = WorkerContext()

    def job(name, **payload):
        return list(JOBS[name]({"config": settings, "cache": str(tmp_path), **payload}, context))[-1]

    corpus = job("corpus")["path"]
    shared = {"corpus": corpus, **{kind: job(kind, corpus=corpus)["path"] for kind in ("teacher", "base")}}
    row = job("trial", prepared=shared, rungs=[2], folder=str(tmp_path / "trial"))
    name = column("pos", f"spacy:{spacy_folder}")
    assert name.startswith("controllability_pos_spacy_") and name.endswith("tiny_en")
    assert 0.9 < row[f"{name}_human"] <= 1.0, "a UNK of human text has no tag"
    assert 0 < row[name] <= 1 and row["controllability"] == row[name]
    assert row["controllability_oracle"] == f"pos=spacy:{spacy_folder}"


# ---- nltk ----

def test_nltks_tagger_is_used_once_its_data_is_there(tmp_path, monkeypatch):
    from nltk.tag.perceptron import PerceptronTagger

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(UserError,
                       match="'nltk' is not installed; get it with: .*python -m nltk.downloader averaged"):
        oracle_named("nltk", "tags")
    finding = next(found for found in findings(tmp_path) if found.name == "nltk")
    assert finding.status == "note" and "python -m nltk.downloader" in finding.remedy
    folder = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    random.seed(0)  # nltk shuffles by the global generator
    tagger = PerceptronTagger(load=False)
    tagger.train([list(zip(text.words, (PENN[tag] for tag in text.upos), strict=True)) for text in TEXTS],
                 nr_iter=3)
    folder.mkdir(parents=True)
    tagger.save_to_json(lang="eng", loc=str(folder))
    oracle = oracle_named("nltk", "tags")
    assert agreement(oracle) > 0.9 and oracle.read([]).tags == ()
    assert next(found for found in findings(tmp_path) if found.name == "nltk").status == "ok"


# ---- benepar ----

def penn_tree(text) -> nltk.Tree:
    """The grammar's tree as benepar is trained on: Penn tags, a TOP node, every word under its tag."""
    tree = nltk.Tree.fromstring(f"(TOP {text.tree})")
    for place in list(tree.subtrees(lambda node: node.height() == 2)):
        place.set_label(PENN[place.label()])
    return tree


@pytest.fixture(scope="module")
def benepar_model(tmp_path_factory) -> str:
    """A chart parser of benepar's own code with a character LSTM, trained for seconds on a few of
    the grammar's trees."""
    pytest.importorskip("benepar")
    from benepar import char_lstm, decode_chart, nkutil
    from benepar.integrations.nltk_plugin import InputSentence
    from benepar.parse_chart import ChartParser

    trees = [penn_tree(text) for text in TEXTS[:60]]
    tags = {tag: i for i, tag in enumerate(["UNK", *sorted(set(PENN.values()))])}
    sizes = nkutil.HParams(
        use_chars_lstm=True, use_pretrained=False, use_encoder=True, d_model=64, d_char_emb=16,
        char_lstm_input_dropout=0.0, morpho_emb_dropout=0.0, encoder_max_len=64, num_heads=2, d_kv=16,
        d_ff=64, relu_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0, num_layers=1,
        d_label_hidden=64, predict_tags=True, d_tag_hidden=64, tag_loss_scale=5.0,
        force_root_constituent=True)
    torch.manual_seed(0)
    words = [tree.leaves() for tree in trees]
    labels, characters = (decode_chart.ChartDecoder.build_vocab(trees),
                          char_lstm.RetokenizerForCharLSTM.build_vocab(words))
    parser = ChartParser(tags, labels, characters, sizes)

    class Annotated(InputSentence):
        tree = None

        def pos(self):
            return self.tree.pos()

    examples = []
    for tree in trees:
        example = Annotated(words=tree.leaves(), space_after=[True] * len(tree.leaves()),
                            escaped_words=tree.leaves())
        example.__class__ = type("One", (Annotated,), {"tree": tree})
        examples.append(example)
    optimizer, rng = torch.optim.Adam(parser.parameters(), lr=4e-3), random.Random(0)
    parser.train()
    for _ in range(60):
        (_, batch), = parser.encode_and_collate_subbatches(rng.sample(examples, 20), 10_000)
        optimizer.zero_grad()
        parser.compute_loss(batch).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("benepar") / "tiny.pt"
    torch.save({"config": parser.config, "state_dict": parser.state_dict()}, path)
    return str(path)


def test_benepar_gives_the_trees_that_it_was_taught(benepar_model):
    oracle = oracle_named(f"benepar:{benepar_model}", "spans")
    shared = found = wanted = tags = words = 0
    for text in TEXTS[:30]:
        read, gold = oracle.read(text.words), reading_of(text.tree)
        shared += len(set(read.spans) & set(gold.spans))
        found, wanted = found + len(set(read.spans)), wanted + len(set(gold.spans))
        expected = to_upos(text.words, [PENN[tag] for tag in text.upos])
        tags, words = (tags + sum(a == b for a, b in zip(read.tags, expected, strict=True)),
                       words + len(text.words))
    assert 2 * shared / (found + wanted) > 0.6 and tags / words > 0.7  # 0.75 and 0.80, after 60 steps
    strange = oracle.read(["A", "(", "cheap", ")", "pub", "."])
    assert len(strange.tags) == 6 and all(0 <= first <= last < 6 for first, last, _ in strange.spans)


def test_a_benepar_model_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("benepar")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(UserError,
                       match=r"'benepar:benepar_en3' is not installed; .* benepar.download\('benepar_en3'\)"):
        oracle_named("benepar", "spans")


def test_benepars_trees_as_data(monkeypatch):
    """Without the package: what `Parser.parse` returns is an `nltk.Tree` under TOP, words escaped,
    tags above the words."""
    tree = nltk.Tree.fromstring("(TOP (S (NP (DT The) (NN pub)) (VP (VBZ is) (ADJP (JJ cheap))) (. .)))")
    asked = []
    monkeypatch.setattr("trainable.control.oracles.pipelines.BeneparOracle.missing",
                        classmethod(lambda cls, model="": None))
    fake = SimpleNamespace(InputSentence=lambda words: words, Parser=lambda name: SimpleNamespace(
        parse=lambda words: asked.append((name, words)) or tree))
    monkeypatch.setitem(__import__("sys").modules, "benepar", fake)
    read = oracle_named("benepar:some_model", "spans").read(["The", "pub", "is", "cheap", "."])
    assert asked == [("some_model", ["The", "pub", "is", "cheap", "."])]
    assert read.tags == ("DET", "NOUN", "AUX", "ADJ", "PUNCT")
    assert read.spans == ((0, 4, "S"), (0, 1, "NP"), (2, 3, "VP"), (3, 3, "ADJP"))
