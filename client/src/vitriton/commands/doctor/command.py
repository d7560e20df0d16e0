"""The command `vitriton doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vitriton._console.failure import Command
from vitriton._console.help import write_section

if TYPE_CHECKING:
    from vitriton._console.diagnosis import Finding

_HELP = (
    "Check this machine and what is installed on it.\n\n"
    "The report lists versions, commands, the machine, ports, and proxies without their passwords. Add it to a bug "
    "report. The command changes nothing and contacts no other machine.\n\n"
    "Exit code: 0, everything that is installed can work; 1, something that is installed cannot work, and the report "
    "says why and what to do."
)
_EXAMPLES = """
vitriton doctor
vitriton doctor --json
"""

_UNBROKEN = 1_000_000  # columns

Report = Mapping[str, Sequence["Finding"]]


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("doctor", cls=Command, help=_HELP, epilog=_EXAMPLES)(doctor)


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Checks this machine; the help text is _HELP."""
    # Imported here so that `vitriton --help` does not wait for it.
    import json

    from vitriton.commands.doctor.report import read_report

    report = read_report()
    problems = [finding.problem for findings in report.values() for finding in findings if finding.problem]
    if as_json:
        sections = {title: {each.name: each.value for each in findings} for title, findings in report.items()}
        typer.echo(json.dumps({**sections, "problems": problems}, indent=2))
    else:
        _show(report, problems)
    raise typer.Exit(1 if problems else 0)


def _show(report: Report, problems: Sequence[str]) -> None:
    """Shows the report, in the width of the terminal; lines in a pipe or a file are not broken."""
    formatter = typer.Context.formatter_class(width=shutil.get_terminal_size((_UNBROKEN, 0)).columns)
    for title, findings in report.items():
        write_section(title, [(name, value) for name, value, _ in findings], formatter)
    if problems:
        write_section("Problems", [("-", problem) for problem in problems], formatter)
    else:
        formatter.write("\nNo problem was found.\n")
    typer.echo(formatter.getvalue().lstrip("\n"), nl=False)
