"""Runs tritonserver, and ends it with all of its children as soon as the launcher is gone.

The launcher may be killed in any way, and may start tritonserver from a thread, so PR_SET_PDEATHSIG on tritonserver
(which follows the *thread* that started it) is not enough. This process has one thread and does nothing else:
tritonserver dies with it (PR_SET_PDEATHSIG), and it ends itself when the launcher's end of its standard input closes
or the launcher is no longer its parent (a process that the launcher forked may hold a copy of that end).

Started as `python -I -S _guard.py STATUS_FD LAUNCHER_PID RUNTIME_FOLDER SHM_PREFIX COMMAND...`, by the path: it must
not wait for imports. It writes tritonserver's process id to STATUS_FD, and keeps it open as long as it runs. On
standard input it accepts `T` (end tritonserver with SIGTERM) and `K` (kill everything). Its exit status is
tritonserver's, 128 + N for a signal N.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TERMINATE, KILL = b"T", b"K"

# Constants of <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_PARENT_CHECK_S = 1.0
_KILL_TIMEOUT_S = 5.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Runs the command until it or the launcher ends; returns its exit status."""
    status_fd, launcher = int(arguments[0]), int(arguments[1])
    os.set_inheritable(status_fd, False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:  # sent to all processes of a service at once; the launcher handles them
        signal.signal(number, signal.SIG_IGN)
    wake_fd = _wake_on_child()
    child = _start(libc, arguments[4:])
    os.write(status_fd, f"{child}\n".encode())
    try:
        status = _follow(child, launcher, wake_fd)
        return _kill_rest(child, status)
    finally:
        clean_up(arguments[2], arguments[3])


def clean_up(runtime_folder: str, shm_prefix: str) -> None:
    """Removes the temporary folder and the shared memory of a tritonserver that has ended."""
    shutil.rmtree(runtime_folder, ignore_errors=True)
    for region in Path("/dev/shm").glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)


def schedule_as_batch() -> None:
    """Sets SCHED_BATCH for this process and its children: a thread that wakes another goes on before the other runs.

    Triton's batcher must not run before the thread that wakes it has marked its instance as free: with a queue policy,
    it would leave a waiting request until the next one arrives, or for half a second
    (`DynamicBatchScheduler::WaitForPayloadSlotAvailable` and `Payload::Execute` in triton-inference-server/core). By
    default the kernel prefers the woken thread; with SCHED_BATCH it does not, see sched(7).
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else the policy was chosen on purpose
        with contextlib.suppress(OSError):  # a sandbox may not support it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _wake_on_child() -> int:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_fd)
    return read_fd


def _start(libc: ctypes.CDLL, command: Sequence[str]) -> int:
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # the guard died before prctl
            os._exit(1)
        for number in (*_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        schedule_as_batch()
        os.execv(command[0], list(command))
    except OSError as exc:
        os.write(2, f"cannot start {command[0]}: {exc}\n".encode())
    finally:
        os._exit(127)


def _follow(child: int, launcher: int, wake_fd: int) -> int | None:
    """Waits for the child; returns its wait status, or None when it must be killed."""
    while True:
        status = _reap(child)
        if status is not None:
            return status
        readable, _, _ = select.select([0, wake_fd], [], [], _PARENT_CHECK_S)
        if wake_fd in readable:
            os.read(wake_fd, 512)
        if os.getppid() != launcher:
            return None
        if 0 in readable:
            command = os.read(0, 64)
            if not command or KILL in command:
                return None
            os.kill(child, signal.SIGTERM)


def _reap(child: int) -> int | None:
    """Reaps all children that have ended, orphans too; returns the wait status of `child` if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid in (0, child):
            return status if pid else None


def _kill_rest(child: int, status: int | None) -> int:
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        _kill_all(child)
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            status = ended
        elif pid == 0:
            time.sleep(0.02)
    if status is None:
        return 128 + signal.SIGKILL
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _kill_all(child: int) -> None:
    """Kills the child's process group, and processes that left the group and became children of this process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for pid in children.read_text().split() if children.exists() else ():
        os.kill(int(pid), signal.SIGKILL)  # a child stays listed, dead or alive, until it is reaped above


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
