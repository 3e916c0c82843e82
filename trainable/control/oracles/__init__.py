"""Oracles: what says which tag each word has and how a text is bracketed. Every control score
names its oracle."""
