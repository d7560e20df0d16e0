"""The command `vitriton bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.plugged import plugged_command

from vitriton_bench._errors import UnusableOption
from vitriton_bench._sweep.options import Sweep

INTERRUPTED = 130  # 128 + SIGINT, as shells count


_OUTPUT = "Output"
_EXAMPLES = """
vitriton bench dinov2-small --repository models --concurrency 1,8,32
vitriton bench dinov2-small --url localhost:8001 --json bench.json
vitriton bench texts --texts texts.txt --concurrency 32
"""


class _Bench(Command):
    """The command, or with --bulk that of another distribution, whose options are its own."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Reads the command line; see the class."""
        if "--bulk" not in args:
            return super().make_context(info_name, args, parent, **extra)
        other = plugged_command("vitriton.benches", "bulk", "vitriton-ray")
        rest = [given for given in args if given != "--bulk"]
        return other.make_context(f"{info_name} --bulk", rest, parent, **extra)


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("bench", cls=_Bench, epilog=_EXAMPLES)(flatten(bench))


def bench(
    *,
    sweep: Sweep,
    output: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="The JSON file to write all measurements to.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    payload: Annotated[
        Path | None,
        typer.Option(
            "--write-payload",
            metavar="FILE",
            help="The file to write the images or texts to, for perf_analyzer's --input-data; nothing is measured.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    bulk: Annotated[
        bool,
        typer.Option(
            "--bulk",
            help="Measure jobs on a Ray cluster, with other options: see vitriton bench --bulk --help.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> None:
    """Measure the speed of an export under load, with perf_analyzer."""
    from vitriton_bench._console import one_line

    with one_line():
        if payload is not None:
            _write_payload(sweep, payload)
        elif not sweep.name:
            raise UnusableOption("", "name the export to measure")
        else:
            _measure(sweep, output)


def _measure(sweep: Sweep, output: Path | None) -> None:
    from vitriton._console.signals import Signals

    from vitriton_bench._console import check_file, progress
    from vitriton_bench._sweep.check import check
    from vitriton_bench._sweep.inputs import find_tower, read_inputs
    from vitriton_bench._sweep.sweep import run
    from vitriton_bench._tables.tables import sweep_tables
    from vitriton_bench._tables.terminal import show

    check_file("output", output)
    tower = find_tower(sweep)
    check(sweep, tower)
    inputs = read_inputs(sweep, tower)
    with Signals():  # SIGTERM and SIGHUP end it as Ctrl-C does, and keep the measurements
        document = run(sweep, inputs, output, " ".join(["vitriton", *sys.argv[1:]]), progress())
    show(document, sweep_tables(document))
    if document.get("interrupted"):
        raise typer.Exit(INTERRUPTED)


def _write_payload(sweep: Sweep, target: Path) -> None:
    from vitriton_bench._console import check_file
    from vitriton_bench._sweep.inputs import read_inputs

    check_file("payload", target)
    if sweep.name:
        raise UnusableOption("payload", "measures nothing; leave out `name`")
    inputs = read_inputs(sweep, sweep.wanted_tower or "image")
    inputs.write(target)
    print(f"{target}: {len(inputs)} {inputs.noun}")
