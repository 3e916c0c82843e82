"""Tiny Hugging Face tokenizers of each kind, made with the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = ("The Punter is a cheap pub near the river .",
         "Alimentum serves Italian food , and it isn't bad .",
         "There is an expensive restaurant called The Phoenix .",
         "£20 is the price of a family-friendly inn .")
KINDS = ("wordpiece", "bytes", "metaspace")
_BERT = dict(cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")
_GPT = dict(eos_token="<|endoftext|>", mask_token="<|mask|>")
_LLAMA = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>")


def write(folder: Path, kind: str, texts: Sequence[str] = TEXTS, size: int = 120, lower: bool = False,
          mask: bool = True) -> Path:
    """A tokenizer learned from `texts` as a folder that transformers reads, too."""
    if kind == "wordpiece":
        marks, made = _BERT, Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=True)
        if lower:
            made.normalizer = normalizers.BertNormalizer(lowercase=True)
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(_BERT.values()),
                                            show_progress=False)
    elif kind == "bytes":
        marks, made = _GPT, Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=256 + size, show_progress=False,
                                      special_tokens=list(_GPT.values()),
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        marks, made = _LLAMA, Tokenizer(models.BPE(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                      special_tokens=list(_LLAMA.values()))
    if not mask:
        marks = {name: text for name, text in marks.items() if name != "mask_token"}
        trainer.special_tokens = list(marks.values())
    made.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return folder
