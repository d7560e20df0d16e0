"""The groups in which rows can be colored on the map: their folders, or the values of a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from vitriton_search.page.map import HAS_VECTOR
from vitriton_search.stores.store import Store

FOLDER = "folder"
MAX_GROUPS = 8  # colors that people tell apart
_NONE = "no value"


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of some rows.

    Attributes:
        by: the grouping, one of `groupings`.
        names: the names of the largest groups, G, the largest first.
        sizes: the number of rows in each.
        of: the number of each row's group; G for the rows of all other groups.
        others: the number of these rows.
    """

    by: str
    names: list[str]
    sizes: list[int]
    of: list[int]
    others: int


def groupings(store: Store) -> list[str]:
    """What the rows of a store can be grouped by: the folder, and the user's texts, whole numbers and truth values."""
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean)
    return list(dict.fromkeys([FOLDER, *(name for name, kind in store.own.items() if any(is_(kind) for is_ in kinds))]))


def group_rows(store: Store, ids: Sequence[str], by: str, max_groups: int = MAX_GROUPS) -> Groups:
    """Groups rows, in memory for one value of each.

    Args:
        store: the store.
        ids: the ids of the rows.
        by: the grouping, one of `groupings`. If the user has a column `folder`, it is that one.
        max_groups: the largest number of groups that have a name.
    """
    is_folder = by == FOLDER and FOLDER not in store.own
    column = "source" if is_folder else by
    number_of = {id: number for number, id in enumerate(ids)}
    values: list[str] = [_NONE] * len(ids)
    for batch in store.scan(["id", column], HAS_VECTOR):
        for id, value in zip(*(batch.column(name).to_pylist() for name in ("id", column)), strict=True):
            number = number_of.get(id)
            if number is not None and value is not None:
                values[number] = value.rpartition("/")[0] if is_folder else _text(value)
    counts = Counter(values).most_common()
    places = {value: place for place, (value, _) in enumerate(counts[:max_groups])}
    return Groups(
        by=by,
        names=_short_names([value for value, _ in counts], len(places)) if is_folder else list(places),
        sizes=[count for _, count in counts[:max_groups]],
        of=[places.get(value, len(places)) for value in values],
        others=sum(count for _, count in counts[max_groups:]),
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short_names(folders: Sequence[str], count: int) -> list[str]:
    """The names of the first `count` folders without the folders above that all of them share."""
    parts = [folder.split("/") for folder in folders]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return ["/".join(each[shared:]) for each in parts[:count]]
