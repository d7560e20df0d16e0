"""Finds perf_analyzer, NVIDIA's load generator for Triton, or downloads it without root."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitriton._console.paths import file_fault

from vitriton_bench._errors import BenchError, UnusableOption

# The last wheel of tritonclient that has the program and runs with glibc before 2.38.
VERSION = "2.51.0"
_SHA256 = "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52"
_MEMBER = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
# Libraries that the program is linked to and few systems have → the names of nvidia-pytriton's copies.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so*", "libcudart.so.12": "libcudart-*.so*"}
_LAUNCHER = """#!/bin/sh
folder=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH="$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$folder/perf_analyzer" "$@"
"""
_PIP_S = 600.0
_ERROR_LINES = 5


@dataclass(frozen=True, kw_only=True)
class PerfAnalyzer:
    """A perf_analyzer that runs on this machine.

    Attributes:
        executable: the path of the program.
        libraries: the folder to add to LD_LIBRARY_PATH, or None.
        version: the version that the program reports.
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
    executable = _folder(cache_folder()) / "perf_analyzer"
    return executable if executable.is_file() else None


def _folder(cache: Path) -> Path:
    return cache / f"perf_analyzer-{VERSION}"


def from_wheel(cache: Path, progress: Callable[[str], None]) -> PerfAnalyzer:
    """Takes the program from tritonclient's wheel and its libraries from nvidia-pytriton, without installing either.

    Args:
        cache: the folder that keeps the program.
        progress: the function that shows a line of progress.

    Raises:
        BenchError: the program cannot be downloaded, or does not run here.
    """
    folder = _folder(cache)
    executable = folder / "perf_analyzer"
    if not executable.is_file():
        progress(f"downloading perf_analyzer {VERSION} (once, with pip)")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            unpacked = _unpack(_download(Path(temporary)), Path(temporary))
            unpacked.chmod(0o755)
            unpacked.replace(executable)
    _link_libraries(folder / "lib")
    _write_launcher(folder)
    return _checked(executable, folder / "lib")


def _download(folder: Path) -> Path:
    """Downloads the wheel from pip's configured index."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), f"tritonclient=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise BenchError(
            f"perf_analyzer: pip took longer than {_PIP_S:g} s to download tritonclient {VERSION}"
        ) from exc
    wheels = list(folder.glob("tritonclient-*.whl"))
    if done.returncode != 0 or not wheels:
        said = "\n".join(done.stderr.strip().splitlines()[-_ERROR_LINES:])
        raise BenchError(
            f"perf_analyzer is not on PATH, and pip could not download it with tritonclient {VERSION} (a wheel for "
            f"Linux x86_64); put one on PATH or name it with --perf-analyzer\n{said}"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != _SHA256:
        raise BenchError(f"{wheel.name} has the hash {found} and should have {_SHA256}; it is not used")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_MEMBER, folder))


def _link_libraries(folder: Path) -> None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise BenchError(
            "perf_analyzer needs libraries that nvidia-pytriton carries, and that is not installed; "
            "`pip install vitriton-server`, or put another perf_analyzer on PATH"
        )
    source = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
    folder.mkdir(exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        library = next(iter(sorted(source.glob(pattern))), None)
        if library is None:
            raise BenchError(f"perf_analyzer needs {name}, and {source} has no {pattern}; put another one on PATH")
        if not (folder / name).exists() or (folder / name).resolve() != library.resolve():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:  # another process may be using the link
                link = Path(temporary) / name
                link.symlink_to(library)
                link.replace(folder / name)


def _write_launcher(folder: Path) -> None:
    """Writes `bin/perf_analyzer`, for a shell's PATH; it finds the libraries by itself."""
    launcher = folder / "bin" / "perf_analyzer"
    if launcher.is_file() and launcher.read_text() == _LAUNCHER:
        return
    launcher.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # another process may be starting it
        draft = Path(temporary) / launcher.name
        draft.write_text(_LAUNCHER)
        draft.chmod(0o755)
        draft.replace(launcher)


def _checked(executable: Path, libraries: Path | None) -> PerfAnalyzer:
    known = PerfAnalyzer(executable=executable, libraries=libraries, version="")
    try:
        done = subprocess.run(
            [executable, "--version"], env=known.environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it did not say its version within 60 s"
        raise BenchError(f"{executable} cannot be run: {reason}; name another with --perf-analyzer") from exc
    said = (done.stdout + done.stderr).strip()
    # "Perf Analyzer Version 2.51.0 (commit …)"; older ones exit with another status than 0
    words = said.split()
    if "Version" not in words[:-1]:
        raise BenchError(
            f"{executable} does not say its version, but: {said[-500:]}; name another with --perf-analyzer"
        )
    return PerfAnalyzer(executable=executable, libraries=libraries, version=words[words.index("Version") + 1])
