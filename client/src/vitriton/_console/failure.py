"""How a command fails: with one line on standard error and an exit code, or with the usage if an option is wrong."""

from __future__ import annotations

from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from vitriton._console.help import write_examples, write_options
from vitriton._errors import DeadlineExceeded, InvalidOption, VitritonError


class CommandFailed(VitritonError):  # noqa: N818 - as vitriton's other errors
    """The command failed; the text says why and what to do, in one line."""


class Command(TyperCommand):
    """A command with the usual exit codes: 1 after an error, 2 if an option has a wrong value.

    Its epilog is its examples, one a line.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except InvalidOption as exc:
            raise typer.BadParameter(exc.problem, ctx, param_hint=exc.flag) from exc
        except VitritonError as exc:
            fail(reason(exc))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options in their groups."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples."""
        write_examples(self.epilog, formatter)


def reason(error: VitritonError) -> str:
    """The text of an error, which names the command's options instead of the client's arguments."""
    if isinstance(error, DeadlineExceeded) and error.timeout_s is not None:
        return f"the server at {error.address} did not answer a request within {error.timeout_s:g} s; raise --timeout"
    return str(error)


def fail(message: str) -> NoReturn:
    """Ends a command of any distribution with one line on stderr and exit code 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
