"""What the commands that ask a store have in common: its options, and how it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from vitriton._errors import InvalidOption

if TYPE_CHECKING:
    from vitriton_search.stores.store import Store
    from vitriton_search.stores.where import Where

# the groups of options in the help
STORE_GROUP, SHOWN_GROUP = "Store", "Output"

STORE = typer.Option("--store", metavar="STORE", rich_help_panel=STORE_GROUP)
WHERE = typer.Option("--where", metavar="CONDITION", rich_help_panel=STORE_GROUP)


def read_condition(text: str | None, store: Store) -> Where | None:
    """Reads the text of `--where`.

    Raises:
        InvalidOption: it is no condition on the columns of the store.
    """
    from vitriton_search.stores.where import WhereError, parse

    try:
        return None if text is None else parse(text, store.columns)
    except WhereError as exc:
        raise InvalidOption("where", str(exc)) from exc
