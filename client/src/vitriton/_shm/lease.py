"""A piece of shared memory, and the use of it for one request."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from vitriton._shm.names import SHM_FOLDER, Owned
from vitriton._wire.transport import Region

_MARK_BYTES = 16


class Memory:
    """A region, as this process has it mapped."""

    def __init__(self, byte_size: int, generation: int) -> None:
        """Makes the file, which is there until `unlink`.

        Raises:
            OSError: it cannot be made; with ENOSPC where /dev/shm is full.
        """
        self.owned = Owned()
        self.byte_size = byte_size
        self.generation = generation
        self.idle_since_s = 0.0
        self._path: Path = SHM_FOLDER / self.owned.name
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            # Takes the memory now: a full /dev/shm is an error here, not a SIGBUS when it is written.
            os.posix_fallocate(descriptor, 0, byte_size)
            self.mapping = mmap.mmap(descriptor, byte_size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def key(self) -> str:
        """For shm_open."""
        return f"/{self.owned.name}"

    def unlink(self) -> None:
        self._path.unlink(missing_ok=True)

    def unmap(self) -> None:
        with contextlib.suppress(BufferError):  # an array still looks at it, and unmaps it when it goes
            self.mapping.close()


class Lease:
    """A region for the reply to one request. `release` or `drop` ends it; both may be called again.

    Attributes:
        region: to be sent with the request.
    """

    def __init__(self, memory: Memory, byte_size: int, give_back: Callable[[Memory, bool], None]) -> None:
        self.region = Region(name=memory.owned.name, byte_size=byte_size)
        self._memory: Memory | None = memory
        self._give_back = give_back
        self._mark = secrets.token_bytes(_MARK_BYTES)
        memory.mapping[byte_size - _MARK_BYTES : byte_size] = self._mark

    @property
    def data(self) -> memoryview:
        """What the server has written, read-only; empty if that is nothing. Valid until the lease is ended.

        Triton's reply does not tell whether anything was written, and what an earlier request has left there must not
        be taken for this one's result: so the end is marked before, and looked at after.
        """
        if self._memory is None:
            raise ValueError("the lease of this region has been ended")
        view = memoryview(self._memory.mapping)[: self.region.byte_size].toreadonly()
        return memoryview(b"") if view[-_MARK_BYTES:] == self._mark else view

    def release(self) -> None:
        """The server has ended the work on the request: the region may be used again."""
        self._end(reusable=True)

    def drop(self) -> None:
        """The request was given up, and the server may still write: the region is not used again."""
        self._end(reusable=False)

    def _end(self, *, reusable: bool) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            self._give_back(memory, reusable)
