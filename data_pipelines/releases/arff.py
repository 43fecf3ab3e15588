"""Rows of ARFF files (Weka's attribute-relation format), as text.

Our own small parser: SciPy's reads no string attributes, and every file of the AVEC challenges has one.
"""

import re
from pathlib import Path

from data_pipelines.errors import DataError

_QUOTED = r"'(?:[^'\\]|\\.)*+'" + r'|"(?:[^"\\]|\\.)*+"'
_CELL = re.compile(rf"""\s*+({_QUOTED}|[^\s,'"{{}}][^,'"{{}}]*+|)\s*+(,|$)""")
_ATTRIBUTE = re.compile(rf"""@attribute\s++({_QUOTED}|[^\s'"{{}}]++)\s*+\S""", re.IGNORECASE)


def read_arff(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    r"""Reads an ARFF file with dense rows.

    Lines may end in \n or \r\n; empty lines and comments (%) are skipped, wherever they stand.

    Args:
        path: The file, in UTF-8, with or without a byte order mark.

    Returns:
        The names of the attributes, and for every row one text per attribute, without quotation marks; a missing
        value is "?".

    Raises:
        DataError: The file is no such ARFF; the message names the line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); fetch the file anew") from error
    names: list[str] = []
    rows: list[list[str]] = []
    in_data = False
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("%"):
            continue
        if in_data:
            rows.append(_row(line, len(names), f"{path}: line {number}"))
        elif line.lower() == "@data":
            in_data = True
        elif attribute := _ATTRIBUTE.match(line):
            names.append(_unquoted(attribute[1]))
        elif not re.match(r"@relation(\s|$)", line, re.IGNORECASE):
            raise DataError(f"{path}: line {number} is neither @relation, @attribute nor @data: {line[:80]!r}")
    if not in_data or not names:
        raise DataError(f"{path}: no ARFF; looked for @attribute lines and then @data")
    return tuple(names), rows


def _row(line: str, width: int, place: str) -> list[str]:
    if line.startswith("{"):
        raise DataError(f"{place} is a sparse row; only rows with a value for every attribute are read")
    cells, end = [], 0
    while match := _CELL.match(line, end):
        cells.append(_unquoted(match[1]))
        end = match.end()
        if not match[2]:
            break
    if end < len(line) or len(cells) != width or "" in cells:
        raise DataError(f"{place} doesn't hold {width} values with commas between them: {line[:80]!r}")
    return cells


def _unquoted(cell: str) -> str:
    if cell[:1] in ("'", '"'):
        return re.sub(r"\\(.)", r"\1", cell[1:-1])
    return cell.strip()
