"""The URL of a store, as messages show it."""

from __future__ import annotations

import re

_PASSWORD = re.compile(
    r"(?<=://)([^/?#:@]*):.*@"
)  # up to the last @: a password may have one that is not written as %40
_OPTION = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


def shown(url: str) -> str:
    """The URL of a store as it may be shown: without a password."""
    return _OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))
