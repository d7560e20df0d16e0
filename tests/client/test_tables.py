"""How tables look on a wide terminal, on a narrow one, and where there is none."""

from io import StringIO

import pytest
from rich.console import Console
from vitriton._console.tables import Column, show

COLUMNS = (Column("name"), Column("mean error", is_number=True), Column("what it says", wraps=True))
ROWS = (("vit-base", "0.1", "[all] is well"), ("deit", "12.5", ""))


def shown(width=80, **settings):
    """The lines of the table, without the blanks at their ends."""
    file = StringIO()
    show(Console(file=file, width=width, **settings), COLUMNS, ROWS, "A title")
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing that tells rich of a terminal."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_gets_a_table():
    """Numbers stand at the right; what looks like markup is text."""
    assert shown(force_terminal=True, color_system=None) == [
        "A title",
        "name      mean error  what it says",
        "vit-base         0.1  [all] is well",
        "deit            12.5",
    ]


def test_sentences_are_broken_first():
    """Names and numbers stay whole, and so do the words of sentences."""
    assert shown(24, force_terminal=True, color_system=None) == [
        "A title",
        "           mean  what it",
        "name      error  says",
        "vit-base    0.1  [all]",
        "                 is well",
        "deit       12.5",
    ]


def test_a_narrow_terminal_gets_a_paragraph_for_each_row():
    """Where not even the names fit side by side."""
    assert shown(20, force_terminal=True, color_system=None) == [
        "A title",
        "name          vit-base",
        "mean error    0.1",
        "what it says  [all] is well",
        "",
        "name          deit",
        "mean error    12.5",
        "what it says",
        "",
    ]


@pytest.mark.parametrize("width", [20, 80])
def test_a_pipe_gets_a_line_for_each_row(width):
    """With tabs between the cells, without blanks that fill up, whatever COLUMNS is."""
    assert shown(width) == [
        "A title",
        "name\tmean error\twhat it says",
        "vit-base\t0.1\t[all] is well",
        "deit\t12.5",
    ]


def test_no_color(monkeypatch):
    """With NO_COLOR a terminal gets none, and a pipe never does."""
    color = "\x1b[3"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(color in line for line in shown(force_terminal=True))
    assert not any("\x1b" in line for line in shown())
