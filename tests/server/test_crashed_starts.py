"""A Triton that crashes while it loads its models, as a real one does once in a while, is started once more."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server.processes import children, wait_until
from server.tiny_models import copy_repository
from vitriton_server import LauncherError, ServerStopped, TritonServer, WatchPolicy

pytestmark = pytest.mark.usefixtures("subprocesses")

LOADING = "loading: tiny_preprocess"


class Struck:
    """A server whose Triton gets a signal while it loads, at some of its starts."""

    def __init__(self, repository: Path, number: signal.Signals, starts: set[int], **options: object) -> None:
        self.number, self.starts, self.begun = number, starts, 0
        self.stop_then = False
        self.server = TritonServer(repository, on_log_line=self.line, **options)  # type: ignore[arg-type]

    def line(self, line: str) -> None:
        if LOADING not in line:
            return
        self.begun += 1
        if self.begun in self.starts:
            if self.stop_then:
                self.server._stopping.set()
            os.kill(self.server.pid, self.number)


@pytest.fixture
def long_loading(python_repository: Path, tmp_path: Path) -> Path:
    """A repository that is still being loaded when a signal comes, however late that is."""
    repository = copy_repository(python_repository, tmp_path / "long")
    with (repository / "tiny_preprocess" / "1" / "model.py").open("a") as model:
        model.write("\n    def initialize(self, args):\n        __import__('time').sleep(60)\n")
    return repository


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
@pytest.mark.parametrize("watch_repository", [False, True])
def test_it_is_started_once_more(
    number: signal.Signals, watch_repository: bool, python_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second start serves, and the log tells of the first."""
    struck = Struck(python_repository, number, {1}, watch_repository=watch_repository)
    struck.server.start()
    try:
        assert struck.begun == 2
        assert "tiny_pooled" in struck.server.models
    finally:
        assert struck.server.stop()
    told = (
        f"tritonserver ended with status {128 + number} ({number.name}) before the models were ready; starting it again"
    )
    assert told in caplog.text


def test_a_second_crash_is_the_end(python_repository: Path, work_folder: Path) -> None:
    """There is no third start; the error names the signal, and nothing is left."""
    others = children(os.getpid()).keys()  # of tests that ran in this process before
    struck = Struck(python_repository, signal.SIGABRT, {1, 2, 3})
    with pytest.raises(LauncherError, match=r"ended with status 134 \(SIGABRT\) before the models were ready"):
        struck.server.start()
    assert struck.begun == 2
    assert not children(os.getpid()).keys() - others
    assert not list(work_folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_somebody_has_sent_is_meant(number: signal.Signals, long_loading: Path) -> None:
    """A start that was killed, by the kernel for memory too, or told to end, is not tried again."""
    struck = Struck(long_loading, number, {1})
    with pytest.raises(LauncherError, match=rf"ended with status {128 + number} \({number.name}\)"):
        struck.server.start()
    assert struck.begun == 1


def test_a_stop_is_not_answered_with_a_start(python_repository: Path) -> None:
    """A Triton that crashes after stop() was called stays down."""
    struck = Struck(python_repository, signal.SIGABRT, {1})
    struck.stop_then = True
    with pytest.raises(ServerStopped):
        struck.server.start()
    assert struck.begun == 1


def test_a_restart_that_crashes(python_repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The watch's restart gets its second try as well, without another one out of its budget."""
    policy = WatchPolicy(canary_interval_s=0, restart=True, max_restarts=1, backoff_s=0)
    struck = Struck(python_repository, signal.SIGSEGV, {2}, watch=policy)
    with struck.server:
        os.kill(struck.server.pid, signal.SIGKILL)
        wait_until(lambda: "every model is ready again" in caplog.text, 30, "the restart")
        assert struck.server.is_alive()
        assert struck.begun == 3
