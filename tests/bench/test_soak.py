"""bench/soak.py, for seconds in place of minutes: no errors and flat memory; what it calls wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from support import exports

SCRIPT = Path(__file__).parents[2] / "bench" / "soak.py"


def _load():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


soak = _load()
MB = 1_000_000


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_vit_checkpoint):
    return exports.export(tiny_vit_checkpoint, tmp_path_factory.mktemp("soak") / "repository", outputs="pooled")


@pytest.mark.long
def test_a_short_soak(repository, tmp_path, capsys):
    """32 callers with real photos: no error, and neither memory nor /dev/shm grows once it has settled."""
    target = tmp_path / "soak.json"
    arguments = ["--repository", str(repository), "--model", "tiny-vit", "--seconds", "20", "--window", "5"]
    code = soak.main([*arguments, "--no-speed", "--json", str(target)])
    report = json.loads(target.read_text())
    assert (code, report["complaints"]) == (0, []), report
    assert len(report["windows"]) == 4
    assert all(window["errors"] == 0 and window["answers"] > 0 for window in report["windows"])
    assert report["windows"][-1]["usage"]["shared"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def window(*, errors: int = 0, p99_ms: float = 100.0, resident: int = 100 * MB, shared: int = 10 * MB):
    return soak.Window(60.0, 1000, errors, 50.0, p99_ms, soak.Usage(resident, shared))


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (window(), ""),
        (window(resident=104 * MB, p99_ms=149.0), ""),
        (window(resident=106 * MB), "resident memory grew from 100000000 to 106000000 bytes"),
        (window(shared=11 * MB), "shared memory grew"),
        (window(p99_ms=151.0), "p99 was 100 ms in the first minute and is 151 ms in the last"),
    ],
)
def test_what_is_wrong(last, says):
    """Memory by over 5 %, a p99 over 1.5 times the first one's."""
    result = soak.Result([window(), last], soak.Usage(100 * MB, 10 * MB))
    assert "; ".join(result.complaints(speed=True)).startswith(says)
    assert bool(result.complaints(speed=True)) == bool(says)


def test_errors_are_wrong():
    """Their number, and the first of them."""
    result = soak.Result([window(errors=2), window(errors=1)], None, ["ServerBusy: x", "y"])
    assert result.complaints(speed=False) == ["3 errors: ServerBusy: x"]
