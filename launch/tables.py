"""Tables of figures ready to be shown: the pages and the terminal show the same ones."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import rich
import rich.box
import rich.table
from rich.text import Text

PERCENT = "{:.1%}"
NOTHING = "\N{EN DASH}"
"""Stands in a table where there is no figure."""


@dataclass(frozen=True)
class Table:
    """Cells ready to be shown; the first column names the rows, those of `words` hold text rather than figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], words: tuple[str, ...] = ()
    ) -> "Table":
        """A table without the rows and columns that are empty."""
        filled = [i for i in range(len(columns)) if any(cells[i] for cells in rows.values())]
        return cls(
            title,
            ("", *(columns[i] for i in filled)),
            tuple((label, *(cells[i] or NOTHING for i in filled)) for label, cells in rows.items() if any(cells)),
            words,
        )


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables in the terminal, one below the other."""
    for table in tables:
        drawn = rich.table.Table(
            title=Text(table.title), title_justify="left", box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for i, column in enumerate(table.columns):
            figures = i > 0 and column not in table.words
            drawn.add_column(Text(column), justify="right" if figures else "left", no_wrap=i == 0 or figures)
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        rich.print(drawn)


def show(value: float | None, form: str, unit: float = 1.0) -> str:
    """A figure as text; nothing where there is no figure."""
    if value is None or math.isnan(value):
        return ""
    return form.format(value * unit).replace("%", "\N{NARROW NO-BREAK SPACE}%")
