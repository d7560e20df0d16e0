"""A command's options are the fields of a dataclass: types, defaults, help and refusals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner
from vitriton._console.options import faults, flatten


def _sizes(text):
    return tuple(int(part) for part in text.split("x"))


@dataclass(frozen=True, kw_only=True)
class Paint:
    """Paint.

    Attributes:
        color: the color of all
            edges, unless `thick` is given.
        layers: the number of layers. None: as many as it takes.
    """

    color: Annotated[Literal["red", "blue"], typer.Option(rich_help_panel="Paint")] = "red"
    layers: Annotated[int | None, typer.Option(min=1, max=9)] = None


@dataclass(frozen=True, kw_only=True)
class Box(Paint):
    """A box.

    Attributes:
        name: the name of the box.
        sizes: the sides of the box.
        thick: make it thick.
        marks: further marks.
        lid: how the lid is painted.
        secret: no option.
    """

    name: Annotated[str, typer.Argument()]
    sizes: Annotated[tuple[int, ...] | None, typer.Option(metavar="AxB", parser=_sizes)] = (1, 2)
    thick: Annotated[bool, typer.Option("--fat/--thin")] = False
    marks: Annotated[Sequence[str], typer.Option()] = ()
    seconds_s: Annotated[float | str, typer.Option("--seconds", help="The seconds.")] = "1"
    lid: "Lid" = field(default_factory=lambda: Lid(height=3))
    secret: int = 7


@dataclass(frozen=True, kw_only=True)
class Lid:
    """A lid.

    Attributes:
        height: the height of the lid.
    """

    height: Annotated[int, typer.Option()] = 1


def _run(command, *arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(flatten(command))
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


def _taken(*arguments, default=None):
    """The box that a command is called with."""
    taken = []

    def command(*, box: Box, loud: bool = False) -> None:
        """Makes a box."""
        taken.append((box, loud))

    def with_default(*, lid: Lid = default) -> None:
        """Makes a lid."""
        taken.append(lid)

    done = _run(command if default is None else with_default, *arguments)
    assert done.exit_code == 0, done.output
    return taken[0]


def test_what_is_not_given_has_the_fields_defaults():
    """The options of bases, of nested dataclasses and of the command itself; others stay as they are."""
    assert _taken("b") == (Box(name="b"), False)


def test_what_is_given_arrives_by_its_type():
    """Texts go through parsers, repeated options become a list, and choices, switches and bounds are typer's."""
    arguments = ["b", "--sizes", "3x4x5", "--fat", "--marks", "i", "--marks", "j", "--height", "8", "--loud"]
    box, loud = _taken(*arguments, "--color", "blue", "--layers", "2", "--seconds", "9")
    expected = {"name": "b", "sizes": (3, 4, 5), "thick": True, "marks": ["i", "j"], "lid": Lid(height=8)}
    assert box == Box(**expected, color="blue", layers=2, seconds_s="9")
    assert loud


def test_an_instance_gives_other_defaults():
    """A command may have defaults that a library call has not."""
    assert _taken(default=Lid(height=5)) == Lid(height=5)


def test_the_docstring_is_the_help():
    """With flags in place of fields, what None means as the default, and panels and metavars as usual."""

    def command(*, box: Box) -> None:
        """Makes a box."""

    text = _run(command, "--help").stdout
    for part in (
        "Makes a box.",
        "The color of all edges, unless --fat is given.",
        "The number of layers. [default: (as many as it takes)]",
        "AxB",
        "The sides of the box. [default: 1,2]",
        "The seconds. [default: 1]",
        "The height of the lid. [default: 3]",
        "─ Paint ─",
    ):
        assert part in text
    assert "secret" not in text


@pytest.mark.parametrize("arguments", [["b", "--color", "green"], ["b", "--layers", "10"], ["b", "--secret", "1"], []])
def test_wrong_usage_is_typers(arguments):
    """Exit code 2, before the dataclass is made."""

    def command(*, box: Box) -> None:
        """Makes a box."""

    assert _run(command, *arguments).exit_code == 2


def test_what_the_dataclass_raises_reaches_the_caller():
    """A parser's error too, in its own words."""

    def command(*, box: Box) -> None:
        """Makes a box."""

    assert isinstance(_run(command, "b", "--sizes", "axb").exception, ValueError)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, []),
        ({"color": "green", "layers": 10}, ["is 'green'; choose one of red, blue", "is 10; it must be from 1 to 9"]),
        ({"color": None}, ["is None; choose one of red, blue"]),
        ({"layers": 0}, ["is 0; it must be from 1 to 9"]),
    ],
)
def test_the_same_choices_and_bounds_hold_in_python(values, found):
    """Each value that is wrong is told."""
    assert [wrong for _, wrong in faults(Box(name="b", **values))] == found
