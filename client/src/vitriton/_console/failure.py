"""How a command fails: with one line on standard error and exit code 1, or with the usage and 2 for wrong values."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from vitriton._console.help import write_examples, write_options
from vitriton._errors import DeadlineExceeded, InvalidOption, VitritonError

_USAGE_ERROR: Any = typer.BadParameter.__base__  # typer exports no name of it
_GIVEN = "vitriton.given"  # the arguments in a context's `meta`
_BOUND = re.compile(r"Input should be (.*?)(?:, unable to .*)?|Value error, .* is not one of (.*)\.")  # pydantic's
_EMPTY = re.compile(r"(--[\w-]+)=\s*")


class CommandFailed(VitritonError):  # noqa: N818 - as vitriton's other errors
    """The command failed; the text says why and what to do, in one line."""


class Command(TyperCommand):
    """A command with the usual exit codes: 1 if its work failed, 2 if an option, a value or a path is wrong.

    Its epilog is its examples, one a line.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parses the arguments, none of which may be empty, as those of an unset variable are."""
        ctx.meta[_GIVEN] = tuple(args)
        for name in _empty(args):
            raise typer.BadParameter(f"{name} is empty; give a value, or leave it out", ctx)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as exc:
            raise _reworded(exc, ctx) from exc

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; warnings, and what a logger's own level lets through, are lines on standard error.

        With --quiet, only errors are.
        """
        try:
            with shown_warnings(logging.ERROR if ctx.params.get("quiet") else logging.INFO):
                return super().invoke(ctx)
        except InvalidOption as exc:
            raise typer.BadParameter(_usage(exc, ctx), ctx) from exc
        except VitritonError as exc:
            fail(reason(exc))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options in their groups."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples."""
        write_examples(self.epilog, formatter)


@contextmanager
def shown_warnings(level: int) -> Iterator[None]:
    """Shows log messages of the client from a level on, as lines on standard error."""
    handler = _Lines(level)
    logger = logging.getLogger("vitriton")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


def reason(error: VitritonError) -> str:
    """The text of an error, which names the command's options instead of the client's arguments."""
    if isinstance(error, DeadlineExceeded) and error.timeout_s is not None:
        within = f"within {error.timeout_s:g} s"
        return (
            f"the server at {error.address} did not answer a request {within}; see whether it runs, or raise --timeout"
        )
    return str(error).replace("(timeout_s)", "(--timeout)").replace("(expect_fingerprint)", "(--expect-fingerprint)")


@contextmanager
def shown_misuse() -> Iterator[None]:
    """Shows a misuse of a command as every other error: a line that begins with `error:`, here after the usage."""
    try:
        yield
    except _USAGE_ERROR as exc:
        if exc.ctx is not None:
            typer.echo(f"{exc.ctx.get_usage()}\nTry '{exc.ctx.command_path} --help' for help.\n", err=True)
        typer.echo(f"error: {_message(exc)}", err=True)
        raise typer.Exit(exc.exit_code) from exc


def fail(message: str) -> NoReturn:
    """Ends a command of any distribution with one line on stderr and exit code 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def _message(error: Any) -> str:
    """The text of a usage error; typer's own begin like sentences."""
    if isinstance(error, typer.BadParameter) and error.param is None and error.param_hint is None:
        return error.message
    text: str = error.format_message()
    return text[:1].lower() + text[1:]


def _empty(args: Sequence[str]) -> Iterator[str]:
    """The options that are given an empty value, up to a `--`, after which another program's options may follow."""
    for before, given in zip(["", *args], args, strict=False):
        if given == "--":
            return
        if (found := _EMPTY.fullmatch(given)) is not None:
            yield found[1]
        elif not given.strip():
            yield before if before.startswith("-") else "an argument"


def _reworded(error: typer.BadParameter, ctx: Any) -> typer.BadParameter:
    """The error for a value of the wrong type or beyond a bound: typer's, which may be pydantic's and name no value."""
    faults = getattr(error.__cause__, "errors", None)
    if faults is None or error.param is None:
        return error
    fault = faults()[0]
    found = _BOUND.fullmatch(fault["msg"])
    if found is None:
        return error
    bound = (
        (found[1] or f"one of {found[2]}")
        .replace("greater than or equal to", "at least")
        .replace("less than or equal to", "at most")
    )
    return typer.BadParameter(f"{_typed(error.param, ctx.meta[_GIVEN])} is {fault['input']}; it must be {bound}", ctx)


def _usage(error: InvalidOption, ctx: Any) -> str:
    """The text of an error, with options as they were typed in place of their names in Python."""
    params = [(param, _typed(param, ctx.meta[_GIVEN])) for param in ctx.command.params]
    # A dataclass behind the command may have another name for an option, which is then that of a flag.
    names = {opt.lstrip("-").replace("-", "_"): typed for param, typed in params for opt in param.opts}
    names |= {param.name: typed for param, typed in params}
    wrong = re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[0]), error.wrong)
    return f"{names.get(error.option, error.option)} {wrong}".lstrip()


def _typed(param: Any, given: Sequence[str]) -> str:
    """The name of an option on the command line: the one that was typed, else the longest. Arguments: in capitals."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    typed = [opt for opt in param.opts if any(each == opt or each.startswith(f"{opt}=") for each in given)]
    return str(max(typed or param.opts, key=len))
