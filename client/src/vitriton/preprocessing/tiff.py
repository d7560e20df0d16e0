"""The directories of a TIFF file; Exif has the same format."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .memory import Header

TIFF_STARTS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # the signatures that Pillow accepts
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}

# The memory of one value of a tag in Pillow: a Python object, or a tuple of several for a strip or tile.
_TIFF_BYTES = {1: 2, 2: 2, 7: 2, 5: 400, 10: 400}
_TIFF_OTHER_BYTES, _TIFF_STRIP_BYTES = 48, 400
_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 256, 257, 322, 323
_TIFF_OFFSETS = (273, 324)  # of strips and tiles
_TIFF_DIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, interoperability: Pillow reads them all


class Tiff:
    """The directories of a TIFF file. Source: TIFF 6.0, section 2."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        self._big = 43 in data[2:4]
        self._entry = struct.Struct(self._order + ("HHQQ" if self._big else "HHLL"))
        self.first = self._number(8 if self._big else 4)

    def next(self, at: int) -> int:
        """The offset of the directory after the one at `at`; 0 if there is none."""
        start, count = self._count(at)
        return self._number(start + count * self._entry.size)

    def number(self, wanted: int) -> int | None:
        """The number of a tag; 0 if it has several, None if it is missing."""
        for tag, kind, count, value in self._entries(self.first):
            if tag == wanted:
                return self._value(kind, value) if count == 1 and kind in (3, 4) else 0
        return None

    def header(self) -> Header:
        """The header of the first page, with the memory of its tags."""
        found: dict[int, int] = {}
        needed, places = 0, [self.first]
        for at in places:
            for tag, kind, count, value in self._entries(at):
                count = min(count, len(self._data) // _TIFF_UNITS.get(kind, 1))
                numbers = _TIFF_STRIP_BYTES if tag in _TIFF_OFFSETS else _TIFF_OTHER_BYTES
                needed += count * _TIFF_BYTES.get(kind, numbers)
                if tag in _TIFF_DIRECTORIES and len(places) <= len(_TIFF_DIRECTORIES):
                    places.append(value)
                if at == self.first:
                    found.setdefault(
                        tag, value >> 8 * (self._width() - 2) if kind == 3 and self._order == ">" else value
                    )
        tile = 8 * found.get(_TIFF_TILE_WIDTH, 0) * found.get(_TIFF_TILE_LENGTH, 0)
        needed += min(tile, 1 << 31)  # Pillow refuses larger ones
        return Header("TIFF", found.get(_TIFF_WIDTH, 0), found.get(_TIFF_LENGTH, 0), len(self._data) + needed // 2)

    def _value(self, kind: int, field: int) -> int:
        """The first number of a field; a short one is at the field's beginning."""
        if kind not in (3, 8):
            return field
        return field & 0xFFFF if self._order == "<" else field >> 8 * (self._width() - 2)

    def _entries(self, at: int) -> Iterator[tuple[int, int, int, int]]:
        start, count = self._count(at)
        table = self._data[start : start + count * self._entry.size]
        return self._entry.iter_unpack(table[: len(table) // self._entry.size * self._entry.size])

    def _count(self, at: int) -> tuple[int, int]:
        """The offset of a directory's entries, and their number."""
        size = 8 if self._big else 2
        return at + size, self._number(at, size)

    def _width(self) -> int:
        return 8 if self._big else 4

    def _number(self, at: int, size: int | None = None) -> int:
        place = self._data[at : at + (size or self._width())]
        return int.from_bytes(place, "little" if self._order == "<" else "big")


def tiff_pages(data: bytes, most: int) -> int:
    """Counts pages up to `most`; a cyclic chain of them ends there."""
    tiff, seen = Tiff(data), set[int]()
    at = tiff.first
    while at and at not in seen and len(seen) < most:
        seen.add(at)
        at = tiff.next(at)
    return len(seen)
