"""How a command fails: one line on standard error and an exit code, or the usage where an option is wrong."""

from __future__ import annotations

from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from vitriton._errors import DeadlineExceeded, InvalidOption, VitritonError


class CommandFailed(VitritonError):  # noqa: N818 - as vitriton's other errors
    """The command cannot do what it was asked to; the text says why and what to do, in one line."""


class Command(TyperCommand):
    """A command that ends as shells expect it: exit code 1 after an error, 2 where an option has a wrong value."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except InvalidOption as exc:
            raise typer.BadParameter(exc.problem, ctx, param_hint=exc.flag) from exc
        except VitritonError as exc:
            fail(reason(exc))


def reason(error: VitritonError) -> str:
    """The text of an error, with the options of the commands in place of the client's parameters."""
    if isinstance(error, DeadlineExceeded) and error.timeout_s is not None:
        return f"the server at {error.address} did not answer a request within {error.timeout_s:g} s; raise --timeout"
    return str(error)


def fail(message: str) -> NoReturn:
    """Ends a command: one line on stderr, exit code 1. For the sub-commands of all distributions."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
