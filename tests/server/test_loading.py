"""What `vitriton serve` says while models load."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from server.processes import wait_until
from server.tiny_models import make_full_repository
from vitriton_server import LauncherError, _console
from vitriton_server._rollout.repository import builds_engines


class _Slow:
    """A server whose models load until that has been told, and then cannot be loaded."""

    def __init__(self, reporter: _console.Reporter, capsys: pytest.CaptureFixture[str]) -> None:
        self._reporter = reporter
        self._capsys = capsys
        self.told = ""

    def start(self) -> None:
        self._reporter.line("I1 model_lifecycle.cc:839] \"successfully loaded 'tiny_preprocess'\"")
        wait_until(lambda: " 1 of 10 loaded" in self._tell(), 60, "a reminder")
        raise LauncherError("it is not loaded")

    def _tell(self) -> str:
        self.told += self._capsys.readouterr().err
        return self.told

    def stop(self) -> bool:
        return True


def test_it_names_some_that_still_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, until all models are ready or the start has failed; with what TensorRT does in these minutes."""
    repository = make_full_repository(tmp_path / "repository")
    shutil.copytree(repository / "echo", repository / "unfilled")
    config = repository / "unfilled" / "config.pbtxt"
    marked = 'parameters { key: "fingerprint" value { string_value: "not-exported" } }'
    config.write_text(f"{config.read_text().replace('echo', 'unfilled')}\n{marked}\n")  # left out, so it never loads
    encoder = repository / "tiny_pooled_encoder" / "config.pbtxt"
    assert not builds_engines(repository)
    tensorrt = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'
    encoder.write_text(f"{encoder.read_text()}\n{tensorrt}\n")
    assert builds_engines(repository)
    monkeypatch.setattr(_console, "_REMINDER_S", 0.25)
    reporter = _console.Reporter(verbose=False)
    server: Any = _Slow(reporter, capsys)
    begun_s = time.monotonic()
    assert reporter.run(server, repository) == 1
    assert capsys.readouterr().out == ""
    reminders = [line for line in server.told.splitlines() if "still loading" in line]
    assert len(reminders) <= (time.monotonic() - begun_s) / 0.25
    reminder = next(line for line in reminders if " 1 of 10 loaded" in line)
    assert " s, 1 of 10 loaded: echo, lookup, patient, scalar and 5 more; " in reminder
    assert "tiny_preprocess" not in reminder
    assert reminder.endswith("; TensorRT builds engines for new graphs, which takes minutes")
