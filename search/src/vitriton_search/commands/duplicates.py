"""The command `vitriton search duplicates`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from vitriton._console.failure import Command
from vitriton._console.options import faults, flatten
from vitriton._errors import InvalidOption

from vitriton_search.commands.asking import SHOWN_GROUP, STORE, WHERE, read_condition
from vitriton_search.commands.rows import date_cell, printable, score_cell, size_cell
from vitriton_search.options import DEFAULT_STORE

if TYPE_CHECKING:
    from vitriton_search.answers.duplicates import Duplicates

_HELP = (
    "Find groups of near-duplicates.\n\n"
    "Two rows are in one group if a chain of pairs joins them, each with a cosine at or above the threshold. Frames of "
    "one video do not count as duplicates of each other. The curve on standard error counts the pairs by their cosine: "
    "put the threshold where the pairs that are the same photo end, and those that only look alike begin. The first "
    "row of a group is the one with the most pixels."
)
_EXAMPLES = """
vitriton search duplicates
vitriton search duplicates --threshold 0.9 --store photos.lance --json
"""
_BAR = 40  # characters of the longest bar
_GROUP = "Comparison"


@dataclass(frozen=True, kw_only=True)
class DuplicatesOptions:
    """The options of `vitriton search duplicates`.

    Attributes:
        threshold: the lowest cosine of a pair of duplicates.
        store: the store: a folder for LanceDB, or the URL of another store.
        where: the condition that rows must meet, such as "width > 1000 and source like '%/2025/%'". None: all rows.
        exact: compare all pairs, or each row with those that the approximate index finds. None: all pairs, except in
            an indexed store of more than 200,000 rows.
        as_json: print the groups and the curve as JSON.
        quiet: print groups and errors only.
    """

    threshold: Annotated[float, typer.Option(metavar="COSINE", rich_help_panel=_GROUP)] = 0.95
    store: Annotated[str, STORE] = DEFAULT_STORE
    where: Annotated[str | None, WHERE] = None
    exact: Annotated[bool | None, typer.Option("--exact/--approximate", rich_help_panel=_GROUP)] = None
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=SHOWN_GROUP)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=SHOWN_GROUP)] = False

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for option, wrong in faults(self):
            raise InvalidOption(option, wrong)
        if not 0 < self.threshold <= 1:
            raise InvalidOption("threshold", f"is {self.threshold:g}; it must be above 0 and at most 1")


def register(group: typer.Typer) -> None:
    """Adds the command to the group `vitriton search`."""
    group.command("duplicates", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(duplicates))


def duplicates(options: DuplicatesOptions) -> None:
    """Finds near-duplicates; the help text is _HELP."""
    # Imported here so that `vitriton search --help` does not wait for it.
    import json

    from vitriton._console.progress import count, progress

    from vitriton_search.answers.duplicates import find_duplicates
    from vitriton_search.stores import open_store

    with open_store(options.store) as store:
        where = read_condition(options.where, store)
        with progress(len(store), 0, 0, noun="row", quiet=options.quiet) as counted:

            def advance(rows: int) -> None:
                for _ in range(rows):
                    counted(failed=False)

            found = find_duplicates(store, options.threshold, where, exact=options.exact, advance=advance)
    if options.as_json:
        typer.echo(json.dumps(found.document()))
        return
    if not options.quiet:
        for line in curve_lines(found):
            typer.echo(line, err=True)
        members = sum(map(len, found.groups))
        how = "" if found.is_exact else "; each row with the nearest that the index finds"
        left_out = f", {found.left_out} without a vector" if found.left_out else ""
        typer.echo(
            f"{count(len(found.groups), 'group')} of {count(members, 'row')} at {options.threshold:g} or more "
            f"({count(found.rows, 'row')} compared{left_out}{how})",
            err=True,
        )
    _show(found)


def curve_lines(found: Duplicates) -> list[str]:
    """The curve as text: a bar for each step, whose length is the logarithm of the number of pairs."""
    from math import log10

    lines = ["COSINE       PAIRS  (the bars are logarithmic)"]
    longest = max((log10(1 + bar.pairs) for bar in found.curve), default=0) or 1
    for bar in reversed(found.curve):
        length = round(_BAR * log10(1 + bar.pairs) / longest)
        below = bar.high <= found.threshold
        lines.append(f"{bar.low:.2f}  {bar.pairs:>12,}  {('-' if below else '#') * length}".rstrip())
    return lines


def _show(found: Duplicates) -> None:
    from rich.console import Console
    from vitriton._console.tables import Column, show

    titles = ("GROUP", "SCORE", "SOURCE", "SIZE", "DATE")
    rows = [
        [str(number), score_cell(hit.score), printable(hit.id), size_cell(hit.row), date_cell(hit.row)]
        for number, group in enumerate(found.groups, 1)
        for hit in group
    ]
    show(Console(), [Column(title, is_number=title in ("GROUP", "SCORE")) for title in titles], rows)
