"""The report of `vitriton doctor`: the client's own findings, and those of each installed distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from vitriton._console.diagnosis import CHECKS, Finding, how_to_install
from vitriton.commands.doctor import installed, machine, network


def read_report() -> Mapping[str, Sequence[Finding]]:
    """Reads the findings, by the title of their section."""
    report = {
        "Versions": list(installed.versions()),
        "Commands": list(installed.commands()),
        "Machine": list(machine.findings()),
        "Network": list(network.findings()),
    }
    for entry in sorted(entry_points(group=CHECKS), key=lambda entry: entry.name):
        report[entry.name] = _plugged(entry)
    return {title: findings for title, findings in report.items() if findings}


def _plugged(entry: EntryPoint) -> list[Finding]:
    try:
        return [Finding(*finding) for finding in entry.load()()]
    # A plug-in is foreign code and can fail in any way.
    except Exception as exc:
        reason = " ".join(str(exc).split()) or "no reason given"
        problem = (
            f"the checks of {entry.name} failed: {type(exc).__name__}: {reason}; install it again: "
            f"{how_to_install(entry.name, again=True)}"
        )
        return [Finding("checks", "failed", problem)]
