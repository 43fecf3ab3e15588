"""Readers of the corpora in the forms in which they were released: they parse and check, nothing else."""
