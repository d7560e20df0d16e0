"""Finds perf_analyzer, NVIDIA's load generator for Triton, or downloads it without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vitriton._console.paths import file_fault

from vitriton_bench._errors import BenchError, UnusableOption
from vitriton_bench._perf_analyzer.wheels import Wheel, glibc_version, install, runnable

_LAUNCHER = """#!/bin/sh
folder=$(dirname "$(dirname "$(readlink -f "$0")")")/{folder}
LD_LIBRARY_PATH="$folder/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" exec "$folder/perf_analyzer" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class PerfAnalyzer:
    """A perf_analyzer that runs on this machine.

    Attributes:
        executable: the path of the program.
        libraries: the folder to add to LD_LIBRARY_PATH, or None.
        version: the version of the program: what it reports, or the version of its wheel.
    """

    executable: Path
    libraries: Path | None
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the program: this process's, without proxies, so that it measures the server alone."""
        own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        if self.libraries is None:
            return own
        parts = [str(self.libraries), own.get("LD_LIBRARY_PATH", "")]
        return {**own, "LD_LIBRARY_PATH": os.pathsep.join(part for part in parts if part)}


def get(given: Path | None, progress: Callable[[str], None]) -> PerfAnalyzer:
    """Returns the given program, else the one on PATH, else the one in the cache, which it downloads if needed.

    Raises:
        BenchError: no perf_analyzer runs here; the text says what to do.
    """
    if given is not None:
        check_program(given)
        return _checked(given, None)
    found = shutil.which("perf_analyzer")
    if found is not None:
        return _checked(Path(found), None)
    return from_wheel(cache_folder(), progress)


def check_program(given: Path) -> None:
    """Checks that a given path is a program.

    Raises:
        UnusableOption: it is none.
    """
    fault = file_fault(given)
    if fault is None and not os.access(given, os.X_OK):
        fault = f"{given} is not executable; name a program, or leave the option out for a download"
    if fault is not None:
        raise UnusableOption("perf_analyzer", fault)


def cache_folder() -> Path:
    """The folder for downloads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitriton"


def cached() -> Path | None:
    """Returns the program that was downloaded before; None if none was."""
    programs = (_folder(wheel, cache_folder()) / "perf_analyzer" for wheel in runnable(glibc_version()))
    return next(filter(Path.is_file, programs), None)


def from_wheel(cache: Path, progress: Callable[[str], None]) -> PerfAnalyzer:
    """Takes the program out of the newest wheel that runs on this system, without installing it.

    Args:
        cache: the folder that keeps the program.
        progress: the function that shows a line of progress.

    Raises:
        BenchError: the program cannot be downloaded, or does not run here.
    """
    *newer, last = runnable(glibc_version())
    for wheel in newer:
        try:
            return _of(wheel, cache, progress)
        except BenchError as exc:  # the system may lack more than a glibc
            progress(f"{str(exc).splitlines()[0]}; taking perf_analyzer {last.version} instead")
    return _of(last, cache, progress)


def _of(wheel: Wheel, cache: Path, progress: Callable[[str], None]) -> PerfAnalyzer:
    folder = _folder(wheel, cache)
    if not (folder / "perf_analyzer").is_file():
        progress(f"downloading perf_analyzer {wheel.version} (once, with pip)")
    executable, libraries = install(wheel, folder)
    checked = _checked(executable, libraries)
    _write_launcher(cache / "bin", folder.name)
    return replace(checked, version=wheel.version)  # a build for a wheel may report 0.0.0


def _folder(wheel: Wheel, cache: Path) -> Path:
    return cache / f"perf_analyzer-{wheel.version}"


def _write_launcher(folder: Path, program: str) -> None:
    """Writes a `perf_analyzer` for a shell's PATH; it finds the program and its libraries by itself."""
    launcher, text = folder / "perf_analyzer", _LAUNCHER.format(folder=program)
    if launcher.is_file() and launcher.read_text() == text:
        return
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # another process may be starting it
        draft = Path(temporary) / launcher.name
        draft.write_text(text)
        draft.chmod(0o755)
        draft.replace(launcher)


def _checked(executable: Path, libraries: Path | None) -> PerfAnalyzer:
    known = PerfAnalyzer(executable=executable, libraries=libraries, version="")
    try:
        done = subprocess.run(
            [executable, "--version"], env=known.environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it did not report its version within 60 s"
        raise BenchError(f"{executable} cannot be run: {reason}; name another with --perf-analyzer") from exc
    said = (done.stdout + done.stderr).strip()
    # "Perf Analyzer Version 2.51.0 (commit …)"; older ones exit with another status than 0
    words = said.split()
    if "Version" not in words[:-1]:
        raise BenchError(
            f"{executable} does not report its version; it printed: {said[:500]}; name another with --perf-analyzer"
        )
    return PerfAnalyzer(executable=executable, libraries=libraries, version=words[words.index("Version") + 1])
