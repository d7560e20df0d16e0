"""The process that decodes frames: `python -m vitriton_search.page.film_worker DESCRIPTOR`, which `films` starts.

FFmpeg is C code that meets whatever a file holds. Here it has a bound of memory, no more files than it is handed, and
takes nothing with it when it dies.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from collections import OrderedDict
from typing import BinaryIO

from vitriton import InvalidVideo, Options
from vitriton._errors import Unreadable
from vitriton._video.frame import Picture
from vitriton._video.reading import Video

from vitriton_search.page.photos import frame_thumbnail

MAX_BYTES = 3 * 1024**3  # of addresses: a film of 16 megapixels, 10 bits and 16 reference frames fits
MADE, REFUSED = b"+", b"-"  # the first byte of an answer: a JPEG follows, or the reason why there is none

_MAX_REQUEST = 4096
_MAX_OPEN = 4  # films: opening one means reading all of its file


def main() -> None:
    """Answers requests until the other end of the socket is closed."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for kind, most in ((resource.RLIMIT_AS, MAX_BYTES), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    films = _OpenFilms()
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 1)
        if not request:
            return
        asked = json.loads(request)
        try:
            film = films.get(asked["film"], os.fdopen(descriptors[0], "rb"))
            answer = MADE + frame_thumbnail(_frame(film, asked["time_s"]))
        except InvalidVideo as exc:
            answer = REFUSED + exc.reason.encode()
        except ImportError as exc:
            answer = REFUSED + str(exc).encode()
        channel.send(answer)


class _OpenFilms:
    """The films that were asked for last, open."""

    def __init__(self) -> None:
        self._films: OrderedDict[str, tuple[Video, BinaryIO]] = OrderedDict()

    def get(self, key: str, file: BinaryIO) -> Video:
        """The film with a key.

        Args:
            key: the key.
            file: the file of the film, which is closed if the film is open already.

        Raises:
            InvalidVideo: it has no frame that can be read.
            ImportError: PyAV is not installed.
        """
        if key in self._films:
            file.close()
            self._films.move_to_end(key)
            return self._films[key][0]
        try:
            self._films[key] = Video(file, Options()), file
        except BaseException:
            file.close()
            raise
        if len(self._films) > _MAX_OPEN:
            _, (video, oldest) = self._films.popitem(last=False)
            video.close()
            oldest.close()
        return self._films[key][0]


def _frame(film: Video, time_s: float) -> Picture:
    """The frame that is shown at a time, (H, W, 3) uint8."""
    (frame,) = film.read([film.timeline.at(time_s)])
    if isinstance(frame, Unreadable):
        raise InvalidVideo(film.name, frame.reason, frame.code)
    return frame.image


if __name__ == "__main__":
    main()
