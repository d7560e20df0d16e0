"""What ends a command, where it is not the server's or the client library's own error."""

from __future__ import annotations


class CommandFailed(Exception):  # noqa: N818 - as vitriton's other errors
    """The command cannot do what it was asked to; the text says why and what to do, in one line."""
