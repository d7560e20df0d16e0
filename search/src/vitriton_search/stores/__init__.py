"""The vector stores, behind one interface, and how a URL names one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from vitriton_search.stores.address import shown
from vitriton_search.stores.store import COLUMNS, OWN_TYPES, Space, Store, StoreError, StoreNotFound

_URLS = "a folder, postgresql://…/db?table=photos, http(s)://host:6333/collection or qdrant-edge:./folder"
_OWN_NAME = re.compile(r"[^\W\d_][\w -]*")
_OWN_NAME_BYTES = 63  # PostgreSQL cuts a longer one


class _Kind(NamedTuple):
    """A kind of store: a class with `open(url) -> Store | None` and `create(url, space, own) -> Store`."""

    module: str
    name: str
    extra: str = ""  # of the distribution, with the kind's library


_LANCE = _Kind("lance", "LanceStore")
_POSTGRES = _Kind("postgres", "PostgresStore", "[postgres]")
_QDRANT = _Kind("qdrant.server", "QdrantServerStore", "[qdrant]")
_KINDS = {
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
    "http": _QDRANT,
    "https": _QDRANT,
    "qdrant-edge": _Kind("qdrant.edge", "QdrantEdgeStore", "[qdrant-edge]"),
}


def open_store(
    url: str, space: Space | None = None, own: Mapping[str, pa.DataType] | None = None, *, replace: bool = False
) -> Store:
    """Opens a store.

    Args:
        url: the URL of the store: the folder of a LanceDB database, or the URL of another kind.
        space: the space of the vectors. With it, a store that is not there is made; the vectors of one that is there
            must be of the same space. None opens any store.
        own: the user's columns, by name; a store that is there must have them.
        replace: whether to remove a store that is there, with all that it holds, if there is a space to make one with.

    Raises:
        StoreNotFound: there is no store, and no space to make one with.
        StoreError: it holds vectors of another space; it lacks one of the columns; the library of its kind is not
            installed; or it cannot be opened.
    """
    own = own or {}
    _check_own(own)
    kind = _kind(url)
    store: Store | None = kind.open(url)
    if store is not None and space is not None and replace:
        store.remove()
        store.close()
        store = None
    if store is None and space is None:
        raise StoreNotFound(f"there is no store at {shown(url)}; `vitriton search index PATH --store …` makes one")
    if store is None:
        store = kind.create(url, space, own)
    try:
        _check_space(url, store.space, space)
        _check_columns(url, store.own, own)
    except StoreError:
        store.close()
        raise
    return store


def _kind(url: str) -> Any:
    scheme = re.match(r"([a-z][a-z0-9+.-]+):", url)
    kind = _KINDS.get(scheme[1]) if scheme else _LANCE
    if kind is None and scheme and not url.startswith(f"{scheme[1]}://"):  # a folder with a colon in its name
        kind = _LANCE
    if kind is None or not url:
        raise StoreError(f"{shown(url)!r} names no store; one is {_URLS}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{kind.module}"), kind.name)
    except ModuleNotFoundError as exc:
        raise StoreError(
            f"{shown(url)} needs {exc.name}, which is not installed: pip install 'vitriton-search{kind.extra}'"
        ) from exc


def _check_own(own: Mapping[str, pa.DataType]) -> None:
    taken = {name.casefold() for name in (*COLUMNS, "embedding")}
    for name, kind in own.items():
        if not _OWN_NAME.fullmatch(name) or len(name.encode()) > _OWN_NAME_BYTES:
            raise StoreError(
                f"{name!r} cannot be a column: a name has letters, digits, spaces, - and _, begins with a letter, and "
                f"is at most {_OWN_NAME_BYTES} bytes long"
            )
        if name.casefold() in taken:
            raise StoreError(f"the column {name!r} is there already; capitals make no difference")
        if kind not in OWN_TYPES:
            raise StoreError(f"the column {name!r} is of {kind}; there are {', '.join(map(str, OWN_TYPES))}")
        taken.add(name.casefold())


def _check_space(url: str, found: Space, wanted: Space | None) -> None:
    if wanted is None or (found.fingerprint, found.dimensions) == (wanted.fingerprint, wanted.dimensions):
        return
    raise StoreError(
        f"{shown(url)} holds vectors of {_described(found)}, and those of {_described(wanted)} cannot be compared; "
        "name another store, or give --rebuild"
    )


def _described(space: Space) -> str:
    return f"{space.model} ({space.dimensions} numbers, fingerprint {space.fingerprint})"


def _check_columns(url: str, found: Mapping[str, pa.DataType], wanted: Mapping[str, pa.DataType]) -> None:
    for name, kind in wanted.items():
        if found.get(name) != kind:
            has = f"has {name!r} as {found[name]}" if name in found else f"has no column {name!r}"
            raise StoreError(f"{shown(url)} {has}, and {kind} is wanted; name another store, or give --rebuild")
