"""Errors that are the user's to mend: the command line prints them as one line and exits with 1."""


class LaunchError(Exception):
    """What was wrong, in which file, and what to do about it."""
