"""Which language a text is in, whether it was cut into words, and who is refused because of it."""

from collections import Counter

import pytest
import torch
from control_corpora import CORPORA as TOLD

from spaces.config import CorpusConfig, PluginRef
from spaces.errors import UserError
from trainable.control.lexicon import Lexicon
from trainable.control.oracles.choosing import oracle_for
from trainable.control.oracles.pipelines import _language
from trainable.control.tag_shares import tag_shares
from trainable.corpora.language import LEAST, language_of, uncut
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.corpora.words import splitter
from trainable.registry import CORPORA, TASKS

RIGHTS = {  # the first article of the Universal Declaration of Human Rights
    "en": "All human beings are born free and equal in dignity and rights . They are endowed with reason and "
          "conscience and should act towards one another in a spirit of brotherhood .",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren . Sie sind mit Vernunft und "
          "Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen .",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits . Ils sont doués de "
          "raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité .",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y , dotados como están de "
          "razón y conciencia , deben comportarse fraternalmente los unos con los otros .",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren . Zij zijn begiftigd met "
          "verstand en geweten , en behoren zich jegens elkander in een geest van broederschap te gedragen .",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw . "
          "Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa .",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv . "
          "Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství .",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах . "
          "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства .",
    "zh": "人 人 生 而 自 由 ， 在 尊 严 和 权 利 上 一 律 平 等 。",
    "ja": "すべて の 人間 は 、 生まれ ながら に し て 自由 で あり 、 かつ 、 尊厳 と 権利 と について 平等 で ある 。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다 .",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα .",
}


def counted(text: str, times: int = 3) -> Counter:
    return Counter({word: times * count for word, count in Counter(text.split()).items()})


@pytest.mark.parametrize("language", RIGHTS)
def test_the_language_is_told_from_the_words(language):
    assert language_of(counted(RIGHTS[language], 5)) == language


def test_what_cannot_be_told_is_not_guessed():
    assert (language_of(counted("w1 w2 w3 x4", 100)) == language_of(Counter())
            == language_of(counted("1 2 3 . ,", 100)) == "")
    few = Counter({"der": LEAST // 2, "und": LEAST // 2 - 1})
    assert language_of(few) == "" and language_of(few + few) == "de"
    assert language_of(counted("Қазақстан Республикасы мемлекет болып табылады",
                               20)) == "und", "not Latin, and not known"


CHINESE, THAI = "人人生而自由，在尊严和权利上一律平等。", "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ"


@pytest.mark.parametrize(("text", "script"), [(CHINESE, "Chinese characters"), (THAI, "Thai script"),
                                              ("你好吗", "Chinese characters")])
def test_text_without_spaces_that_was_not_cut_is_seen(text, script):
    assert uncut(Counter({text: 10}), 10) == script
    assert uncut(Counter(splitter("characters")(text)), 1) is None


@pytest.mark.parametrize("language", RIGHTS)
def test_text_that_is_cut_is_no_concern(language):
    assert uncut(counted(RIGHTS[language]), 3) is None


def test_characters_are_words_and_latin_runs_stay_whole():
    assert splitter("characters")("我用 Python3 写\n代码。") == ["我", "用", "Python3", "写", "代", "码", "。"]
    assert splitter("characters")("เกิด") == ["เ", "กิ", "ด"], "a vowel above belongs to its consonant"
    assert splitter("characters")("") == splitter("characters")(" \n") == []


def test_a_tokenizer_for_another_language():
    assert splitter("spacy:de")("Er sagte z.B. nichts.")[-1] == "."
    assert splitter("spacy:zh")("自由平等") == ["自", "由", "平", "等"]
    for wrong in ("spcy", "spacy:", "spacy:qq", "whitespace:de", "spacy:../en"):
        with pytest.raises(UserError, match="corpus 'lines', parameter 'tokenizer': .*legal: "
                                            "spacy .English rules., spacy:LANGUAGE"):
            CORPORA.build(PluginRef(name="lines", path="x", tokenizer=wrong))


def test_a_language_whose_rules_need_a_package_says_so(monkeypatch):
    def absent(language):
        raise ImportError("needs SudachiPy\nand its dictionary")

    monkeypatch.setattr("spacy.blank", absent)
    with pytest.raises(UserError, match="'spacy:ja': needs a package that is not installed .*; "
                                        "legal without it: characters"):
        splitter("spacy:ja")


def corpus_of(tmp_path, text: str, tokenizer="whitespace", **config) -> TokenizedCorpus:
    (tmp_path / "a.txt").write_text("".join(f"{text} {i}\n" for i in range(40)))
    source = PluginRef(name="lines", path=str(tmp_path / "a.txt"), tokenizer=tokenizer)
    build(CorpusConfig(source=source, max_length=64, min_count=0, **config), tmp_path / "out")
    return TokenizedCorpus.open(tmp_path / "out")


@pytest.mark.parametrize("tokenizer", ["whitespace", "spacy"])
def test_text_without_spaces_is_refused_in_one_line_that_names_a_tokenizer(tmp_path, tokenizer):
    with pytest.raises(UserError,
                       match=r"'lines': its text is in Chinese characters, written without spaces, .*set "
                       r"corpus.source.tokenizer: characters \(or spacy:zh") as caught:
        corpus_of(tmp_path, CHINESE * 2, tokenizer)
    assert "\n" not in str(caught.value)
    assert corpus_of(tmp_path, CHINESE, "characters").stats["language"] == "zh"


@pytest.mark.parametrize("task", ["pos", "spans", "tree"])
@pytest.mark.parametrize(("language", "told"), [("de", "'de'"), ("ru", "'ru'")])
def test_auto_refuses_what_it_cannot_read(tmp_path, task, language, told):
    corpus = corpus_of(tmp_path, RIGHTS[language])
    with pytest.raises(UserError, match=f"auto is textblob here, which reads en, and the corpus's text is {told}; name an oracle") \
            as caught:
        TASKS.build(PluginRef(name=task)).targets(corpus, 2, torch.Generator())
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="'textblob' reads en"):
        oracle_for("textblob", corpus, "tags")
    assert tag_shares(corpus) == {} and Lexicon.of(corpus, tag_shares(corpus)).tags == {}
    assert TASKS.build(PluginRef(name="length")).targets(corpus, 2, torch.Generator()), (
        "counting needs no language")


def test_the_language_is_a_setting_that_wins(tmp_path):
    corpus = corpus_of(tmp_path, RIGHTS["de"], language="en")
    assert corpus.stats["language"] == "en" and oracle_for("auto", corpus, "tags").name == "textblob"


def test_english_and_older_corpora_are_read_as_before(tmp_path):
    assert oracle_for("auto", corpus_of(tmp_path, RIGHTS["en"]), "tags").name == "textblob"
    assert "language" not in TOLD["e2e"].stats and oracle_for("auto", TOLD["e2e"], "tags").name == "textblob"
    assert oracle_for("auto", TOLD["restaurant"], "tags").name == "grammar"


@pytest.mark.parametrize(("model", "languages"),
                         [("en_core_web_sm", ("en",)), ("de_core_news_sm", ("de",)), ("en3", ("en",)),
                          ("xx_sent_ud_sm", ()), ("my_model", ()), ("pipeline", ())])
def test_the_language_of_a_model_is_in_its_name(model, languages):
    assert _language(model) == languages


def test_the_language_of_a_folder_is_in_its_meta(tmp_path):
    (tmp_path / "meta.json").write_text('{"lang": "de", "name": "mine"}')
    assert _language(str(tmp_path)) == ("de",)
