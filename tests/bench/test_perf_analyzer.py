"""How perf_analyzer is got without root, and what is said where it cannot be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from support.checkpoints import CACHE
from vitriton_bench._errors import BenchError
from vitriton_bench._perf_analyzer import program as _perf_analyzer


def program(path: Path, text: str) -> Path:
    """A shell script in its place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("subprocesses")
def test_the_wheels_program_runs_here():
    """Downloaded once, with the libraries that nvidia-pytriton carries; it says its version."""
    found = _perf_analyzer.from_wheel(CACHE / "vitriton", lambda text: None)
    assert found.version == _perf_analyzer.VERSION
    assert found.executable.is_file()


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
    with pytest.raises(BenchError, match="does not say its version"):
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


def test_another_wheel_is_not_run(tmp_path, monkeypatch):
    """A file of that name with other contents: its program is never started."""
    wheel = tmp_path / f"tritonclient-{_perf_analyzer.VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"tritonclient-{_perf_analyzer.VERSION}.dist-info/METADATA", "Metadata-Version: 2.1\n")
    monkeypatch.setattr(_perf_analyzer, "_download", lambda folder: wheel)
    with pytest.raises(BenchError, match="is not used"):
        _perf_analyzer.from_wheel(tmp_path / "cache", lambda text: None)
