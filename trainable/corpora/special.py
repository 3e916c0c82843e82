"""The ids that every corpus begins with."""

START, END, UNK, PAD = range(4)
