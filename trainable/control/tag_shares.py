"""How often each word of a corpus carries each part of speech."""

from __future__ import annotations

from trainable.corpora.tokenize import TokenizedCorpus


def tag_shares(corpus: TokenizedCorpus) -> dict[str, dict[str, float]]:
    """Word -> share of each tag in training text, by the oracle that suits the corpus; words never seen are left out."""
    from trainable.control.oracles.base import UPOS
    from trainable.control.oracles.choosing import AUTO, oracle_for
    from trainable.control.syntax import Syntax

    table = Syntax.count(corpus, oracle_for(AUTO, corpus, "tags"), phrases=False).tag_given_word
    shares = {}
    for word, row in zip(corpus.vocab, table[:, :len(UPOS)].tolist(), strict=True):
        if 0 < sum(share > 0 for share in row) < len(UPOS):
            shares[word] = {tag: round(share, 4) for tag, share in zip(UPOS, row, strict=True) if share > 0}
    return shares
