"""Tables for a terminal, and lines for everything else.

A terminal gets a table that fits its width or, where the columns need more, a paragraph for each row. A pipe or a file
gets the titles and then one line a row, with a tab between two cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2  # columns of the terminal between two of the table


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: the head of the column.
        is_number: whether its cells stand at the right; its title may be broken into lines.
        wraps: whether its cells may be broken into lines, between words.
    """

    title: str
    is_number: bool = False
    wraps: bool = False

    @property
    def breaks(self) -> bool:
        """Whether it may be narrower than its longest line."""
        return self.wraps or self.is_number


def show(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table.

    Args:
        console: the console of standard output.
        columns: the columns.
        rows: the rows, each with a cell for every column.
        title: the line above the table.
    """
    titles = [column.title for column in columns]
    if title:
        print_line(console, title)
    if not console.is_terminal:
        for cells in (titles, *rows):
            print_line(console, "\t".join(" ".join(cell.split()) for cell in cells))
        return
    widths = [_least_width(column, [row[number] for row in rows]) for number, column in enumerate(columns)]
    if sum(widths) + _GAP * (len(widths) - 1) <= console.width:
        _show_table(console, columns, widths, rows)
    else:
        for cells in rows:
            for name, cell in zip(titles, cells, strict=True):
                print_line(console, f"{name:{max(map(len, titles))}}  {cell}".rstrip())
            print_line(console, "")


def print_line(console: Console, line: str) -> None:
    """Prints a line as it is: nothing in it is colored or filled up, and a terminal folds it where it ends."""
    print(line, file=console.file)


def _least_width(column: Column, cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    parts = [part for cell in (column.title, *cells) for part in (cell.split() if column.breaks else [cell])]
    return max(map(cell_len, parts), default=0)


def _show_table(
    console: Console, columns: Sequence[Column], widths: Sequence[int], rows: Sequence[Sequence[str]]
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.title),
            justify="right" if column.is_number else "left",
            vertical="top",
            no_wrap=not column.breaks,
            min_width=width,
        )
    for cells in rows:
        table.add_row(*map(Text, cells))
    console.print(table)
