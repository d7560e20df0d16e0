"""The admin key, which Triton's administration over the network requires."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from vitriton._console.paths import file_fault

from vitriton_server._errors import InvalidConfiguration

HEADER = "admin-key"  # over HTTP; over gRPC Triton expects it with the prefix triton-grpc-protocol-

# The groups that neither inference clients nor the launcher's canary need. Loading and unloading are not among them:
# Triton has them in one group with the index of the models, and its model control mode refuses them.
GROUPS = "shared-memory,trace,logging"

_MIN_LENGTH = 16
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]*")  # the characters that headers and Triton's option can carry


def read_key(path: Path) -> str:
    """Returns the key in a file; a random one for an empty file.

    Raises:
        InvalidConfiguration: the file cannot be read, or does not hold a valid key.
    """
    if (fault := file_fault(path)) is not None:
        raise InvalidConfiguration("admin_key_file", fault)
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise InvalidConfiguration("admin_key_file", f"{path} cannot be read: {reason}") from exc
    try:
        return check_key(key) if key else secrets.token_urlsafe(32)
    except InvalidConfiguration as exc:
        raise InvalidConfiguration("admin_key_file", f"{path} holds a key that cannot be used: {exc.wrong}") from exc


def check_key(key: str) -> str:
    """Returns the key, after checking it.

    Raises:
        InvalidConfiguration: the key is too short, or has characters that a header cannot carry. The text does not
        contain the key.
    """
    if len(key) < _MIN_LENGTH or not _KEY.fullmatch(key):
        raise InvalidConfiguration(
            "",
            f"the admin key must have {_MIN_LENGTH} characters or more, of letters, digits and ._~+/=-; make one with "
            "`openssl rand -hex 32`",
        )
    return key


def arguments(key: str) -> list[str]:
    """Returns the options of tritonserver that close the groups to callers without the key."""
    return [f"--{option}={GROUPS}:{HEADER}={key}" for option in ("http-restricted-api", "grpc-restricted-protocol")]
