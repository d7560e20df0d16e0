"""The command `vitriton`, with sub-commands that other distributions plug in.

An entry point of the group `vitriton.commands` has the name of its command and loads a function
`register(app: typer.Typer) -> None`, which adds a command or a group of that name to `app`. Only the entry point of the
called command is loaded.
"""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from vitriton._console.diagnosis import how_to_install
from vitriton._console.failure import CommandFailed, shown_misuse
from vitriton._console.failure import fail as fail
from vitriton._console.help import write_section
from vitriton._console.plugged import distribution_of, failure_of
from vitriton._console.signals import interruptible, interruption
from vitriton._errors import VitritonError
from vitriton.commands import models
from vitriton.commands.doctor import command as doctor
from vitriton.commands.embed import command as embed
from vitriton.commands.plugins import KNOWN, plugged_in

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells count

# What to do first: the commands, and what each does.
_FIRST_STEPS = {
    "export": ("vitriton export", "export a model to model_repository/"),
    "serve": ("vitriton serve", "serve it on localhost:8001"),
    "embed": ("vitriton embed DIR -o vectors.npy", "embed the images in DIR"),
}


class _Commands(TyperGroup):
    """A group that looks up its commands only when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted({*super().list_commands(ctx), *KNOWN, *plugged_in()})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For listings: a plugged-in command is shown with its help, without being loaded."""
        command = super().get_command(ctx, cmd_name)
        if command is None and (cmd_name in KNOWN or cmd_name in plugged_in()):
            return TyperCommand(cmd_name, help=_help(cmd_name))
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """For calls: loads the command."""
        name = args[0]
        if super().get_command(ctx, name) is None:
            entry = plugged_in().get(name)
            if entry is not None:
                try:
                    return name, _load(entry, ctx), args[1:]
                except CommandFailed:
                    if not ctx.resilient_parsing:
                        raise
            if not ctx.resilient_parsing:  # a shell that completes is given no error
                self._refuse(ctx, name)
        return super().resolve_command(ctx, args)

    def _refuse(self, ctx: Any, name: str) -> None:
        """Ends the call of a command that is not there; returns for an option, which typer refuses."""
        if name in KNOWN:
            fail(f"`vitriton {name}` is not installed; install it with {how_to_install(KNOWN[name][0])}")
        near = " or ".join(f"`vitriton {found}`" for found in get_close_matches(name, self.list_commands(ctx)))
        if near:
            ctx.fail(f"No such command '{name}'. Did you mean {near}?")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes all commands, with the whole first paragraph of each one's help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, (command.help or "").partition("\n\n")[0]) for name, command in commands.items()]
        write_section("Commands", rows, formatter)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Runs a command. If nobody reads its output any more (`| head`), it ends quietly, as by the signal SIGPIPE."""
        try:
            try:
                return super().main(*args, **settings)
            finally:
                sys.stdout.flush()
        except (BrokenPipeError, SystemExit) as exc:
            # typer and rich make SystemExit of a broken pipe
            if isinstance(exc, SystemExit) and not isinstance(exc.__context__, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the buffer
            raise SystemExit(_BROKEN_PIPE) from exc

    def make_context(self, *args: Any, **settings: Any) -> Any:
        with interruptible(), shown_misuse():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        with interruptible():
            try:
                with shown_misuse():
                    return super().invoke(ctx)
            except VitritonError as exc:
                if interruption(exc) is not None:
                    raise
                fail(str(exc))


app = typer.Typer(
    name="vitriton",
    cls=_Commands,
    help="Embeddings of images and texts on NVIDIA Triton Inference Server.",
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,  # plain text, in which no option's name is cut (`_console.help`)
    pretty_exceptions_enable=False,
)


# These import their dependencies only when they are called.
doctor.register(app)
embed.register(app)
models.register(app)


def main() -> None:
    """Runs the command `vitriton`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from vitriton._version import __version__

        typer.echo(f"vitriton {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    if ctx.invoked_subcommand is None:
        _show_first_steps()


def _show_first_steps() -> None:
    typer.echo("Embeddings of images and texts on NVIDIA Triton Inference Server. First steps:\n")
    missing = [name for name in _FIRST_STEPS if name in KNOWN and name not in plugged_in()]
    for name, (line, does) in _FIRST_STEPS.items():
        typer.echo(f"  {line:<35}{'not installed' if name in missing else does}")
    if missing:
        typer.echo(f"\nTo install what is missing:\n  {how_to_install(*(KNOWN[name][0] for name in missing))}")
    typer.echo("\n`vitriton --help` lists all commands; `vitriton doctor` checks this machine.")


def _help(name: str) -> str:
    if name not in KNOWN:
        return f"From {distribution_of(plugged_in()[name])}."
    distribution, text = KNOWN[name]
    return text if name in plugged_in() else f"{text}\nNot installed: {how_to_install(distribution)}"


def _load(entry: EntryPoint, ctx: Any) -> Any:
    plugged = typer.Typer(
        callback=lambda: None, rich_markup_mode=None
    )  # a callback makes it a group even with a single command
    try:
        entry.load()(plugged)
        command = typer.main.get_group(plugged).get_command(ctx, entry.name)
    # A plug-in is foreign code and can fail in any way.
    except Exception as exc:
        raise CommandFailed(failure_of(entry, exc)) from exc
    if command is None:
        raise CommandFailed(f"`vitriton {entry.name}`: {distribution_of(entry)} registers no command of that name")
    return command
