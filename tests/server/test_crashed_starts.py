"""A Triton that crashes while it loads its models, as a real one does once in a while, is started once more."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server.processes import children, wait_until
from vitriton_server import LauncherError, ServerStopped, TritonServer, WatchPolicy

pytestmark = pytest.mark.usefixtures("subprocesses")

LOADING = "loading: tiny_preprocess"


class Struck:
    """A server whose Triton gets a signal while it loads, at some of its starts.

    A model of the repository is loaded only when its turn is given, so that the signal finds every struck start
    loading, however late the log line is read. A Triton that polls its models may load it more than once.
    """

    def __init__(self, repository: Path, number: signal.Signals, starts: set[int], **options: object) -> None:
        self.number, self.starts = number, starts
        self.pids: list[int] = []
        self.stop_then = False
        self.turn = repository.parent / "turn"
        self.server = TritonServer(repository, on_log_line=self.line, **options)  # type: ignore[arg-type]

    @property
    def begun(self) -> int:
        """The starts so far."""
        return len(self.pids)

    def line(self, line: str) -> None:
        if LOADING not in line:
            return
        pid = int(line.split()[2])  # the launcher may not have noted it yet
        if pid not in self.pids:
            self.pids.append(pid)
        if self.begun not in self.starts:
            self.turn.touch()
            return
        if self.stop_then:
            self.server._stopping.set()
        os.kill(pid, self.number)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
@pytest.mark.parametrize("watch_repository", [False, True])
def test_it_is_started_once_more(
    number: signal.Signals, watch_repository: bool, waiting_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second start serves, and the log tells of the first."""
    struck = Struck(waiting_repository, number, {1}, watch_repository=watch_repository)
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


def test_a_second_crash_is_the_end(waiting_repository: Path, work_folder: Path) -> None:
    """There is no third start; the error names the signal, and nothing is left."""
    others = children(os.getpid()).keys()  # of tests that ran in this process before
    struck = Struck(waiting_repository, signal.SIGABRT, {1, 2, 3})
    with pytest.raises(LauncherError, match=r"ended with status 134 \(SIGABRT\) before the models were ready"):
        struck.server.start()
    assert struck.begun == 2
    assert not children(os.getpid()).keys() - others
    assert not list(work_folder.iterdir())


# Without SIGINT: the python backend calls system(3), which ignores it in the calling process for a moment
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_somebody_has_sent_is_meant(number: signal.Signals, waiting_repository: Path) -> None:
    """A start that was killed, by the kernel for memory too, or told to end, is not tried again."""
    struck = Struck(waiting_repository, number, {1})
    with pytest.raises(LauncherError, match=rf"ended with status {128 + number} \({number.name}\)"):
        struck.server.start()
    assert struck.begun == 1


def test_a_stop_is_not_answered_with_a_start(waiting_repository: Path) -> None:
    """A Triton that crashes after stop() was called stays down."""
    struck = Struck(waiting_repository, signal.SIGABRT, {1})
    struck.stop_then = True
    with pytest.raises(ServerStopped):
        struck.server.start()
    assert struck.begun == 1


def test_a_restart_that_crashes(waiting_repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The watch's restart gets its second try as well, without another one out of its budget."""
    policy = WatchPolicy(canary_interval_s=0, restart=True, max_restarts=1, backoff_s=0)
    struck = Struck(waiting_repository, signal.SIGSEGV, {2}, watch=policy)
    with struck.server:
        os.kill(struck.server.pid, signal.SIGKILL)
        wait_until(lambda: "every model is ready again" in caplog.text, 60, "the restart")
        assert struck.server.is_alive()
        assert struck.begun == 3
