"""Control where ids are of a tokenizer's tokens: what is asked for is exact in words."""

import itertools

import pytest
import tokenizers_made
import torch
from masked_models import drawing, tiny

from spaces.config import CorpusConfig, GuidanceConfig, PluginRef
from spaces.errors import UserError
from spaces.schema import Space
from trainable.control.base import TaskContext
from trainable.control.generating import guided
from trainable.control.lexicon import Lexicon
from trainable.control.syntax import Syntax
from trainable.corpora import subwords
from trainable.corpora.restaurant import Restaurant
from trainable.corpora.tokenized import UNK, TokenizedCorpus
from trainable.registry import TASKS

LENGTH = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    source = PluginRef(name="restaurant", sentences=100, max_words=14)
    texts = [" ".join(example.words) for example in Restaurant(Restaurant.Params(
        sentences=100, max_words=14)).examples("train")]
    folder = tokenizers_made.write(root / "tokenizer", "bytes", texts, size=220)
    config = CorpusConfig(source=source, max_length=LENGTH, min_count=0, tokenizer=str(folder))
    subwords.build(config, root / "corpus")
    return TokenizedCorpus.open(root / "corpus")


@pytest.fixture(scope="module")
def sampling(corpus):
    return drawing(tiny(len(corpus.vocab), positions=LENGTH), steps=12)


def asked(sampling, corpus, name, count=6):
    """Targets of a task, and the texts drawn for them by a model that knows nothing."""
    task = TASKS.build(PluginRef(name=name))
    task.prepare(TaskContext(corpus))
    targets = task.targets(corpus, count, torch.Generator().manual_seed(0))
    texts = guided(sampling, task, targets, GuidanceConfig(by="reweight"), corpus, LENGTH,
                   torch.Generator().manual_seed(1))
    return task, targets, texts


def test_words_have_several_tokens_here(corpus):
    each = [len(corpus.encode([word])) for word in corpus.words.vocab[4:]]
    assert max(each) > 2 and corpus.stats["mean_tokens"]["train"] > corpus.stats["mean_words"]["train"]


def test_a_length_is_exact_in_words(corpus, sampling):
    _, targets, texts = asked(sampling, corpus, "length")
    assert [len(words) for words in texts] == [target["length"] for target in targets]


def test_contexts_stand_word_for_word_around_a_gap_of_its_words(corpus, sampling):
    task, targets, texts = asked(sampling, corpus, "infill")
    for words, target in zip(texts, targets, strict=True):
        assert task.score(words, target)["kept"] == 1
        assert len(words) == sum(len(target[part]) for part in ("left", "right", "reference"))


def test_a_value_is_said_as_whole_words(corpus, sampling):
    _, targets, texts = asked(sampling, corpus, "semantic", count=12)
    lengths = []
    for words, target in zip(texts, targets, strict=True):
        said = [phrase for phrase in target["phrases"]
                if any(words[i:i + len(phrase)] == phrase for i in range(len(words)))]
        assert said, (words, target)
        lengths += [len(corpus.encode(phrase)) - len(phrase) for phrase in said]
    assert max(lengths) > 0


def test_a_value_of_several_tokens_moves_the_end_of_a_fixed_length(corpus, sampling):
    task = TASKS.build(PluginRef(name="compose", tasks=[{"name": "length"}, {"name": "semantic"}]))
    task.prepare(TaskContext(corpus))
    targets = task.targets(corpus, 12, torch.Generator().manual_seed(0))
    texts = guided(sampling, task, targets, GuidanceConfig(by="reweight"), corpus, LENGTH,
                   torch.Generator().manual_seed(1))
    scores = [task.score(words, target) for words, target in zip(texts, targets, strict=True)]
    assert all(score["length"] == 1 for score in scores), scores


@pytest.mark.parametrize("name", ["pos", "tree"])
def test_tags_weigh_on_tokens_that_are_words(corpus, sampling, name):
    """Better than the same model without control."""
    task, targets, texts = asked(sampling, corpus, name, count=8)
    free = sampling.sample(8, LENGTH, torch.Generator().manual_seed(1))
    plain = [corpus.decode(row) for row in free.tolist()]
    led, unled = (sum(task.score(words, target)["success"]
                      for words, target in zip(some, targets, strict=True))
                  for some in (texts, plain))
    assert led > unled + 0.5


def test_tags_are_counted_of_whole_words_alone(corpus):
    from trainable.control.oracles.choosing import AUTO, oracle_for
    counts = Syntax.count(corpus, oracle_for(AUTO, corpus, "tags"), phrases=False).tag_given_word
    begins = torch.from_numpy(corpus.tokens.starts)[4:]
    known = counts[4:].amax(1) > 0.5
    assert known.any() and not (known & ~begins).any()
    assert corpus.word_ids(["is"]) != [UNK]


def test_an_artifacts_lexicon_controls_as_the_corpus_does(corpus, sampling):
    lexicon = Lexicon.of(corpus)
    task = TASKS.build(PluginRef(name="length"))
    task.prepare(TaskContext(lexicon))
    texts = guided(sampling, task, [{"length": n} for n in (3, 9)], GuidanceConfig(by="reweight"), lexicon,
                   LENGTH, torch.Generator().manual_seed(1))
    assert [len(words) for words in texts] == [3, 9]


def test_guidance_that_takes_positions_for_words_is_refused():
    from search.run.validation import check_conditions
    tasks, ways = ("length", "semantic"), ("gradient", "classifier_free", "reweight")
    for task, by in itertools.product(tasks, ways):
        space = Space.from_dict({
            "objectives": {"perplexity": "minimize"}, "budget": {"trials": 1},
            "search": {"seed": {"choice": [0, 1]}},
            "trial": {"corpus": {"tokenizer": "somewhere"},
                      "model": {"name": "masked_lm", "conditions": [task]}, "diffusion": {"name": "masked"},
                      "evaluation": {"control_tasks": [task], "guidance": {"by": by}}}})
        if task == "semantic" and by != "gradient":
            check_conditions(space)
            continue
        with pytest.raises(UserError, match="takes each position for a word|offers no gradient"):
            check_conditions(space)
