"""Rows of the CSV files that the releases come with."""

import csv
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from data_pipelines.errors import DataError


def csv_rows(path: Path, delimiter: str = ",") -> Generator[list[str], None, None]:
    """Reads a CSV file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        delimiter: What stands between two cells.

    Yields:
        The cells of every row, without blanks around them; an empty list for an empty line.

    Raises:
        DataError: The file can't be read, or a line is no UTF-8 or no CSV (such as one that opens a quotation and
            never ends it).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as handle:
            reader = csv.reader(_utf8_lines(handle, path), delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    yield [cell.strip() for cell in row]
            except csv.Error as error:
                raise DataError(
                    f"{path}: line {reader.line_num} is no CSV ({error}); fetch or save it anew, as UTF-8"
                ) from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); check the file and its permissions") from error


def _utf8_lines(lines: Iterable[str], path: Path) -> Iterator[str]:
    """The lines themselves: only line by line can be told which one isn't UTF-8."""
    for number, line in enumerate(lines, start=1):
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}: line {number} is not UTF-8; fetch or save it anew, as UTF-8") from error
        yield line
