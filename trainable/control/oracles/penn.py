"""Penn Treebank tags as universal ones (universaldependencies.org/tagset-conversion/en-penn-uposf.html)."""

from __future__ import annotations

from collections.abc import Sequence

_TAGS = {
    "ADJ": "JJ JJR JJS AFX", "ADP": "IN", "ADV": "RB RBR RBS WRB", "AUX": "MD", "CCONJ": "CC",
    "DET": "DT PDT WDT", "INTJ": "UH",
    "NOUN": "NN NNS", "NUM": "CD", "PART": "POS RP TO", "PRON": "EX PRP PRP$ WP WP$", "PROPN": "NNP NNPS",
    "PUNCT": ". , : `` '' -LRB- -RRB- HYPH NFP ( ) \"", "SYM": "# $ SYM", "VERB": "VB VBD VBG VBN VBP VBZ",
    "X": "FW LS ADD GW XX",
}
_UPOS = {penn: upos for upos, names in _TAGS.items() for penn in names.split()}
_BE = frozenset("be am is are was were been being 's 're 'm".split())
_HELPERS = frozenset("have has had having 've do does did".split())
_JOINING = frozenset("although though because if whether while since unless".split())
_BETWEEN = ("ADV", "PART", "PRON")
"""Tags that may stand between a helper verb and the verb it helps: `does not welcome`."""


def to_upos(words: Sequence[str], penn: Sequence[str]) -> tuple[str, ...]:
    """A universal tag per word. Forms of `be` are AUX; `have` and `do` where a verb follows; `if`,
    `although` SCONJ."""
    tags = [_UPOS.get(tag.split("-")[0] if tag[:1].isalpha() else tag, "X") for tag in penn]
    folded = [word.lower() for word in words]
    for i, word in enumerate(folded):
        if word in ("not", "n't") or word == "to" and i + 1 < len(penn) and penn[i + 1] == "VB":
            tags[i] = "PART"
        elif word == "to":
            tags[i] = "ADP"
        elif word in ("£", "€", "$"):
            tags[i] = "SYM"
        elif word in _BE and tags[i] == "VERB":
            tags[i] = "AUX"
        elif word in _JOINING and tags[i] == "ADP":
            tags[i] = "SCONJ"
    for i, word in enumerate(folded):
        if word in _HELPERS and tags[i] == "VERB":
            after = next((tag for tag in tags[i + 1:] if tag not in _BETWEEN), "")
            tags[i] = "AUX" if after in ("VERB", "AUX") else "VERB"
    return tuple(tags)
