"""What a store notes of itself beside its rows, where it has no schema of Arrow to keep it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vitriton_search.stores.store import OWN_TYPES, Space, StoreError

FORMAT = 2
_KINDS = {str(kind): kind for kind in OWN_TYPES}


def noted(space: Space, own: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """Returns what is noted of a new store, as JSON has it."""
    return {
        "vitriton_search": FORMAT,
        "model": space.model,
        "fingerprint": space.fingerprint,
        "dimensions": space.dimensions,
        "own": {name: str(kind) for name, kind in own.items()},
    }


def read(note: Any, name: str) -> tuple[Space, dict[str, pa.DataType]]:
    """Returns space and own columns of a store.

    Args:
        note: what was noted of it.
        name: the name of the store, for messages.

    Raises:
        StoreError: it is no store of `vitriton search`, or one of another version.
    """
    if not isinstance(note, Mapping) or not isinstance(version := note.get("vitriton_search"), int):
        raise StoreError(f"{name} is there, and was not made by `vitriton search`; name another one")
    check_format(version, name)
    space = Space(model=note["model"], fingerprint=note["fingerprint"], dimensions=note["dimensions"])
    return space, {column: _KINDS[kind] for column, kind in note["own"].items()}


def check_format(version: int, name: object) -> None:
    """Checks that this version reads a store.

    Args:
        version: the format that was noted of the store.
        name: the name of the store, for messages.

    Raises:
        StoreError: another version wrote it.
    """
    if version > FORMAT:
        raise StoreError(f"{name} was written by a newer version of `vitriton search`; update vitriton-search")
    if version < FORMAT:
        raise StoreError(f"{name} was written by an earlier version of `vitriton search`; remove it, and index again")
