"""The one error of this package: something about the data is not as it must be."""


class DataError(Exception):
    """What was wrong, in which file or folder, and what to do about it: one line, fit to show to a user."""
