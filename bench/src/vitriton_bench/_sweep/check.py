"""What is checked before anything is downloaded, started or measured."""

from __future__ import annotations

from vitriton._console.paths import folder_fault
from vitriton._repository.names import Tower, model_names

from vitriton_bench._errors import UnusableOption
from vitriton_bench._perf_analyzer.program import check_program
from vitriton_bench._sweep.options import Sweep


def check(sweep: Sweep, tower: Tower) -> None:
    """Checks that the options name a program and an export.

    Raises:
        UnusableOption: there is no such program, repository or export.
    """
    if sweep.perf_analyzer is not None:
        check_program(sweep.perf_analyzer)
    if sweep.addresses:
        return
    if (fault := folder_fault(sweep.repository, "name the repository that holds the export")) is not None:
        raise UnusableOption("repository", fault)
    for model in model_names(sweep.name, dict.fromkeys(point.kind for point in sweep.points(tower))):
        if not (sweep.repository / model / "config.pbtxt").is_file():
            raise UnusableOption(
                "repository", f"{sweep.repository} has no model {model}; export {sweep.name}, or name another"
            )
