"""Makes the pages of the reference that come from the code: `python docs/reference.py` (`make reference`).

`commands.md` has the options of every command, from the commands themselves; `settings.md` has the settings of the
compose files, from .env.example.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from vitriton.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
COMMANDS = ("export", "verify", "remove", "serve", "embed", "models", "bench")
_NOTES = re.compile(r"\s*\[(?P<notes>(?:default: .*|required|\S*<=?x\S*|x>=\S*))\]$", re.DOTALL)
_RANGE = re.compile(r"(?:; )?(?P<least>-?[\d.]+)<=x<=(?P<most>[\d.]+)|(?:; )?x>=(?P<bound>[\d.]+)")
_TYPES = {"<int range>": "<int>", "<float range>": "<float>", "<list[str]>": "<str>"}
_CHOICES = re.compile(r" <([\w-]+(?:\|[\w-]+)+)>")
_SECTION = re.compile(r"# --- (.*) ---")
_SETTING = re.compile(r"#(\w+)=(.*)")


def commands() -> str:
    """The page of the commands."""
    pages = [f"# Commands\n\n{_made('the commands themselves')}\n`vitriton COMMAND --help` shows the same text."]
    group: Any = typer.main.get_command(app)
    parent = group.make_context("vitriton", [], resilient_parsing=True)
    for name in COMMANDS:
        command = group.resolve_command(parent, [name])[1]
        context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(context))
        pages.append(f"## vitriton {name}\n\n```text\nvitriton {name} {usage}\n```\n\n{_paragraphs(command.help)}")
        rows = [_option(parameter, context) for parameter in command.get_params(context)]
        pages.append(_table(("option", "default", "meaning"), (row for row in rows if row)))
    return "\n\n".join(pages) + "\n"


def settings() -> str:
    """The page of the compose files' settings."""
    pages = [
        f"# Settings of the compose files\n\n{_made('`.env.example`')}\n"
        "Copy that file to `.env`, then uncomment and change what you need: "
        "[Deploying with compose](../guides/compose.md)."
    ]
    for title, rows in _sections((ROOT / ".env.example").read_text()):
        pages.append(f"## {title}\n\n" + _table(("setting", "default", "meaning"), rows))
    return "\n\n".join(pages) + "\n"


def _made(source: str) -> str:
    return f"<!-- Made by `make reference`; do not edit. -->\n\nThis page is made from {source}."


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _option(parameter: Any, context: Any) -> tuple[str, str, str] | None:
    """The row of an option or an argument; None if it is not to be seen."""
    record = parameter.get_help_record(context)
    if record is None or parameter.name == "help":
        return None
    names, text = record
    for typed, shown in _TYPES.items():
        names = names.replace(typed, shown)
    choices = _CHOICES.search(names)
    names = _CHOICES.sub("", names).replace("|", " or ").strip()  # a bar would end the table's cell
    found = _NOTES.search(text)
    notes = found["notes"].removeprefix("default: ") if found else ""
    said = " ".join(_NOTES.sub("", text).split()) + _bounds(_RANGE.search(notes)) + _listed(choices)
    default = _RANGE.sub("", notes)
    return f"`{names}`", default if default == "required" else _code(default), said


def _bounds(span: re.Match[str] | None) -> str:
    if span is None:
        return ""
    return f" At least {span['bound']}." if span["bound"] else f" From {span['least']} to {span['most']}."


def _listed(choices: re.Match[str] | None) -> str:
    return f" One of {', '.join(f'`{one}`' for one in choices[1].split('|'))}." if choices else ""


def _code(default: str) -> str:
    """A value as code, and a default in words, which is in brackets, as it is."""
    return f"`{default}`" if default and default[0] != "(" else default.strip("()")


def _sections(text: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The sections of .env.example, each with its settings."""
    _, *parts = _SECTION.split(text)
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        rows: list[tuple[str, str, str]] = []
        comment: list[str] = []
        for line in body.splitlines():
            setting = _SETTING.fullmatch(line)
            if setting is not None:
                rows.append((f"`{setting[1]}`", f"`{setting[2]}`" if setting[2] else "", _linked(" ".join(comment))))
            comment = [] if setting is not None or not line else [*comment, line.removeprefix("#").strip()]
        yield title, rows


def _linked(text: str) -> str:
    """A text with links to the pages that it names."""
    return re.sub(r"docs/(\S+\.md)", r"[docs/\1](../\1)", text.strip())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ("---",) * len(tuple(head)), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


PAGES = {"commands.md": commands, "settings.md": settings}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for page, make in PAGES.items():
        (folder / page).write_text(make())
