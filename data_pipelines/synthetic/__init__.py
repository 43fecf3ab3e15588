"""Synthetic corpora in the releases' own forms, drawn from known parameters so that the answer is known."""
