"""The videos of a run: which of them are read, and the rows of their frames.

All rows of a video have the hash of its file. When the last of them is in the store, the first one gets the distance
between the frames (`every_s`). A video without it is read again, and the frames that are missing are embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from io import BufferedReader
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from vitriton import InvalidVideo
from vitriton._console.inputs import is_video

from vitriton_search.index.photos import CHANGING, Settled, UnusableFile, opened, place_of
from vitriton_search.index.scan import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FilmRow(NamedTuple):
    """A row of a video.

    Attributes:
        id: its id: that of a frame, or of the video if it is the error of the video.
        sha256: the hash of the video's content.
        is_bad: whether it has an error.
        is_mark: whether it says that all frames are there.
    """

    id: str
    sha256: str | None
    is_bad: bool
    is_mark: bool


@dataclass(frozen=True, kw_only=True)
class FilmPlan:
    """What is to be done with videos.

    Attributes:
        every_s: the distance between two frames, in seconds.
        films: the videos to read.
        unchanged: the number of rows of the other videos.
        bad: the number of these that have an error.
        rows: the rows of the videos to read, and of those that may have their content, by source.
        whole: the sources of videos all of whose frames have rows, by the hash of their content. The run adds to both.
        sizes: the sizes of the files of these, in bytes.
    """

    every_s: float
    films: Sequence[Found] = ()
    unchanged: int = 0
    bad: int = 0
    rows: dict[str, list[FilmRow]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    sizes: Set[int] = frozenset()


def is_film(image: Found) -> bool:
    """Whether an image that was found is a video."""
    return is_video(image.path or image.id)


def frame_id(film: str, time_s: float) -> str:
    """The id of the row of a frame.

    Args:
        film: the source of the video.
        time_s: the time of the frame in the video, in seconds.
    """
    return f"{film}#t={f'{time_s:.6f}'.rstrip('0').rstrip('.')}"


def plan_films(films: Sequence[Found], known: pa.Table, every_s: float, *, retry_errors: bool = False) -> FilmPlan:
    """Makes a plan.

    A video is unchanged if its file has the size and the time that its rows have, and the distance of its frames is the
    same.

    Args:
        films: the videos that are there, each once.
        known: the table of `Store.known`.
        every_s: the distance between two frames, in seconds.
        retry_errors: whether all videos are read again that have an error.
    """
    if not films:
        return FilmPlan(every_s=every_s)
    marks = {row["source"]: row for row in _marks(known) if row["every_s"] == every_s}
    sizes = {film.size for film in films}
    alike = {source for source, mark in marks.items() if mark["bytes"] in sizes}
    rows = _rows_of(known, {film.id for film in films} | alike)
    if retry_errors:
        marks = {source: mark for source, mark in marks.items() if not _bad(rows.get(source, ()))}
    there = [film for film in films if film.id in marks and _is_same(film, marks[film.id])]
    unchanged = {film.id for film in there}
    return FilmPlan(
        every_s=every_s,
        films=[film for film in films if film.id not in unchanged],
        unchanged=sum(len(rows[source]) for source in unchanged),
        bad=sum(_bad(rows[source]) for source in unchanged),
        rows=rows,
        whole={mark["sha256"]: source for source, mark in marks.items() if source in alike and mark["sha256"]},
        sizes={mark["bytes"] for source, mark in marks.items() if source in alike},
    )


class FilmContent(NamedTuple):
    """What the file of a video is known by.

    Attributes:
        size: the size of the file, in bytes.
        sha256: the hash of the content.
        modified_us: the time of the last change, in microseconds since 1970.
    """

    size: int
    sha256: str
    modified_us: int

    def place(self, film: Found) -> dict[str, Any]:
        """The columns that all rows of the video have."""
        return {**place_of(film, self.size, self.modified_us), "sha256": self.sha256}


def read_content(path: str) -> FilmContent:
    """Reads the file of a video, in bounded memory.

    Raises:
        UnusableFile: the file cannot be read, is no regular file, or changes meanwhile.
    """
    with opened(path) as file:
        settled = Settled(file)
        content = _content_of(file, settled)
        if not settled.is_unchanged():
            raise UnusableFile(CHANGING)
        return content


class FilmReading:
    """A video that is read.

    Args:
        found: the video.
        every_s: the distance between two frames, in seconds.
        rows: the rows that the store has of it.

    Attributes:
        found: the same.
        content: what its file is known by, as soon as it was read; None for a URL.
        ids: the ids of all its rows, in order, as far as they were read.
        is_read: whether it was read to its end, and stayed as it was.
    """

    def __init__(self, found: Found, every_s: float, rows: Sequence[FilmRow] = ()) -> None:
        self.found = found
        self.content: FilmContent | None = None
        self.ids: list[str] = []
        self.is_read = False
        self._every_s = every_s
        self._rows = rows

    @property
    def place(self) -> dict[str, Any]:
        """The columns that all its rows have."""
        return place_of(self.found, None, None) if self.content is None else self.content.place(self.found)

    @property
    def stale(self) -> list[str]:
        """The ids of the store's rows that are not among its rows any more."""
        ids = set(self.ids)
        return [row.id for row in self._rows if row.id not in ids]

    @property
    def is_like_another(self) -> bool:
        """Whether it was not read, as another video has its content."""
        return self.content is not None and not self.ids and not self.is_read

    def read(self, contents: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], NDArray[Any] | None]]:
        """Yields the columns of each row, with the picture if it is to be embedded.

        Without a picture, the row has an error, or is in the store.

        A video whose content another one has is not read any further.

        Args:
            contents: the sources of such videos, by the hash of the content.
        """
        try:
            if self.found.path is None:
                yield from self._frames(self.found.id)
                self.is_read = True
                return
            with opened(self.found.path) as file:
                settled = Settled(file)
                self.content = _content_of(file, settled)
                if self.content.sha256 in contents:
                    return
                file.seek(0)
                yield from self._frames(file)
                if not settled.is_unchanged():
                    raise UnusableFile(CHANGING)
            self.is_read = True
        except UnusableFile as exc:
            self.ids.append(self.found.id)
            yield {**place_of(self.found, self.found.size, self.found.modified_us), "error": str(exc)}, None

    def _frames(self, video: Any) -> Iterator[tuple[dict[str, Any], NDArray[Any] | None]]:
        from vitriton.video import frames

        place = self.place
        there = {row.id for row in self._rows if not row.is_bad and row.sha256 == place.get("sha256") is not None}
        try:
            for frame in frames(video, every_s=self._every_s):
                name = frame_id(self.found.id, frame.time_s)
                self.ids.append(name)
                height, width = frame.image.shape[:2]
                columns = {**place, "id": name, "time_s": frame.time_s, "width": width, "height": height}
                yield columns, None if name in there else frame.image
        except InvalidVideo as exc:
            self.ids.append(self.found.id)
            yield {**place, "error": exc.reason}, None


