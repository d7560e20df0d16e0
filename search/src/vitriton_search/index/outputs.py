"""The Parquet files of `vitriton embed`, whose vectors are taken as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption

from vitriton_search.index.embedding import IndexTally
from vitriton_search.index.films import frame_id, read_content
from vitriton_search.index.photos import UnusableFile, place_of, read_photo
from vitriton_search.index.rows import BATCH_ROWS, NO_DIRECTION, Batches, has_direction
from vitriton_search.index.scan import Found, look_at, modified_us
from vitriton_search.sources import is_url
from vitriton_search.stores.store import Floats, Space, Store

SUFFIX = ".parquet"


class Output(NamedTuple):
    """A Parquet file of `vitriton embed`.

    Attributes:
        path: the path of the file.
        space: the space of its vectors.
        modified_us: the time when it was written, in microseconds since 1970.
        has_ids: whether its rows are named by ids, which are no paths.
    """

    path: Path
    space: Space
    modified_us: int
    has_ids: bool = False


class Rows(NamedTuple):
    """What the rows of a file are of, by the texts that name it in the file.

    Attributes:
        images: the images and the texts.
        films: the videos.
    """

    images: Mapping[str, Found]
    films: Mapping[str, Found]


def open_output(path: Path) -> Output:
    """Reads what a file says of itself.

    Raises:
        InvalidOption: the file is not there, or `vitriton embed` did not write it, or not one vector for each image.
    """
    if (fault := file_fault(path)) is not None:
        raise InvalidOption("", fault)
    try:
        with _open(path) as file:
            schema = file.schema_arrow
    except (OSError, pa.ArrowException) as exc:
        raise InvalidOption("", f"{path} cannot be read as Parquet: {exc}") from exc
    said = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if not {"model", "fingerprint", "pool"} <= said.keys() or not {"source", "embedding"} <= set(schema.names):
        raise InvalidOption("", f"{path} is no output of `vitriton embed`, which says the model of its vectors")
    vectors = schema.field("embedding").type
    if not json.loads(said["pool"]) or not pa.types.is_fixed_size_list(vectors):
        raise InvalidOption("", f"{path} has all tokens of each image; embed them with --pool, to one vector each")
    space = Space(model=said["model"], fingerprint=said["fingerprint"], dimensions=vectors.list_size)
    return Output(path, space, modified_us(path.stat().st_mtime_ns), has_ids="id_column" in said)


def find_rows(output: Output) -> Rows:
    """Finds what the rows of a file are of.

    A name that is neither a URL nor that of a file that is there is kept as it is.
    """
    with _open(output.path) as file:
        names = [name for name in ("source", "time_s") if name in file.schema_arrow.names]
        table = file.read(columns=names)
    frames = table.filter(table["time_s"].is_valid()) if "time_s" in names else table.slice(0, 0)
    films = set(frames["source"].to_pylist())
    found = {text: Found(text) if output.has_ids else _find(text) for text in table["source"].unique().to_pylist()}
    return Rows(
        images={text: image for text, image in found.items() if text not in films},
        films={text: film for text, film in found.items() if text in films},
    )


def has_content(image: Found) -> bool:
    """Whether a change shows without the vector: of a file that is there, by size and time; of a URL, by its name."""
    return image.size is not None or is_url(image.id)


class Taking:
    """Takes vectors of a file into a store of the same space.

    Args:
        output: the file.
        store: the store.
        batches: the batches that write to the store.
        tally: the counts of the run.
        max_bytes: the size of the largest image whose content is read.

    Attributes:
        unchanged: the number of rows whose vectors the store has.
        outdated: the number of rows whose files have changed since: their vectors may be those of an earlier content.
        repeated: the number of rows that were left out because an earlier row of the file has their id.
    """

    def __init__(self, output: Output, store: Store, batches: Batches, tally: IndexTally, max_bytes: int) -> None:
        self.unchanged = self.outdated = self.repeated = 0
        self._output = output
        self._store = store
        self._batches = batches
        self._tally = tally
        self._max_bytes = max_bytes
        self._taken: set[str] = set()
        self._films: dict[str, dict[str, Any]] = {}  # the columns that all rows of a video have

    def take(self, wanted: Mapping[str, Found]) -> None:
        """Takes the rows of some images and videos.

        Args:
            wanted: the images and videos, by their names in the file.

        Raises:
            StoreError: the store failed.
        """
        with _open(self._output.path) as file:
            names = [name for name in ("source", "time_s", "embedding") if name in file.schema_arrow.names]
            for part in file.iter_batches(BATCH_ROWS, columns=names):
                self._take(part, wanted)
        self._batches.write()

    def _take(self, part: pa.RecordBatch, wanted: Mapping[str, Found]) -> None:
        images = [wanted.get(text) for text in part["source"].to_pylist()]
        vectors = part["embedding"].flatten().to_numpy().reshape(len(part), -1)
        times = part["time_s"].to_pylist() if "time_s" in part.schema.names else [None] * len(part)
        given = [
            (_name_of(image, time_s), image, time_s, vector)
            for image, time_s, vector in zip(images, times, vectors, strict=True)
            if image is not None
        ]
        # Frames, and what has a name alone, are known by their vectors.
        there = self._vectors_of(
            [name for name, image, time_s, _ in given if time_s is not None or not has_content(image)]
        )
        for name, image, time_s, vector in given:
            if name in self._taken:
                self.repeated += self._output.has_ids  # otherwise the image was embedded twice
                continue
            if image.modified_us is not None and image.modified_us > self._output.modified_us:
                self.outdated += 1
                continue
            self._taken.add(name)
            if name in there and np.array_equal(there[name], vector):
                self.unchanged += 1
            elif has_direction(vector):
                self._batches.add(self._columns(image, time_s), vector)
                self._tally.reused += 1
            else:
                self._batches.add({**self._columns(image, time_s), "error": NO_DIRECTION}, None)
                self._tally.fail(name, NO_DIRECTION)

    def _vectors_of(self, names: Sequence[str]) -> dict[str, Floats]:
        """The vectors of rows that are there."""
        if not names:
            return {}
        rows = self._store.rows(names)
        rows = rows.filter(rows["embedding"].is_valid())
        vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, self._store.space.dimensions)
        return dict(zip(rows["id"].to_pylist(), vectors, strict=True))

    def _columns(self, image: Found, time_s: float | None) -> dict[str, Any]:
        """The columns of a row, as far as the file can be read."""
        if time_s is not None:
            if image.id not in self._films:
                self._films[image.id] = _film_columns(image)
            return {**self._films[image.id], "id": _name_of(image, time_s), "time_s": time_s}
        if image.size is None:
            return {"id": image.id, "source": image.id}
        read = read_photo(image, self._max_bytes).columns
        return {name: value for name, value in read.items() if name != "error"}


def _find(source: str) -> Found:
    return look_at([source])[0] if is_url(source) or os.path.exists(source) else Found(source)  # noqa: PTH110 - it raises nothing


def _name_of(image: Found, time_s: float | None) -> str:
    """The id of a row: that of an image, or of a frame."""
    return image.id if time_s is None else frame_id(image.id, time_s)


def _film_columns(film: Found) -> dict[str, Any]:
    """The columns that all rows of a video have, as far as its file can be read."""
    if film.path is not None and film.size is not None:
        with suppress(UnusableFile):
            return read_content(film.path).place(film)
    return place_of(film, film.size, film.modified_us)


def _open(path: Path) -> Any:
    return pq.ParquetFile(path)  # type: ignore[no-untyped-call]  # pyarrow's
