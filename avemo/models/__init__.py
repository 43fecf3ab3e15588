"""Flax Linen modules. Each takes and returns arrays (or dictionaries of named arrays) and owns no files."""
