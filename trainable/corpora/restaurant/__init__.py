"""A built-in corpus: English restaurant descriptions written by a grammar, with exact gold annotation."""

from trainable.corpora.restaurant.corpus import Restaurant

__all__ = ["Restaurant"]
