"""Corpora: where the text comes from (plug-ins) and how it becomes a memory-mapped table of token ids."""