def _content_of(file: BufferedReader, settled: Settled) -> FilmContent:
    return FilmContent(settled.size, hashlib.file_digest(file, "sha256").hexdigest(), settled.modified_us)


def _marks(known: pa.Table) -> list[dict[str, Any]]:
    """The rows that say that all frames of a video are there, with times in microseconds since 1970."""
    times = known["modified"].cast(pa.int64())
    table = known.set_column(known.column_names.index("modified"), "modified", times)
    return list(table.filter(known["every_s"].is_valid()).to_pylist())


def _rows_of(known: pa.Table, sources: Set[str]) -> dict[str, list[FilmRow]]:
    """The rows of some videos, by source."""
    chosen = pc.is_in(known["source"], value_set=pa.array(sorted(sources), pa.string()))  # type: ignore[attr-defined]  # it is made when pyarrow is imported
    rows: dict[str, list[FilmRow]] = {}
    for row in known.filter(chosen).select(["id", "source", "sha256", "error", "every_s"]).to_pylist():
        found = FilmRow(row["id"], row["sha256"], row["error"] is not None, row["every_s"] is not None)
        rows.setdefault(row["source"], []).append(found)
    return rows


def _is_same(film: Found, mark: Mapping[str, Any]) -> bool:
    """Whether a video is as it was; a URL is not asked again."""
    return film.path is None or (mark["bytes"], mark["modified"]) == (film.size, film.modified_us)


def _bad(rows: Sequence[FilmRow]) -> int:
    return sum(row.is_bad for row in rows)
