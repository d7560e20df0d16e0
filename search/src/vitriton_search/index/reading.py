"""Reads the files of a run, in the order in which they are sent to the server."""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vitriton_search.index.films import FilmPlan, FilmReading, is_film
from vitriton_search.index.photos import read_photo
from vitriton_search.index.rows import Columns
from vitriton_search.index.scan import Found


class Waiting(NamedTuple):
    """An input that was read.

    Attributes:
        columns: the columns of its row.
        is_sent: whether it was sent to the server; if not, it has an error, or its row is in the store.
    """

    columns: dict[str, Any]
    is_sent: bool


class FileReading:
    """Reads images and videos.

    Args:
        images: the images and videos.
        films: the plan for the videos.
        max_bytes: the size of the largest image that is read.

    Attributes:
        waiting: what was read, in the order of the answers; a video comes after its last frame.
        twins: the images whose content an earlier one has, each with the columns of its row, and the id of the other.
        film_twins: such videos, each with the source of the other.
    """

    def __init__(self, images: Sequence[Found], films: FilmPlan, max_bytes: int) -> None:
        self.waiting: deque[Waiting | FilmReading] = deque()
        self.twins: list[tuple[Found, Columns, str]] = []
        self.film_twins: list[tuple[FilmReading, str]] = []
        self._images = images
        self._films = films
        self._max_bytes = max_bytes
        self._sizes = Counter(image.size for image in images)  # only files of one size can have one content
        self._first_with: dict[str, str] = {}  # the ids of images and videos, by the hash of their content

    def inputs(self) -> Iterator[Any]:
        """Yields what is sent: the bytes of files, URLs, and frames."""
        for image in self._images:
            yield from self._read_film(image) if is_film(image) else self._read_photo(image)

    def _read_photo(self, image: Found) -> Iterator[Any]:
        photo = read_photo(image, self._max_bytes)
        if photo.data is not None and self._sizes[image.size] > 1:
            first = self._first_with.setdefault(photo.columns["sha256"], image.id)
            if first != image.id:
                place = {name: photo.columns[name] for name in ("id", "source", "bytes", "modified")}
                self.twins.append((image, place, first))
                return
        self.waiting.append(Waiting(photo.columns, "error" not in photo.columns))
        if image.path is None:
            yield image.id
        elif photo.data is not None:
            # A file object, of which the client holds no more than its options say; it takes many bytes ahead.
            yield io.BytesIO(photo.data)

    def _read_film(self, image: Found) -> Iterator[Any]:
        film = FilmReading(image, self._films.every_s, self._films.rows.get(image.id, ()))
        contents = {**self._films.whole, **self._first_with}
        for columns, picture in film.read(contents):
            self.waiting.append(Waiting(columns, picture is not None))
            if picture is not None:
                yield picture
        if film.content is not None and film.is_like_another:
            self.film_twins.append((film, contents[film.content.sha256]))
            return
        if film.content is not None:
            self._first_with[film.content.sha256] = image.id
        self.waiting.append(film)
