"""What holds of the help of every command, at 80 columns."""

from __future__ import annotations

import re
import shlex

import pytest
import reference
from typer.main import get_group
from typer.testing import CliRunner
from vitriton.cli import app

COMMANDS = ["api", "bench", "doctor", "embed", "export", "models", "remove", "search", "serve", "verify"]
WIDTH = 80
# all commands, and in place of a group those in it
CALLED = {name: command for name, command, _ in reference.all_commands()}


@pytest.fixture
def page(name: str) -> str:
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_commands_are_here():
    """A new command is held to the same, and has its section in docs/reference/commands.md."""
    assert sorted(reference.COMMANDS) == COMMANDS
    group = get_group(app)
    with group.make_context("vitriton", ["--help"], resilient_parsing=True) as ctx:
        assert group.list_commands(ctx) == COMMANDS


@pytest.mark.parametrize("name", CALLED)
def test_the_short_option_shows_the_same(name, page):
    """Every command takes -h."""
    assert CliRunner().invoke(app, [*name.split(), "-h"], env={"COLUMNS": str(WIDTH)}).stdout == page


@pytest.mark.parametrize("name", CALLED)
def test_a_default_has_one_pair_of_brackets(name, page):
    """Also one in words."""
    assert "default: (" not in " ".join(page.split())


@pytest.mark.parametrize("name", CALLED)
def test_no_name_is_cut(name, page):
    """Every option stands in it with its whole name, and no line is longer than the terminal."""
    assert max(map(len, page.splitlines())) <= WIDTH
    assert "…" not in page
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", page))
    for parameter in CALLED[name].params:
        if parameter.param_type_name == "option":
            assert {*parameter.opts, *parameter.secondary_opts} <= words
        else:
            assert parameter.metavar in page


@pytest.mark.parametrize("name", CALLED)
def test_everything_is_described(name):
    """Each option and argument has a sentence of its own."""
    for parameter in CALLED[name].params:
        assert re.fullmatch(r"[A-Z].*\.", parameter.help or "", re.DOTALL), parameter.name


@pytest.mark.parametrize("name", CALLED)
def test_options_stand_in_groups(name, page):
    """Where there are more than a few, no more than a few are left to the last group."""
    if len(CALLED[name].params) > 5:
        assert page.partition("\nOther options:\n")[2].partition("\nExamples:\n")[0].count("\n  -") <= 4


@pytest.mark.parametrize("name", CALLED)
def test_examples_can_be_given(name, page):
    """There is at least one, and each is a call that the command takes."""
    lines = page.partition("\nExamples:\n")[2].splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.rpartition("| ")[2])
        called = name.split()
        assert words[: len(called) + 1] == ["vitriton", *called]
        if "--list" not in words:  # it would be shown at once
            CALLED[name].make_context(name, words[len(called) + 1 :]).close()


@pytest.mark.parametrize("given", [["--help"], ["-h"], []])
def test_a_group_lists_its_commands(given):
    """Each with the first paragraph of its help, as `vitriton` lists its own."""
    done = CliRunner().invoke(app, ["search", *given], env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.output
    listed = " ".join(done.stdout.partition("\nCommands:\n")[2].split())
    for name, command in CALLED.items():
        if name.startswith("search "):
            said = " ".join(command.help.partition("\n\n")[0].split())
            assert f"{name.removeprefix('search ')} {said}" in listed
