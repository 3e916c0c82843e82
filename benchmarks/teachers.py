"""Counted teachers on E2E: `python -m benchmarks.teachers DATA [--model FOLDER]`.

DATA holds e2e/. Per order of the n-gram model: seconds of counting, n-grams, and the perplexity of 1,000
held-out texts a word, END included. `--model`: a causal LM's folder, whose perplexity of 64 held-out texts is
a token of its own, and whose seconds are beside those of the 5-gram model on the same texts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import save
from spaces.config import CorpusConfig, PluginRef
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.perplexity import pooled_perplexity
from trainable.scoring.kneser_ney import count_teacher
from trainable.scoring.teachers import load_teacher

ORDERS = (2, 3, 4, 5)
TEXTS = 64


def main() -> None:
    """Write results/teachers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as root:
        source = PluginRef(name="e2e", path=str(Path(args.data) / "e2e"))
        build(CorpusConfig(source=source), Path(root) / "corpus")
        corpus = TokenizedCorpus.open(Path(root) / "corpus")
        for order in ORDERS:
            facts = list(count_teacher(order, corpus, Path(root) / str(order)))[-1]
            figures[facts["name"]] = {name: facts[name]
                                      for name in ("heldout_perplexity", "ngrams", "seconds")}
        texts = [corpus.decode(row) for row in corpus.ids("valid")[:TEXTS]]
        for folder in (str(Path(root) / str(ORDERS[-1])), *([args.model] if args.model else ())):
            teacher = load_teacher(folder, corpus)
            began = time.perf_counter()
            value, _ = pooled_perplexity(*teacher.nll(texts))
            figures[f"{teacher.name} on {TEXTS} texts"] = {"perplexity": value,
                                                          "seconds": time.perf_counter() - began}
        sizes = {"texts": corpus.stats["sentences"], "words": len(corpus.vocab)}
    print(json.dumps(figures, indent=1))
    save("teachers", {**sizes, "figures": figures})


if __name__ == "__main__":
    main()
