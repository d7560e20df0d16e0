"""The key of a row in stores whose own keys are UUIDs."""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5


def key_of(row_id: str) -> UUID:
    """Returns the UUID (version 5, in the namespace of URLs) of an id, which may be longer than a key can be."""
    return uuid5(NAMESPACE_URL, row_id)
