"""What ends a command, where it is not the server's or the client library's own error."""

from __future__ import annotations

from typing import NoReturn

import typer

from vitriton._errors import DeadlineExceeded, VitritonError


class CommandFailed(Exception):  # noqa: N818 - as vitriton's other errors
    """The command cannot do what it was asked to; the text says why and what to do, in one line."""


def reason(error: VitritonError) -> str:
    """The text of an error, with the options of the commands in place of the client's parameters."""
    if isinstance(error, DeadlineExceeded) and error.timeout_s is not None:
        return f"the server at {error.address} did not answer a request within {error.timeout_s:g} s; raise --timeout"
    return str(error)


def fail(message: str) -> NoReturn:
    """Ends a command: one line on stderr, exit code 1. For the sub-commands of all distributions."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
