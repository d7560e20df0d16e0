"""Makes one thread of another process call shutdown(2), by ptrace(2).

There is no other way to end a connection of another process without privileges: the kernel's own (SOCK_DESTROY) needs
CAP_NET_ADMIN, and Docker's default seccomp profile allows ptrace, but not pidfd_getfd. The thread stops for less than a
millisecond, and then continues. This works on x86-64, and for processes that the caller has started itself, as Yama's
usual rule requires.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Constants of <sys/ptrace.h> and <linux/wait.h>.
_PEEK, _STEP, _GET_REGISTERS, _SET_REGISTERS, _DETACH = 1, 9, 12, 13, 17
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_STOPPED_ON_REQUEST = 0x80057F  # WIFSTOPPED with SIGTRAP, and PTRACE_EVENT_STOP
_STOPPED_AFTER_STEP = 0x057F
_WALL = 0x40000000

_Registers = ctypes.c_ulong * 27  # struct user_regs_struct
_RAX, _RSI, _RDI, _ORIG_RAX, _RIP = 10, 13, 14, 15, 16
_SHUTDOWN = 48
_SYSCALL_INSTRUCTION = 0x050F
_NO_SYSCALL = 2**64 - 1

_STOP_TIMEOUT_S = 1.0
_POLL_S = 0.0005


def stop_reading(pid: int, inodes: Iterable[int]) -> set[int]:
    """Shuts some sockets of a process for reading: it sees the end of the stream, and can still send.

    Args:
        pid: the process id of a child or grandchild of this process.
        inodes: the inodes of its sockets, as in the links of /proc/PID/fd.

    Returns:
        The inodes of the sockets that were shut; the others have been closed meanwhile, or the process was not at rest
        and can be tried again.

    Raises:
        OSError: this system does not allow it.
    """
    if platform.machine() != "x86_64":
        raise OSError(f"not supported on {platform.machine()}")
    # In a separate thread: its end releases the process that it has attached to, whatever goes wrong.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_stop_reading, pid, frozenset(inodes)).result()


def sockets(pid: int) -> dict[int, int]:
    """Returns the sockets of a process: inode → file descriptor.

    Raises:
        OSError: the process has ended, or belongs to another user.
    """
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        inode = _inode(link)
        if inode is not None:
            found[inode] = int(link.name)
    return found


def _inode(link: Path) -> int | None:
    with contextlib.suppress(OSError):  # closed meanwhile
        match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
        return int(match[1]) if match else None
    return None


def _stop_reading(pid: int, inodes: frozenset[int]) -> set[int]:
    done: set[int] = set()
    with contextlib.suppress(ProcessLookupError, ChildProcessError, TimeoutError), _Stopped(pid) as thread:
        if not thread.in_system_call:
            return done
        for inode, fd in sockets(pid).items():
            # checked again: another thread may have closed it, and another socket may have its number now
            if (
                inode in inodes
                and _inode(Path(f"/proc/{pid}/fd/{fd}")) == inode
                and thread.call(_SHUTDOWN, fd, socket.SHUT_RD) == 0
            ):
                done.add(inode)
    return done


class _Stopped:
    """The main thread of a process while it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._signal = 0
        self._before = _Registers()

    def __enter__(self) -> _Stopped:
        _ptrace(_SEIZE, self._pid)
        _ptrace(_INTERRUPT, self._pid)
        status = self._wait()
        if status != _STOPPED_ON_REQUEST:  # a signal came first; the process gets it
            self._signal = os.WSTOPSIG(status)
        _ptrace(_GET_REGISTERS, self._pid, data=ctypes.addressof(self._before))
        return self

    def __exit__(self, *_: object) -> None:
        _ptrace(_SET_REGISTERS, self._pid, data=ctypes.addressof(self._before))
        _ptrace(_DETACH, self._pid, data=self._signal)

    @property
    def in_system_call(self) -> bool:
        """Whether the thread waits in the kernel: the instruction before the next one is then a reusable syscall."""
        if self._signal:
            return False
        return _ptrace(_PEEK, self._pid, self._before[_RIP] - 2) & 0xFFFF == _SYSCALL_INSTRUCTION

    def call(self, number: int, first: int, second: int) -> int:
        """Makes the thread execute a system call; returns the result."""
        registers = _Registers(*self._before)
        registers[_RIP] -= 2
        registers[_RAX], registers[_RDI], registers[_RSI] = number, first, second
        registers[_ORIG_RAX] = _NO_SYSCALL  # else the kernel would first resume the interrupted system call
        _ptrace(_SET_REGISTERS, self._pid, data=ctypes.addressof(registers))
        _ptrace(_STEP, self._pid)
        status = self._wait()
        if status != _STOPPED_AFTER_STEP:
            self._signal = os.WSTOPSIG(status)
            raise TimeoutError
        _ptrace(_GET_REGISTERS, self._pid, data=ctypes.addressof(registers))
        return ctypes.c_long(registers[_RAX]).value

    def _wait(self) -> int:
        """Returns the wait status of the next stop."""
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, _WALL | os.WNOHANG)
            if pid and not os.WIFSTOPPED(status):
                raise ProcessLookupError
            if pid:
                return status
            time.sleep(_POLL_S)
        raise TimeoutError


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ctypes.set_errno(0)
    result = int(libc.ptrace(request, pid, address, data))
    number = ctypes.get_errno()
    if result == -1 and number:
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return result
