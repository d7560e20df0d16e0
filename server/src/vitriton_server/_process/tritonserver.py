"""One tritonserver under its guard: its start, log, end and clean-up."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vitriton_server._errors import InstallationError
from vitriton_server._process import guard as _guard
from vitriton_server._process.log import MAX_LINE_LENGTH, LogTail, has_stopped
from vitriton_server._process.runtime import Runtime

_GUARD_START_S = 30.0
_CHUNK = 65536
_LOOK_S = 0.1
_KILL_S = 10.0  # the guard takes up to 5 s to end everything


class TritonProcess:
    """A running tritonserver.

    Its output is read at all times, so that it never blocks on it. The guard (see `guard`) ends it when this process
    ends, however that happens.

    Attributes:
        pid: the process id of tritonserver.
        serves: whether its models have been ready; the caller sets it.
        log: the last lines of its log and of its models' output.
        has_stopped: the event that it is shutting down and its inference requests are answered.
        ended: the event that it, its children and its files are gone.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        runtime: Runtime,
        on_line: Callable[[str], None],
    ) -> None:
        self.serves = False
        self.log = LogTail()
        self.has_stopped = threading.Event()
        self.ended = threading.Event()
        self._on_line = on_line
        self._runtime = runtime
        self._control = threading.Lock()
        self._status_fd, write_fd = os.pipe()
        try:
            self._guard = subprocess.Popen(
                self._guard_command(write_fd, command),
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_fd,),
                start_new_session=True,  # Ctrl-C in a terminal reaches only the launcher
                bufsize=0,
            )
        except BaseException:
            os.close(self._status_fd)
            _guard.clean_up(str(runtime.folder), runtime.shm_prefix)
            raise
        finally:
            os.close(write_fd)
        assert self._guard.stdin is not None  # PIPE above
        assert self._guard.stdout is not None
        self._input, self._output = self._guard.stdin, self._guard.stdout
        self._owner = os.getpid()
        self.pid = self._read_pid()
        self._reader = threading.Thread(target=self._follow, name="vitriton-serve-log", daemon=True)
        self._reader.start()
        if not self.pid:
            self.kill()
            raise InstallationError(f"{sys.executable} could not start the guard of tritonserver", self.log.last(20))

    def _guard_command(self, status_fd: int, command: Sequence[str]) -> list[str]:
        guard = [sys.executable, "-I", "-S", str(Path(_guard.__file__))]
        own = [str(status_fd), str(os.getpid()), str(self._runtime.folder), self._runtime.shm_prefix]
        return [*guard, *own, *command]

    def _read_pid(self) -> int:
        """Returns the process id that the guard reports; 0 when tritonserver cannot be started."""
        status = select.poll()
        status.register(self._status_fd, select.POLLIN)
        text = os.read(self._status_fd, 32) if status.poll(_GUARD_START_S * 1000) else b""
        return int(text or 0)

    def _follow(self) -> None:
        """Reads the log until all of its writers have ended, then cleans up."""
        lines = _Lines(self._take)
        events = select.poll()
        output_fd = self._output.fileno()
        for fd in (output_fd, self._status_fd):
            events.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in events.poll()}
            if self._status_fd in ready:  # closed, as the guard has ended
                events.unregister(self._status_fd)
                if self._guard.wait() < 0:
                    self._kill_family()
            if output_fd in ready:
                chunk = os.read(output_fd, _CHUNK)
                if not chunk:
                    break
                lines.add(chunk)
        lines.end()
        self._guard.wait()
        self._output.close()
        os.close(self._status_fd)
        with self._control:
            self._input.close()
        _guard.clean_up(str(self._runtime.folder), self._runtime.shm_prefix)
        self.ended.set()

    def _kill_family(self) -> None:
        """Kills the processes that a killed guard leaves: tritonserver dies with the guard, but its stubs may not."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _take(self, line: str) -> None:
        self.log.add(line)
        if has_stopped(line):
            self.has_stopped.set()
        # A caller's broken callback, or SystemExit in it, must not stop the reading, on which the end depends.
        with contextlib.suppress(BaseException):
            self._on_line(line)

    @property
    def exit_status(self) -> int | None:
        """The exit status of tritonserver, 128 + N for a signal N; None while it runs."""
        return self._guard.returncode if self.ended.is_set() else None

    def terminate(self, timeout_s: float, has_finished: Callable[[], bool] = lambda: False) -> bool:
        """Shuts tritonserver down after its requests in flight, and kills it after `timeout_s`.

        Args:
            timeout_s: the longest wait, in seconds.
            has_finished: the function that is polled meanwhile; once it returns True, the wait ends early.

        Returns:
            Whether no request was cut off.
        """
        self._send(_guard.TERMINATE)
        deadline = time.monotonic() + timeout_s
        finished = False
        while not self.ended.wait(_LOOK_S) and time.monotonic() < deadline and not finished:
            finished = has_finished()
        if not self.ended.is_set():
            self.kill()
            return finished
        self._reader.join(_KILL_S)
        return self.exit_status == 0

    def kill(self) -> None:
        """Kills tritonserver and everything that it started."""
        self._send(_guard.KILL)
        if not self.ended.wait(_KILL_S):
            self._guard.kill()  # tritonserver dies with it
            self.ended.wait(_KILL_S)
        self._reader.join(_KILL_S)

    def _send(self, word: bytes) -> None:
        if os.getpid() != self._owner:  # a fork of the launcher must not end it
            return
        with self._control, contextlib.suppress(OSError, ValueError):  # the guard has ended, or its pipe is closed
            self._input.write(word)


class _Lines:
    """Splits a stream of bytes into lines, and a line that is too long into several."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            self._give(line)
        if len(self._rest) > MAX_LINE_LENGTH:
            self.end()

    def end(self) -> None:
        if self._rest:
            self._give(self._rest)
        self._rest = b""

    def _give(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        for start in range(0, max(1, len(text)), MAX_LINE_LENGTH):
            self._take(text[start : start + MAX_LINE_LENGTH])
