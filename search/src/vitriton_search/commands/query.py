"""The command `vitriton search query`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from vitriton._console.failure import Command
from vitriton._console.options import faults, flatten
from vitriton._errors import InvalidOption

from vitriton_search.commands.asking import SHOWN_GROUP, STORE, WHERE, read_condition
from vitriton_search.commands.rows import date_cell, printable, score_cell, size_cell, time_cell
from vitriton_search.options import DEFAULT_STORE, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitriton_search.answers.query import Match, Question

_HELP = (
    "Find the nearest photos, frames or texts of a photo, a text, or a row of the store.\n\n"
    "A path that exists, or a URL, is a photo. An id after `id:` is a row of the store, and needs no server. Anything "
    "else is a text, for which the model needs a text tower, such as those of CLIP and SigLIP. The first line on "
    "standard error says which of these it is. Frames of one video that are near in time are one answer."
)
_EXAMPLES = """
vitriton search query cat.jpg
vitriton search query "a cat on a sofa" -k 5 --where "taken >= '2025-01-01'"
vitriton search query id:/photos/cat.jpg --json
"""
_QUESTION = "Question"
_LONGEST = 200  # characters of a question that are shown


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """The options of `vitriton search query`.

    Attributes:
        question: the photo, the text, or the row whose nearest rows to find.
        store: the store: a folder for LanceDB, or the URL of another store.
        where: the condition that rows must meet, such as "width > 1000 and source like '%/2025/%'". None: all rows.
        k: the largest number of answers.
        exact: compare with every row, instead of asking the approximate index.
        join_s: the longest time between two frames of a video that are one answer, in seconds.
        served: the served model that embeds a photo or a text.
        as_json: print a line of JSON for each answer.
        quiet: print answers and errors only.
    """

    question: Annotated[str, typer.Argument(metavar="PHOTO|TEXT|ID", show_default=False)]
    k: Annotated[int, typer.Option("--limit", "-k", metavar="N", min=1, max=1000, rich_help_panel=_QUESTION)] = 20
    store: Annotated[str, STORE] = DEFAULT_STORE
    where: Annotated[str | None, WHERE] = None
    exact: Annotated[bool, typer.Option("--exact", rich_help_panel=_QUESTION)] = False
    join_s: Annotated[float, typer.Option("--join", metavar="SECONDS", min=0, rich_help_panel=_QUESTION)] = 5.0
    served: ModelOptions = field(default_factory=ModelOptions)
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=SHOWN_GROUP)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=SHOWN_GROUP)] = False

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for option, wrong in faults(self):
            raise InvalidOption(option, wrong)
        if self.question == "id:":
            raise InvalidOption("question", "is id: without an id; write the id of a row after it")


def register(group: typer.Typer) -> None:
    """Adds the command to the group `vitriton search`."""
    group.command("query", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(query))


def query(options: QueryOptions) -> None:
    """Finds the nearest rows; the help text is _HELP."""
    # Imported here so that `vitriton search --help` does not wait for it.
    from vitriton_search.answers.query import ask, nearest, read_question
    from vitriton_search.stores import open_store

    served = options.served
    served.server.check()
    question = read_question(options.question)
    if question.kind == "photo" and Path(question.value).is_dir():
        raise InvalidOption("question", f"is {question.value}, a folder; name one photo")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(options.store))
        where = read_condition(options.where, store)
        if not options.quiet:
            typer.echo(_taken_for(question), err=True)
        client = None
        if question.kind != "row":
            model, space = served.model or store.space.model, store.space
            client = served.server.client(model=model, expect_fingerprint=space.fingerprint, timeout_s=served.timeout_s)
            stack.enter_context(client)
        answers = nearest(
            store,
            ask(question, store, client),
            options.k,
            where,
            exact=options.exact,
            without=question.value if question.kind == "row" else None,
            join_s=options.join_s,
        )
    _show(answers, options)


def _taken_for(question: Question) -> str:
    from vitriton._console.inputs import SUFFIXES

    shown = printable(question.value)
    if len(shown) > _LONGEST:  # a data: URI
        shown = f"{shown[:_LONGEST]}..."
    is_like_a_file = question.kind == "text" and Path(question.value).suffix.lower() in SUFFIXES
    return f"{question.kind}: {shown}" + (" (there is no such file)" if is_like_a_file else "")


def _show(answers: Sequence[Match], options: QueryOptions) -> None:
    import json

    from rich.console import Console
    from vitriton._console.tables import Column, show

    if options.as_json:
        for answer in answers:
            typer.echo(json.dumps(answer.document()))
        return
    if not answers and not options.quiet:
        typer.echo("no row meets the condition" if options.where else "the store has no row with a vector", err=True)
    has_frames = any(answer.frames for answer in answers)
    columns = [Column("SCORE", is_number=True), Column("SOURCE"), Column("SIZE"), Column("DATE")]
    if has_frames:
        columns.insert(2, Column("TIME"))
    rows = []
    for answer in answers:
        row = answer.hit.row
        cells = [score_cell(answer.hit.score), printable(row["source"]), size_cell(row), date_cell(row)]
        if has_frames:
            times = dict.fromkeys(time_cell(time) for time in (answer.start_s, row["time_s"], answer.end_s))
            cells.insert(2, " - ".join(times))
        rows.append(cells)
    show(Console(), columns, rows)
