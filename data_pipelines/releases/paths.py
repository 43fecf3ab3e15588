"""Paths that data files name, and looking for what a release holds: copies differ in how they were unpacked."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from data_pipelines.errors import DataError


def stays_inside(path: str) -> bool:
    """Whether a path from a data file stays below the folder that it will be joined to.

    Only the text is looked at: users may link folders as they like. A path has to be relative and must not hold
    `..` at all, because behind a link even `1/../a.jpg` may lie elsewhere. Backslashes and drive letters count as on
    Windows, so that a path is judged alike everywhere (our choice).

    Args:
        path: As it stands in the data file.

    Returns:
        False also for an empty path and for one that holds a NUL.
    """
    parsed = PureWindowsPath(path)
    # Windows drops blanks and full stops from the end of a name, so ".. ." would be ".." there.
    names = [part.strip(" .") for part in parsed.parts]
    return bool(names) and all(names) and not parsed.anchor and "\0" not in path


def is_file(path: Path) -> bool:
    """Whether there is such a file; no file has a name that the system refuses, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def folders(root: Path) -> Iterator[Path]:
    """The root, its folders, and theirs, in a fixed order; those that may not be looked into count as empty."""
    children = _children(root)
    yield root
    yield from children
    for child in children:
        # The pictures' own folder holds a thousand folders of pictures and nothing to look for.
        if not child.name.lower().removesuffix("s").endswith("image"):
            yield from _children(child)


def _children(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def holds(folder: Path, ending: str) -> bool:
    """Whether a folder has a file with that ending; stops at the first, as there may be a million."""
    return folder.is_dir() and any(name.endswith(ending) for name in file_names(folder))


def file_names(folder: Path) -> Iterator[str]:
    """Names of the files in a folder, in no order; bytes that are no UTF-8 come as escapes.

    Raises:
        DataError: The folder can't be looked into.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name.encode(errors="backslashreplace").decode() for entry in entries if entry.is_file())
    except OSError as error:
        raise DataError(f"{folder}: can't be looked into ({error.strerror}); check its permissions") from error
