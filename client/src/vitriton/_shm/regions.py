"""Results through system shared memory, where client and server are on one host.

Whatever waits for the server (registering, unregistering) is done by a thread of its own, so that no request waits for
it: as long as there is no region, results come in the reply. What cannot be had is given up silently.

A region's file is unlinked as soon as the server has mapped it. A client that is killed so leaves no file behind, only
a mapping in the server, which whoever comes next has unregistered (see `names`).
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vitriton._errors import without_frames
from vitriton._shm.errors import is_in_use, is_passing
from vitriton._shm.host import is_same_host
from vitriton._shm.lease import Lease, Memory
from vitriton._shm.names import SHM_FOLDER, Owned, dead_regions, unlink_dead
from vitriton._wire.address import parse_address
from vitriton._wire.transport import CallError, Transport

_LOG = logging.getLogger("vitriton")

# From `python bench/shared_memory.py`, on 2 cores, two runs, gRPC, 1 and 4 callers. Time of a request without shared
# memory, of that with it: 0.7-0.9 at 154 kB, 0.95-1.1 at 307 kB, 1.3-1.8 at 605 kB (one image's tokens of ViT-B/16),
# 3.6-6.5 at 4.8 MB, 4-7 at 19 MB.
MIN_BYTES = 512 * 1024
_MAX_REGIONS = 32
_MAX_BYTES = 256 * 1024 * 1024
_IDLE_S = 60.0

_CALL_S = 2.0  # for one question to a server on the same host
_CLOSE_S = 1.0
_FIRST_WAIT_S = 0.05  # before a region is unregistered again; doubles up to the next
_LONGEST_WAIT_S = 5.0
_MAX_FAILURES = 8  # to unregister a region, after which a server that does not answer is taken to have gone with it
_MAX_LOSSES = 3  # within the next; then the address is that of several servers, or of one that crashes all the time
_LOSS_WINDOW_S = 60.0


def unregister_dead(transport: Transport, timeout_s: float | None) -> None:
    """Makes a server forget the regions of clients on this host that have ended without doing so.

    Raises:
        CallError: the server does not allow it, or does not answer.
    """
    for name in dead_regions(transport.regions(timeout_s)):
        _LOG.debug("region %s on %s is left over: unregistering it", name, transport.address)
        try:
            transport.unregister_region(name, timeout_s)
        except CallError as exc:
            if not is_in_use(exc):  # else it is left to the next
                raise


@dataclass
class _Doomed:
    """A region that the server has yet to forget.

    Attributes:
        owned: its name.
        byte_size: that the server still holds.
        due_s: when that is tried (again).
        failures: so far.
    """

    owned: Owned
    byte_size: int
    due_s: float
    failures: int = 0


class Regions:
    """One client's shared memory for the replies of one server. Safe to share between threads.

    It grows, in the background, to as many regions as are in use at a time.

    Args:
        transport: the way to the server; must be closed after this.
        min_bytes: of a reply that is worth it.
        max_regions: at a time.
        max_bytes: of all regions, those that the server has yet to forget included.
        idle_s: after which an unused region is given up, in seconds.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        min_bytes: int = MIN_BYTES,
        max_regions: int = _MAX_REGIONS,
        max_bytes: int = _MAX_BYTES,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._transport = transport
        self._min_bytes = min_bytes
        self._max_regions = max_regions
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._off = "" if sys.platform == "linux" and SHM_FOLDER.is_dir() else "there is no /dev/shm"
        self._generation = 0  # of the server: started again, it knows none of the regions
        self._swept: int | None = None  # the generation that was asked for the regions of the dead
        self._losses: deque[float] = deque(maxlen=_MAX_LOSSES)
        self._changed = threading.Condition()
        self._idle: list[Memory] = []  # the least recently used first
        self._leased: set[Memory] = set()
        self._doomed: list[_Doomed] = []
        self._wanted: set[int] = set()  # sizes
        self._working = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()
        _OPEN.add(self)

    @property
    def off(self) -> str:
        """Why there is and will be no shared memory with this server; empty while there may be."""
        return self._off

    def acquire(self, byte_size: int) -> Lease | None:
        """A region for a reply of exactly `byte_size`; None where the result must come in the reply. Never waits."""
        if byte_size < self._min_bytes:
            return None
        with self._changed:
            if self._off or self._closed or self._is_resting():
                return None
            memory = min(
                (memory for memory in self._idle if memory.byte_size >= byte_size),
                key=lambda memory: memory.byte_size,
                default=None,
            )
            if memory is None:
                size = 1 << (byte_size - 1).bit_length()  # few sizes, so that one region does for many requests
                if size <= self._max_bytes:
                    self._wanted.add(size)
                    self._wake()
                return None
            self._idle.remove(memory)
            self._leased.add(memory)
        return Lease(memory, byte_size, self._give_back)

    def forget(self) -> None:
        """The server has gone, or no longer knows a region: all are made anew when they are needed."""
        with self._changed:
            if not self._idle and all(memory.generation < self._generation for memory in self._leased):
                return  # there are none, or several requests tell the same
            self._generation += 1
            self._losses.append(time.monotonic())
            self._doom_idle()

    def settle(self, timeout_s: float) -> bool:
        """Waits until nothing is left to register or to unregister; False if `timeout_s` was not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._wanted or self._doomed or self._working), timeout_s)

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Makes the server forget all regions, within about `timeout_s`. May be called again.

        What a request still uses cannot always be unregistered in that time; it is left to the next client on this
        host, or to the watch of `vitriton serve`.
        """
        if os.getpid() != self._pid:  # after a fork they belong to the parent
            return
        ends_s = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            self._wanted.clear()
            self._doom_idle()
            for memory in self._leased:  # stays mapped: somebody may be reading it
                self._doomed.append(_Doomed(memory.owned, memory.byte_size, 0.0))
            self._leased.clear()
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)
        # In this thread, as none can be started when the interpreter ends.
        while self._doomed and (left_s := ends_s - time.monotonic()) > 0:
            doomed = self._doomed.pop(0)
            error = self._unregister(doomed, left_s)
            if error is not None and not is_in_use(error):
                break
            if error is not None:
                self._doomed.append(doomed)
                time.sleep(_FIRST_WAIT_S)
        self._doomed.clear()

    # With the lock held

    def _is_resting(self) -> bool:
        return len(self._losses) == _MAX_LOSSES and time.monotonic() - self._losses[0] < _LOSS_WINDOW_S

    def _doom_idle(self, count: int | None = None) -> None:
        """Gives up the least recently used of the idle regions, or all."""
        doomed, self._idle[:count] = self._idle[:count], []
        for memory in doomed:
            self._doom(memory)

    def _doom(self, memory: Memory) -> None:
        memory.unmap()
        self._doomed.append(_Doomed(memory.owned, memory.byte_size, 0.0))
        self._wake()

    def _has_room(self, byte_size: int) -> bool:
        held = [memory.byte_size for memory in (*self._idle, *self._leased)]
        held += [doomed.byte_size for doomed in self._doomed]
        return len(held) < self._max_regions and sum(held) + byte_size <= self._max_bytes

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._thread is not None or self._closed:
            return
        self._thread = threading.Thread(target=self._work, name="vitriton-regions", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._thread = None
            self._switch_off(f"no thread can be started: {exc}")

    def _switch_off(self, reason: str) -> None:
        _LOG.debug("no shared memory with %s: %s", self._transport.address, reason)
        self._off = reason
        self._wanted.clear()
        if self._thread is not None:
            self._doom_idle()

    def _next_job(self) -> Callable[[], None] | None:
        """What is due, after a wait for it; None when nothing will be."""
        while not self._closed:
            now_s = time.monotonic()
            self._doom_idle(sum(memory.idle_since_s + self._idle_s <= now_s for memory in self._idle))
            for doomed in self._doomed:
                if doomed.due_s <= now_s:
                    self._doomed.remove(doomed)
                    return partial(self._try_unregister, doomed)
            if self._wanted:
                job = self._next_registration()
                if job is not None:
                    return job
                continue
            times = [doomed.due_s for doomed in self._doomed]
            times += [memory.idle_since_s + self._idle_s for memory in self._idle]
            self._changed.notify_all()  # what was wanted may have been given up
            if not times:
                return None
            self._changed.wait(min(times) - now_s)
        return None

    def _next_registration(self) -> Callable[[], None] | None:
        byte_size = self._wanted.pop()
        if any(memory.byte_size >= byte_size for memory in self._idle):
            return None
        if self._has_room(byte_size):
            return partial(self._register, byte_size)
        if self._idle:  # too small: room is made first
            self._wanted.add(byte_size)
            self._doom_idle(1)
        return None

    # From other threads

    def _give_back(self, memory: Memory, reusable: bool) -> None:
        with self._changed:
            if memory not in self._leased:  # closed meanwhile
                memory.unmap()
                return
            self._leased.remove(memory)
            if reusable and memory.generation == self._generation and not self._off:
                memory.idle_since_s = time.monotonic()
                self._idle.append(memory)
                self._wake()
            else:
                self._doom(memory)

    def _work(self) -> None:
        """On the thread, which ends when there is nothing more to do or to wait for."""
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                job = self._next_job()
                if job is None:
                    self._thread = None
                    return
                self._working = True
            try:
                job()
            except Exception as exc:  # not foreseen; the requests go on without shared memory
                with self._changed:
                    self._switch_off(repr(exc))

    def _register(self, byte_size: int) -> None:
        memory = None
        generation = self._generation
        try:
            self._prepare(generation)
            memory = Memory(byte_size, generation)
            self._transport.register_region(memory.owned.name, memory.key, byte_size, _CALL_S)
        except (OSError, CallError, ValueError) as exc:
            with self._changed:
                if memory is not None:
                    self._doom(memory)  # the server may have it all the same
                self._note(exc)
            return
        finally:
            if memory is not None:
                memory.unlink()
        with self._changed:
            memory.idle_since_s = time.monotonic()
            if generation == self._generation and not self._closed:
                self._idle.append(memory)
            else:
                self._doom(memory)

    def _prepare(self, generation: int) -> None:
        """Once for each generation; raises ValueError where the server is on another host."""
        if self._swept == generation:
            return
        if self._swept is None and not is_same_host(parse_address(self._transport.address).host):
            raise ValueError("it is on another host")
        unlink_dead()
        unregister_dead(self._transport, _CALL_S)
        self._swept = generation

    def _note(self, error: OSError | CallError | ValueError) -> None:
        """With the lock held: what a failed registration means."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _LOG.debug("/dev/shm is full: %s", error)
            self._max_bytes = sum(memory.byte_size for memory in (*self._idle, *self._leased))
        elif not (isinstance(error, CallError) and is_passing(error)):
            self._switch_off(str(error))

    def _try_unregister(self, doomed: _Doomed) -> None:
        error = self._unregister(doomed, _CALL_S)
        if error is None:
            return
        doomed.failures += 1
        if doomed.failures >= _MAX_FAILURES and not is_in_use(error):
            _LOG.debug("region %s on %s is left: %s", doomed.owned.name, self._transport.address, error)
            return
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(doomed.failures, 60))
        with self._changed:
            doomed.due_s = time.monotonic() + wait_s
            self._doomed.append(doomed)

    def _unregister(self, doomed: _Doomed, timeout_s: float) -> CallError | None:
        try:
            self._transport.unregister_region(doomed.owned.name, timeout_s)
        except CallError as exc:
            return without_frames(exc)
        return None


_OPEN: weakref.WeakSet[Regions] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """For clients that were not closed."""
    for regions in list(_OPEN):
        regions.close()
