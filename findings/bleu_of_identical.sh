#!/usr/bin/env bash
# nltk 3.10.4 and sacrebleu 2.6.0: the BLEU of a text with itself is 0, 0.56, 1.12 or 100, by library and
# option.
#
# BLEU of a candidate that equals its reference is expected to be 1 (100), and never more. nltk's
# sentence_bleu gives 1.12 for seven identical words with smoothing methods 5 and 7 (they average
# neighboring precisions, starting from the first one plus 1), 1e-77 for three words without smoothing and
# 0.56 to 0.84 with methods 1 to 5 and 7. sacrebleu gives the same three words 100 as a sentence and 0 as a
# corpus. Self-BLEU as a measure of diversity runs over many short generated texts: rows of equal texts can
# pass as diverse, or raise the mean above 1. Name library, smoothing and order beside a self-BLEU, and test
# it on duplicates.
# Source: nltk/translate/bleu_score.py SmoothingFunction; sacrebleu/metrics/bleu.py effective_order.
#
# Output seen:
#   nltk 3.10.4, sacrebleu 2.6.0
#   expected: 1 (sacrebleu: 100) for a text against itself
#   seen: nltk method0: seven words 1.000, three words 1.22e-77
#   seen: nltk method1: seven words 1.000, three words 0.562
#   seen: nltk method2: seven words 1.000, three words 0.841
#   seen: nltk method3: seven words 1.000, three words 0.841
#   seen: nltk method4: seven words 1.000, three words 0.576
#   seen: nltk method5: seven words 1.117, three words 0.703
#   seen: nltk method7: seven words 1.117, three words 0.747
#   seen: sacrebleu, three words: sentence 100.0, corpus 0.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-nltk==3.10.4 sacrebleu==2.6.0}
cd "$work" && venv/bin/python -I -W ignore - <<'PY'
import importlib.metadata

import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("nltk", "sacrebleu")), sep=", ")
print("expected: 1 (sacrebleu: 100) for a text against itself")
LONG, SHORT = "the cat sat on the mat today".split(), "it is cheap".split()
seen = {}
for method in (0, 1, 2, 3, 4, 5, 7):
    smooth = getattr(SmoothingFunction(), f"method{method}")
    seen[method] = [sentence_bleu([text], text, smoothing_function=smooth) for text in (LONG, SHORT)]
    print(f"seen: nltk method{method}: seven words {seen[method][0]:.3f}, three words {seen[method][1]:.3g}")
text = " ".join(SHORT)
sentence, corpus = sacrebleu.sentence_bleu(text, [text]).score, sacrebleu.corpus_bleu([text], [[text]]).score
print(f"seen: sacrebleu, three words: sentence {sentence:.1f}, corpus {corpus:.1f}")
assert all(round(seen[method][0], 3) == 1.117 for method in (5, 7)), "changed: no more than 1"
assert seen[0][1] < 1e-70, "changed: short texts without smoothing"
assert all(0.5 < seen[method][1] < 0.9 for method in (1, 2, 3, 4, 5, 7)), "changed: short texts"
assert round(sentence, 3) == 100 and corpus == 0, "changed: sacrebleu"
PY
