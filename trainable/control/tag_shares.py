"""How often each word of a corpus carries each part of speech."""

from __future__ import annotations

from trainable.corpora.tokenized import TokenizedCorpus


def tag_shares(corpus: TokenizedCorpus) -> dict[str, dict[str, float]]:
    """Word -> share of each tag in training text, by the oracle that suits the corpus; words never seen
    are left out. Empty where no oracle at hand reads the corpus's language."""
    from trainable.control.lexicon import language_of, oracle_of
    from trainable.control.oracles.base import UPOS
    from trainable.control.oracles.choosing import AUTO, DEFAULT, oracle_for, oracle_named
    from trainable.control.syntax import Syntax
    from trainable.corpora.language import readable

    if not readable(language_of(corpus), oracle_named(DEFAULT[oracle_of(corpus)]).languages):
        return {}
    table = Syntax.count(corpus, oracle_for(AUTO, corpus, "tags"), phrases=False).tag_given_word
    shares = {}
    for word, row in zip(corpus.vocab, table[:, :len(UPOS)].tolist(), strict=True):
        if 0 < sum(share > 0 for share in row) < len(UPOS):
            shares[word] = {tag: round(share, 4) for tag, share in zip(UPOS, row, strict=True) if share > 0}
    return shares
