"""What the offline oracles are worth: `python -m benchmarks.control_oracles [--data DIR]`.

On the built-in corpus: texts that the grammar reads back as they were written, milliseconds a text, and how
many tags stay right when one word of a text is replaced by another. With `--data` (a folder that holds e2e/):
agreement of textblob with the released tags and spans, and per field the share of human texts that say
the field's value literally, which is the ceiling of the oracle `words`. With `--data` and `--oracle NAME`
that oracle's agreement alone, in a file of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import save
from trainable.control.lexicon import contains
from trainable.control.oracles.brackets import reading_of
from trainable.control.oracles.choosing import oracle_named
from trainable.control.target_files import read_entries
from trainable.corpora.e2e import E2E
from trainable.corpora.restaurant import Restaurant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--oracle")
    args = parser.parse_args()
    if args.oracle:
        found = agreement(Path(args.data) / "e2e" / "control_targets", args.oracle)
        print(json.dumps(found, indent=1))
        save(f"control_oracle_{args.oracle.partition(':')[0]}", {args.oracle: found})
        return
    figures = {"grammar": grammar(args.texts)}
    if args.data:
        released = Path(args.data) / "e2e" / "control_targets"
        figures |= {"textblob": agreement(released, "textblob"),
                    "semantic_ceiling": ceilings(str(Path(args.data) / "e2e"))}
    print(json.dumps(figures, indent=1))
    save("control_oracles", figures)


def grammar(count: int) -> dict:
    """The built-in corpus's reader, on texts of up to 16 and up to 40 words."""
    found = {}
    for words in (16, 40):
        source = Restaurant(Restaurant.Params(sentences=count, max_words=words))
        texts = list(itertools.islice(source.examples("train"), count))
        oracle, rng = oracle_named("grammar"), random.Random(0)
        oracle.read(texts[0].words)
        began = time.perf_counter()
        read = [oracle.read(text.words) for text in texts]
        seconds = time.perf_counter() - began
        vocabulary = sorted({word for text in texts for word in text.words})
        kept = others = 0
        for text in texts:
            spoiled, at = list(text.words), rng.randrange(len(text.words))
            spoiled[at] = rng.choice(vocabulary)
            pairs = zip(oracle.read(spoiled).tags, text.upos, strict=True)
            kept += sum(tag == gold for i, (tag, gold) in enumerate(pairs) if i != at)
            others += len(spoiled) - 1
        found[f"to {words} words"] = {
            "texts": count, "ms": 1000 * seconds / count,
            "tags_right": sum(a.tags == b.upos for a, b in zip(read, texts, strict=True)) / count,
            "trees_right": sum(sorted(a.spans) == sorted(reading_of(b.tree).spans)
                               for a, b in zip(read, texts, strict=True)) / count,
            "tags_kept_beside_a_wrong_word": kept / others}
    return found


def agreement(released: Path, name: str) -> dict:
    """With the released targets: tags, and spans with label and with any, where the oracle gives them."""
    oracle, same, tags, spans, hits, unlabeled = oracle_named(name), 0, 0, 0, 0, 0
    for entry in read_entries(released / "target_pos.json"):
        pairs = [pair for pair in zip(entry.strings("words_"), entry.strings("pos"), strict=True)
                 if pair[0] not in ("START", "END", "\n")]
        found = oracle.read([word for word, _ in pairs]).tags
        same += sum(tag == gold for tag, (_, gold) in zip(found, pairs, strict=True))
        tags += len(pairs)
    if "spans" not in oracle.provides:
        return {"tags": tags, "tags_right": same / tags}
    for entry in read_entries(released / "target_spans.json"):
        read = oracle.read(entry.words()).spans
        unlabeled += sum(tuple(span[:2]) in {found[:2] for found in read} for span in entry.get("spans"))
        hits += sum(tuple(span) in read for span in entry.get("spans"))
        spans += len(entry.get("spans"))
    return {"tags": tags, "tags_right": same / tags, "spans": spans, "spans_right": hits / spans,
            "spans_right_unlabeled": unlabeled / spans}


def ceilings(path: str) -> dict:
    """Per field, how often human validation text that carries the field says its value in its own words."""
    said, carried = Counter(), Counter()
    for example in E2E(E2E.Params(path=path)).examples("valid"):
        for field, value in example.fields.items():
            carried[field] += 1
            said[field] += contains(example.words, value.split())
    return {field: said[field] / count for field, count in carried.most_common()}


if __name__ == "__main__":
    main()
