"""Makes the pages of the reference that come from code: `python docs/reference.py` (make reference).

`commands.md` lists the options of every command, from the commands themselves. `settings.md` lists the settings of the
compose files, from .env.example. The section of `observability.md` about the dashboard lists its panels, from its JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from vitriton.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs"
OBSERVABILITY = FOLDER / "operations" / "observability.md"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "vitriton.json"
COMMANDS = ("export", "verify", "remove", "serve", "embed", "search", "models", "bench", "api", "doctor")
# Options with which a command is another one, with options of its own
_ELSEWHERE = {"embed": ("--engine ray",), "bench": ("--bulk",)}
_NOTES = re.compile(r"\s*\[(?P<notes>(?:default: .*|required|\S*<=?x\S*|x>=\S*))\]$", re.DOTALL)
_RANGE = re.compile(r"(?:; )?(?P<least>-?[\d.]+)<=x<=(?P<most>[\d.]+)|(?:; )?x>=(?P<bound>[\d.]+)")
_TYPES = {"<int range>": "<int>", "<float range>": "<float>", "<list[str]>": "<str>"}
_CHOICES = re.compile(r" <([\w-]+(?:\|[\w-]+)+)>")
_SECTION = re.compile(r"# --- (.*) ---")
_SETTING = re.compile(r"#(\w+)=(.*)")
_METRIC = re.compile(r"\b(?:nv_\w+|vitriton:\w+|up(?={)|ALERTS(?={))")
_DASHBOARD_SECTION = re.compile(r"(?<=dashboards/vitriton\.json -->\n\n).*(?=\n\n<!-- end -->)", re.DOTALL)


def commands() -> str:
    """The page of the commands."""
    pages = [f"# Commands\n\n{_made('the commands themselves')}\n`vitriton COMMAND --help` shows the same options."]
    for name, command, context in all_commands():
        usage = " ".join(command.collect_usage_pieces(context))
        pages.append(f"## vitriton {name}\n\n```text\nvitriton {name} {usage}\n```\n\n{_paragraphs(command.help)}")
        rows = [_option(parameter, context) for parameter in command.get_params(context)]
        pages.append(_table(("option", "default", "meaning"), (row for row in rows if row)))
    return "\n\n".join(pages) + "\n"


def all_commands() -> Iterator[tuple[str, Any, Any]]:
    """Yields all commands, and in place of a group those in it: the name, the command, and its context."""
    group: Any = typer.main.get_command(app)
    parent = group.make_context("vitriton", [], resilient_parsing=True)
    for name in COMMANDS:
        yield from _with_those_in_it(name, group.resolve_command(parent, [name])[1], parent)
        for words in _ELSEWHERE.get(name, ()):
            context = group.resolve_command(parent, [name])[1].make_context(
                name, words.split(), parent=parent, resilient_parsing=True
            )
            yield f"{name} {words}", context.command, context


def settings() -> str:
    """The page of the compose files' settings."""
    pages = [
        f"# Settings of the compose files\n\n{_made('`.env.example`')}\n"
        "Copy that file to `.env`, and uncomment the settings that you change: "
        "[Deploy with compose](../guides/compose.md)."
    ]
    for title, rows in _sections((ROOT / ".env.example").read_text()):
        pages.append(f"## {title}\n\n" + _table(("setting", "default", "meaning"), rows))
    return "\n\n".join(pages) + "\n"


def observability() -> str:
    """The page about observability, with a table of panels for each row of the dashboard."""
    parts: list[str] = []
    rows: list[tuple[str, str, str]] = []
    head = ("panel", "what it shows, and what to do", "metrics")
    for panel in [*json.loads(DASHBOARD.read_text())["panels"], {"type": "row"}]:
        if panel["type"] != "row":
            asked = " ".join(target["expr"] for target in panel["targets"])
            metrics = ", ".join(f"`{name}`" for name in dict.fromkeys(_METRIC.findall(asked)))
            rows.append((panel["title"], _linked(panel["description"]), metrics))
        elif rows:
            parts.append(_table(head, rows))
            rows = []
        if "panels" in panel:
            parts.append(f"### {panel['title']}")
    return _DASHBOARD_SECTION.sub(lambda _: "\n\n".join(parts), OBSERVABILITY.read_text())


def _with_those_in_it(name: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = command.make_context(name.rpartition(" ")[2], [], parent=parent, resilient_parsing=True)
    if not hasattr(command, "commands"):
        yield name, command, context
        return
    for inner in command.list_commands(context):
        yield from _with_those_in_it(f"{name} {inner}", command.get_command(context, inner), context)


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


PAGES = {
    "reference/commands.md": commands,
    "reference/settings.md": settings,
    "operations/observability.md": observability,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (FOLDER / page).write_text(make())
