"""The command `vitriton search neighbors`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from vitriton._console.failure import Command
from vitriton._console.options import faults, flatten
from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption

from vitriton_search.commands.asking import SHOWN_GROUP, STORE, WHERE, read_condition
from vitriton_search.commands.rows import printable
from vitriton_search.options import DEFAULT_STORE

if TYPE_CHECKING:
    from vitriton_search.answers.neighbors import Evaluation, LabelScore
    from vitriton_search.answers.vectors import Vectors

_HELP = (
    "Measure how well the neighbors of a row predict its label.\n\n"
    "The k nearest rows of each labeled row vote for its label, without the row itself (leave one out). Accuracy is "
    "the share of rows whose own label wins, and recall@k the share of rows with a neighbor of their own label. Index "
    "the same photos with two models or precisions, and compare: a difference within the 95% intervals may be chance."
)
_EXAMPLES = """
vitriton search neighbors --evaluate labels.csv
vitriton search neighbors --labels-from-folders -k 5 --json
"""
_LABELS = "Labels"


@dataclass(frozen=True, kw_only=True)
class NeighborsOptions:
    """The options of `vitriton search neighbors`.

    Attributes:
        evaluate: a CSV file with the label of each row, in the columns path (or id, or source) and label.
        labels_from_folders: use the name of the folder that a file is in as its label.
        store: the store: a folder for LanceDB, or the URL of another store.
        where: the condition that rows must meet, such as "width > 1000 and source like '%/2025/%'". None: all rows.
        k: the number of neighbors that vote.
        as_json: print the scores as JSON.
        quiet: print scores and errors only.
    """

    evaluate: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_LABELS)] = None
    labels_from_folders: Annotated[bool, typer.Option("--labels-from-folders", rich_help_panel=_LABELS)] = False
    k: Annotated[int, typer.Option("--neighbors", "-k", metavar="N", min=1, max=100, rich_help_panel=_LABELS)] = 10
    store: Annotated[str, STORE] = DEFAULT_STORE
    where: Annotated[str | None, WHERE] = None
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=SHOWN_GROUP)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=SHOWN_GROUP)] = False

    def __post_init__(self) -> None:
        """Checks the bounds, and that there is one source of labels."""
        for option, wrong in faults(self):
            raise InvalidOption(option, wrong)
        if self.evaluate is not None and (fault := file_fault(self.evaluate)) is not None:
            raise InvalidOption("evaluate", fault)
        if (self.evaluate is not None) == self.labels_from_folders:
            raise InvalidOption("", "give either a file of labels with `evaluate`, or `labels_from_folders`")


def register(group: typer.Typer) -> None:
    """Adds the command to the group `vitriton search`."""
    group.command("neighbors", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(neighbors))


def neighbors(options: NeighborsOptions) -> None:
    """Measures neighbors; the help text is _HELP."""
    # Imported here so that `vitriton search --help` does not wait for it.
    import json

    from vitriton._console.progress import progress

    from vitriton_search.answers.neighbors import evaluate
    from vitriton_search.answers.vectors import vectors_of
    from vitriton_search.stores import open_store

    with open_store(options.store) as store, vectors_of(store, read_condition(options.where, store)) as vectors:
        labels = _labels(options, vectors)
        labeled = sum(label is not None for label in labels)
        with progress(labeled, 0, 0, noun="row", quiet=options.quiet) as counted:

            def advance(rows: int) -> None:
                for _ in range(rows):
                    counted(failed=False)

            found = evaluate(vectors, labels, options.k, advance=advance)
        space = store.space
    if options.as_json:
        document = _document(found, unlabeled=len(labels) - labeled)
        typer.echo(json.dumps({"model": space.model, "fingerprint": space.fingerprint, **document}))
        return
    if not options.quiet:
        typer.echo(f"{space.model} (fingerprint {space.fingerprint})", err=True)
        if found.alone:
            typer.echo(f"{found.alone} rows are the only ones with their label, and count as wrong", err=True)
    _show(found)


def _labels(options: NeighborsOptions, vectors: Vectors) -> list[str | None]:
    from vitriton_search.answers.errors import AnswerError
    from vitriton_search.answers.labels import folder_labels, named, read_labels

    if options.evaluate is None:
        return folder_labels(vectors)
    given = read_labels(options.evaluate)
    labels, missing = given.match(vectors)
    if len(missing) == len(given.labels):
        raise AnswerError(f"{options.evaluate}: no {given.by} in it is in the store: {printable(named(missing))}")
    if missing and not options.quiet:
        typer.echo(f"{len(missing)} of {len(given.labels)} labels are of no row: {printable(named(missing))}", err=True)
    return labels


def _document(found: Evaluation, *, unlabeled: int) -> dict[str, Any]:
    """The scores for programs; the keys are a stable interface."""
    return {
        "k": found.k,
        "unlabeled": unlabeled,
        "alone": found.alone,
        "all": found.all.document(),
        "labels": [score.document() for score in found.labels],
    }


def _show(found: Evaluation) -> None:
    from rich.console import Console
    from vitriton._console.tables import Column, show

    titles = ("LABEL", "ROWS", "ACCURACY", "95% INTERVAL", f"RECALL@{found.k}", "95% INTERVAL")
    rows = [_cells(score) for score in (found.all, *found.labels)]
    show(Console(), [Column(title, is_number=number > 0) for number, title in enumerate(titles)], rows)


def _cells(score: LabelScore) -> list[str]:

    cells = ["(all)" if score.label is None else printable(score.label), str(score.rows)]
    for share in (score.accuracy, score.recall):
        low, high = share.interval
        cells += [f"{100 * share.value:.1f}%", f"{100 * low:.1f} to {100 * high:.1f}"]
    return cells
