"""What holds of the help of every command, at 80 columns."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.main import get_group
from typer.testing import CliRunner
from vitriton.cli import app

COMMANDS = ["bench", "doctor", "embed", "export", "models", "remove", "serve", "verify"]
WIDTH = 80


def load(name: str) -> Any:
    """A command of `vitriton`, and its context."""
    group = get_group(app)
    with group.make_context("vitriton", [name, "--help"]) as ctx:
        return group.resolve_command(ctx, [name])[1]


@pytest.fixture
def page(name: str) -> str:
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_commands_are_here():
    """A new command is held to the same."""
    group = get_group(app)
    with group.make_context("vitriton", ["--help"], resilient_parsing=True) as ctx:
        assert group.list_commands(ctx) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_option_shows_the_same(name, page):
    """Every command takes -h."""
    assert CliRunner().invoke(app, [name, "-h"], env={"COLUMNS": str(WIDTH)}).stdout == page


@pytest.mark.parametrize("name", COMMANDS)
def test_a_default_has_one_pair_of_brackets(name, page):
    """Also one in words."""
    assert "default: (" not in " ".join(page.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_no_name_is_cut(name, page):
    """Every option stands in it with its whole name, and no line is longer than the terminal."""
    assert max(map(len, page.splitlines())) <= WIDTH
    assert "…" not in page
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", page))
    for parameter in load(name).params:
        if parameter.param_type_name == "option":
            assert {*parameter.opts, *parameter.secondary_opts} <= words
        else:
            assert parameter.metavar in page


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_is_described(name):
    """Each option and argument has a sentence of its own."""
    for parameter in load(name).params:
        assert re.fullmatch(r"[A-Z].*\.", parameter.help or "", re.DOTALL), parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_groups(name, page):
    """Where there are more than a few, no more than a few are left to the last group."""
    if len(load(name).params) > 5:
        assert page.partition("\nOther options:\n")[2].partition("\nExamples:\n")[0].count("\n  -") <= 4


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_given(name, page):
    """There is at least one, and each is a call that the command takes."""
    lines = page.partition("\nExamples:\n")[2].splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.rpartition("| ")[2])
        assert words[:2] == ["vitriton", name]
        if "--list" not in words:  # it would be shown at once
            load(name).make_context(name, words[2:]).close()
