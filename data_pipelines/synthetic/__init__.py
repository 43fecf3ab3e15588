"""Synthetic corpora in the releases' own forms, drawn from known parameters so that the right answer is known."""
