"""The help of a command: plain text in which every option's name is whole, however narrow the terminal is.

The options stand in the groups that `rich_help_panel` names, and the examples at the end, as they were written. typer's
own tables cut names that are long.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

_ARGUMENTS, _OPTIONS, _OTHERS = "Arguments", "Options", "Other options"
_IN_WORDS = re.compile(r"\[default: \((.+?)\)(?=[];])")  # typer puts a default in words in brackets of its own
_NAMES = 30  # columns: the text of an option with longer names begins on the next line
_GAP = 2  # columns between names and text


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes the parameters of a command in their groups: arguments first, and options without a group last."""
    groups: dict[str, list[tuple[str, str]]] = {_ARGUMENTS: []}
    ungrouped: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        record = record[0], _IN_WORDS.sub(r"[default: \1", record[1])
        if parameter.param_type_name == "argument":
            groups[_ARGUMENTS].append((parameter.metavar or record[0], record[1]))
            continue
        group = getattr(parameter, "rich_help_panel", None)  # click's own --help has no such attribute
        (ungrouped if group is None else groups.setdefault(group, [])).append(record)
    write_section(_ARGUMENTS, groups.pop(_ARGUMENTS), formatter)
    for title, rows in groups.items():
        write_section(title, rows, formatter)
    write_section(_OTHERS if groups else _OPTIONS, ungrouped, formatter)


def write_section(title: str, rows: Sequence[tuple[str, str]], formatter: Any) -> None:
    """Writes a section of names and their texts, unless it is empty. The lines of a text are wrapped one by one."""
    if not rows:
        return
    column = min(max(len(names) for names, _ in rows), _NAMES) + _GAP
    wrapper = textwrap.TextWrapper(break_on_hyphens=False, break_long_words=False)  # no name is broken
    with formatter.section(title):
        wrapper.width = formatter.width - formatter.current_indent - column
        margin = " " * formatter.current_indent
        for names, text in rows:
            lines = [line for part in text.splitlines() for line in wrapper.wrap(part)]
            if len(names) + _GAP > column:
                formatter.write(f"{margin}{names}\n")
                names = ""
            for line in lines or [""]:
                formatter.write(f"{margin}{names:{column}}{line}".rstrip() + "\n")
                names = ""


def write_examples(epilog: str | None, formatter: Any) -> None:
    """Writes the examples of a command, which are the lines of its epilog."""
    if epilog:
        with formatter.section("Examples"):
            for line in epilog.strip().splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")
