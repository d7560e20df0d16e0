"""The films of a store's rows: their files, and their frames, which another process decodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO

from vitriton_search.index.photos import place_of
from vitriton_search.index.scan import Found, modified_us
from vitriton_search.page import film_worker
from vitriton_search.page.files import changed, open_file
from vitriton_search.page.refusals import PageRefused

_MAX_ANSWER = 1024 * 1024
_MAX_GIVEN_UP = 1000  # films that are remembered


def open_film(row: Mapping[str, Any]) -> BinaryIO:
    """Opens the film of a row, which must have the size and the time of the one that was indexed.

    Raises:
        PageRefused: there is no such film, it may not be shown, or it has changed.
    """
    if row["time_s"] is None:
        raise PageRefused("it is no frame of a video", 404)
    file = open_file(row)
    status = os.fstat(file.fileno())
    now = place_of(Found(row["source"]), status.st_size, modified_us(status.st_mtime_ns))
    if any(row[name] is not None and row[name] != now[name] for name in ("bytes", "modified")):
        file.close()
        raise changed()
    return file


class FilmFrames:
    """Thumbnails of frames, made by a process of its own. Safe to share between threads; close it.

    The process is started for the first frame. If it does not answer in time, or dies, another one takes its place, and
    the film is not tried again.

    Args:
        timeout_s: the longest time for one frame, in seconds.
    """

    def __init__(self, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._given_up: dict[str, None] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> FilmFrames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process. May be called again."""
        with self._lock:
            self._end()

    def thumbnail(self, row: Mapping[str, Any]) -> bytes:
        """The middle of the frame of a row, as a small square JPEG.

        Raises:
            PageRefused: the film may not be shown, is gone, has changed, or cannot be decoded.
        """
        with open_film(row) as file, self._lock:
            status = os.fstat(file.fileno())
            film = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
            answer = b"" if film in self._given_up else self._ask(film, row["time_s"], file)
            if not answer:
                self._give_up(film)
                bounds = f"{self._timeout_s:g} s and {film_worker.MAX_BYTES // 1024**3} GiB of memory"
                raise PageRefused(f"its film cannot be decoded in {bounds}", 422)
        if not answer.startswith(film_worker.MADE):
            raise PageRefused(f"it cannot be shown: {answer[1:].decode()}", 415)
        return answer[1:]

    def _ask(self, film: str, time_s: float, file: BinaryIO) -> bytes:
        """The answer of the process; empty if it gave none, and was ended."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        assert self._channel is not None  # as after `_start`
        request = json.dumps({"film": film, "time_s": time_s}).encode()
        try:
            socket.send_fds(self._channel, [request], [file.fileno()])
            answer = self._channel.recv(_MAX_ANSWER)
        except OSError:  # it is dead, or the time is over
            answer = b""
        if not answer:
            self._end()
        return answer

    def _give_up(self, film: str) -> None:
        self._given_up[film] = None
        if len(self._given_up) > _MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(self._timeout_s)
        with theirs:
            command = [sys.executable, "-P", "-m", film_worker.__name__, str(theirs.fileno())]
            # Its addresses are bounded, and each thread of these libraries takes many that it does not use
            few = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **few},
                start_new_session=True,  # Ctrl-C is for the page, which ends it
            )

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None
