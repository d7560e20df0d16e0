"""What is to be done: what is there, compared with what a store knows. No file is read, and no server asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vitriton_search.index.scan import Found, inside

_NONE = -1  # in place of a missing size or time
Integers = NDArray[np.int64]


class MissingRow(NamedTuple):
    """A row of the store whose file was not found."""

    id: str
    source: str


@dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """What is to be done.

    Attributes:
        unchanged: the number of images whose rows are as they should be.
        bad: the number of these whose rows have an error.
        alike: the files to read and compare by content, because a row has their size: they may only have moved, or
            have been touched.
        new: the images to embed.
        missing: the rows of the folders whose files were not found. A file may still be there, under a name that a
            folder's images do not have.
        contents: the ids of rows by the hash of their file's content, for files of these sizes.
        own: the hash of the content by the id of the row, for the files in `alike` that have one.
    """

    unchanged: int
    bad: int
    alike: Sequence[Found]
    new: Sequence[Found]
    missing: Sequence[MissingRow]
    contents: Mapping[str, str]
    own: Mapping[str, str]

    def row_with(self, sha256: str, of: str) -> str | None:
        """The id of a row with this content, best of all that of the file itself; None if there is none.

        Args:
            sha256: the hash of the content.
            of: the id of the file.
        """
        return of if self.own.get(of) == sha256 else self.contents.get(sha256)


def make_plan(
    found: Sequence[Found], known: pa.Table, folders: Sequence[str], *, retry_errors: bool = False
) -> IndexPlan:
    """Makes a plan.

    An image is unchanged if its row has the file's size and time; one with an error is only tried again if it has
    changed since, or if it could not be read. A URL is not asked again.

    Args:
        found: the images that are there, each once.
        known: the table of `Store.known`.
        folders: the names of the folders that were searched.
        retry_errors: whether all images are tried again whose rows have an error.
    """
    rows = _Rows(known)
    row_of = rows.numbers([image.id for image in found])
    files = np.fromiter((image.path is not None for image in found), bool, len(found))
    sizes, times = _integers_of(image.size for image in found), _integers_of(image.modified_us for image in found)
    same = ~files | (rows.read[row_of] & (rows.sizes[row_of] == sizes) & (rows.times[row_of] == times))
    unchanged = (row_of >= 0) & same & ~(rows.bad[row_of] & retry_errors)
    usable = rows.read & ~(rows.bad & retry_errors)
    alike = ~unchanged & files & np.isin(sizes, rows.sizes[usable])
    candidates = np.flatnonzero(usable & np.isin(rows.sizes, sizes[alike]))
    own = row_of[alike & (row_of >= 0) & usable[row_of]]
    return IndexPlan(
        unchanged=int(unchanged.sum()),
        bad=int((unchanged & rows.bad[row_of]).sum()),
        alike=[found[each] for each in np.flatnonzero(alike)],
        new=[found[each] for each in np.flatnonzero(~unchanged & ~alike)],
        missing=rows.missing(row_of, found, folders),
        contents=dict(zip(rows.hashes(candidates), rows.ids(candidates), strict=True)),
        own=dict(zip(rows.ids(own), rows.hashes(own), strict=True)),
    )


class _Rows:
    """The rows of a store, as arrays. After the last of them, for an image without a row, is one without a value.

    Attributes:
        sizes: the sizes of the files, in bytes.
        times: the times of their last change, in microseconds since 1970.
        bad: whether a row has an error.
        read: whether the content of the file is known.
    """

    def __init__(self, known: pa.Table) -> None:
        self._known = known.combine_chunks()
        self.sizes = np.append(self._known["bytes"].fill_null(_NONE).to_numpy(), _NONE)
        self.times = np.append(self._known["modified"].cast(pa.int64()).fill_null(_NONE).to_numpy(), _NONE)
        self.bad = np.append(self._known["error"].is_valid().to_numpy(), False)
        self.read = np.append(self._known["sha256"].is_valid().to_numpy(), False)

    def numbers(self, ids: Sequence[str]) -> Integers:
        """The numbers of the rows with these ids; -1, which is that of the last row, for those without one."""
        found = pc.index_in(pa.array(ids, pa.string()), value_set=self._known["id"])  # type: ignore[attr-defined]  # it is made when pyarrow is imported
        return np.asarray(found.fill_null(_NONE).to_numpy(zero_copy_only=False), np.int64)

    def ids(self, rows: Integers) -> list[str]:
        """The ids of some rows."""
        return list(self._known["id"].take(pa.array(rows, pa.int64())).to_pylist())

    def hashes(self, rows: Integers) -> list[str]:
        """The hashes of some rows' files."""
        return list(self._known["sha256"].take(pa.array(rows, pa.int64())).to_pylist())

    def missing(self, row_of: Integers, found: Sequence[Found], folders: Sequence[str]) -> list[MissingRow]:
        """The rows of the folders' files that were not found.

        Args:
            row_of: the numbers of the rows of the images that were found.
            found: these images.
            folders: the names of the folders.
        """
        others = np.setdiff1d(np.arange(len(self._known)), row_of)
        sources = self._known["source"].take(pa.array(others, pa.int64())).to_pylist()
        there = {image.id for image in found} if folders and sources else set()
        is_inside = inside(folders)
        return [
            MissingRow(name, source)
            for name, source in zip(self.ids(others), sources, strict=True)
            if source is not None and source not in there and is_inside(source)
        ]


def _integers_of(values: Iterable[int | None]) -> Integers:
    return np.fromiter((_NONE if value is None else value for value in values), np.int64)
