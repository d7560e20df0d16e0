"""The key without which Triton's administration over the network is closed."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from vitriton_server._errors import InvalidConfiguration

HEADER = "admin-key"  # over HTTP; over gRPC Triton wants it behind a prefix of its own, triton-grpc-protocol-

# What neither a client of inference nor the launcher's canary needs. Loading and unloading are not among them: Triton
# has them in one group with the index of the models, and refuses them by its model control mode.
GROUPS = "shared-memory,trace,logging"

_MIN_LENGTH = 16
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]*")  # what headers and Triton's option can carry


def read_key(path: Path) -> str:
    """The key in a file; one that nobody knows where the file is empty.

    Raises:
        InvalidConfiguration: the file cannot be read, or holds what can be no key.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise InvalidConfiguration(f"the admin key file {path} cannot be read: {reason}") from exc
    return check_key(key) if key else secrets.token_urlsafe(32)


def check_key(key: str) -> str:
    """Returns the key.

    Raises:
        InvalidConfiguration: it is too short, or has characters that a header cannot carry. The key is not in the text.
    """
    if len(key) < _MIN_LENGTH or not _KEY.fullmatch(key):
        raise InvalidConfiguration(
            f"the admin key must have {_MIN_LENGTH} characters or more, of letters, digits and ._~+/=-; make one with "
            "`openssl rand -hex 32`"
        )
    return key


def arguments(key: str) -> list[str]:
    """The options of tritonserver that close the groups to whoever does not send the key."""
    return [f"--{option}={GROUPS}:{HEADER}={key}" for option in ("http-restricted-api", "grpc-restricted-protocol")]
