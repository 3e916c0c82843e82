"""The words of an artifact as a Hugging Face tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors

TOKENIZER = "tokenizer.json"


def tokenizer(vocabulary: list[str]) -> Tokenizer:
    """A word-level tokenizer over text whose words are separated by spaces: START words END,
    UNK for unknown words.

    `transformers.PreTrainedTokenizerFast(tokenizer_file=...)` and `tokenizers.Tokenizer.from_file` read it.
    """
    ids = {word: number for number, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(ids, unk_token=vocabulary[2]))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    start, end = vocabulary[:2]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])])
    return made
