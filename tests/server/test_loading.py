"""What `vitriton serve` says while models load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from server.tiny_models import make_full_repository
from vitriton_server import LauncherError, _console
from vitriton_server._rollout.repository import builds_engines


class _Slow:
    """A server whose models take their time and then cannot be loaded."""

    def __init__(self, reporter: _console.Reporter) -> None:
        self._reporter = reporter

    def start(self) -> None:
        self._reporter.line("I1 model_lifecycle.cc:839] \"successfully loaded 'tiny_preprocess'\"")
        time.sleep(0.6)
        raise LauncherError("it is not loaded")

    def stop(self) -> bool:
        return True


def test_it_names_what_still_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, until all models are ready or the start has failed; with what TensorRT does in these minutes."""
    repository = make_full_repository(tmp_path / "repository")
    encoder = repository / "tiny_pooled_encoder" / "config.pbtxt"
    assert not builds_engines(repository)
    tensorrt = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'
    encoder.write_text(f"{encoder.read_text()}\n{tensorrt}\n")
    assert builds_engines(repository)
    monkeypatch.setattr(_console, "_REMINDER_S", 0.25)
    reporter = _console.Reporter(verbose=False)
    server: Any = _Slow(reporter)
    assert reporter.run(server, repository) == 1
    output, errors = capsys.readouterr()
    (reminder, *more) = [line for line in errors.splitlines() if "still loading" in line]
    assert len(more) <= 2
    assert "tiny_pooled, tiny_pooled_encoder" in reminder
    assert "tiny_preprocess" not in reminder
    assert reminder.endswith("; TensorRT builds engines for new graphs, which takes minutes")
    assert output == ""
