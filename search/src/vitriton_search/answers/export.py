"""The vectors of a store in files, in the formats of `vitriton embed`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from vitriton import __version__

from vitriton_search.answers.vectors import rows_of
from vitriton_search.stores.store import Floats, Space, Store
from vitriton_search.stores.where import Where

_ROWS = 4096  # in a group of a Parquet file, and in memory
_MIB = 1024 * 1024

Writer = Callable[[IO[bytes], Iterator["ExportBlock"], Space], int]


class ExportBlock(NamedTuple):
    """Some rows.

    Attributes:
        sources: what each row is of: the path or the URL of an image or a video.
        times_s: the time of a frame in its video, in seconds, and None for another row; None if there are no frames.
        vectors: the vectors, (B, D).
    """

    sources: list[str]
    times_s: list[float | None] | None
    vectors: Floats


def sources_path(output: Path) -> Path | None:
    """The file that names the rows of an array; None for a format that holds the names itself."""
    return output.with_suffix(".sources.jsonl") if output.suffix == ".npy" else None


def write_vectors(store: Store, output: Path, where: Where | None = None) -> int:
    """Writes the vectors of a store to a file, in bounded memory; rows with an error are left out.

    A file that is there is replaced once the new one is complete.

    Args:
        store: the store.
        output: the file; its suffix, one of `FORMATS`, is the format.
        where: the condition that the rows meet; None for all rows.

    Returns:
        The number of vectors.

    Raises:
        OSError: a file cannot be written; the others are as they were.
    """
    sources = sources_path(output)
    draft = _beside(output)
    listed = None if sources is None else _beside(sources)
    drafts = [path for path in (draft, listed) if path is not None]
    try:
        with draft.open("wb") as file:
            blocks = _blocks(store, where)
            if listed is not None:
                with listed.open("wb") as names:
                    count = FORMATS[output.suffix](file, _naming(blocks, names, store.space), store.space)
                    _sync(names)
            else:
                count = FORMATS[output.suffix](file, blocks, store.space)
            _sync(file)
        if sources is not None and listed is not None:
            output.unlink(missing_ok=True)  # it must never stand beside the sources of another one
            listed.replace(sources)
        draft.replace(output)
    finally:
        for path in drafts:
            path.unlink(missing_ok=True)
    return count


def _blocks(store: Store, where: Where | None) -> Iterator[ExportBlock]:
    has_frames = any(batch.column(0).null_count < batch.num_rows for batch in store.scan(["time_s"], where))
    names = ["source", "time_s", "embedding"] if has_frames else ["source", "embedding"]
    for batch in store.scan(names, where):
        valid = batch.filter(batch.column("embedding").is_valid())
        for start in range(0, valid.num_rows, _ROWS):
            part = valid.slice(start, _ROWS)
            times_s = part.column("time_s").to_pylist() if has_frames else None
            vectors = rows_of(part.column("embedding"), store.space.dimensions)
            yield ExportBlock(part.column("source").to_pylist(), times_s, vectors)


def _write_npy(file: IO[bytes], blocks: Iterator[ExportBlock], space: Space) -> int:
    """Writes an array of (rows, D) float32."""
    count = 0
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as rows:
        for block in blocks:
            rows.write(np.ascontiguousarray(block.vectors, "<f4").tobytes())
            count += len(block.sources)
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, space.dimensions)}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]  # numpy's
        rows.seek(0)
        shutil.copyfileobj(rows, file, _MIB)
    return count


def _write_jsonl(file: IO[bytes], blocks: Iterator[ExportBlock], space: Space) -> int:
    """Writes a line for each vector."""
    count = 0
    for block in blocks:
        for origin, vector in zip(_origins(block, count, space), block.vectors, strict=True):
            _write_line(file, {**origin, "embedding": _finite(vector)})
        count += len(block.sources)
    return count


def _write_parquet(file: IO[bytes], blocks: Iterator[ExportBlock], space: Space) -> int:
    """Writes columns `index`, `source`, `time_s` if there are frames of videos, and `embedding`."""
    count = 0
    first = next(blocks, None)
    has_frames = first is not None and first.times_s is not None
    schema = pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            *([pa.field("time_s", pa.float64())] if has_frames else []),
            pa.field("embedding", pa.list_(pa.float32(), space.dimensions), nullable=False),
        ],
        metadata={
            "model": space.model,
            "fingerprint": space.fingerprint,
            "pool": "true",
            "shape": json.dumps([space.dimensions]),
            "vitriton_version": __version__,
        },
    )
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:  # type: ignore[no-untyped-call]  # pyarrow's
        for block in chain(filter(None, [first]), blocks):
            columns = [
                pa.array(range(count, count + len(block.sources)), pa.int64()),
                pa.array(block.sources, pa.string()),
                *([pa.array(block.times_s, pa.float64())] if has_frames else []),
                pa.FixedSizeListArray.from_arrays(pa.array(block.vectors.reshape(-1)), space.dimensions),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=_ROWS)
            count += len(block.sources)
    return count


FORMATS: Mapping[str, Writer] = {".parquet": _write_parquet, ".npy": _write_npy, ".jsonl": _write_jsonl}


def _naming(blocks: Iterator[ExportBlock], file: IO[bytes], space: Space) -> Iterator[ExportBlock]:
    """Passes blocks on, and writes a line for each of their rows."""
    count = 0
    for block in blocks:
        for origin in _origins(block, count, space):
            _write_line(file, origin)
        count += len(block.sources)
        yield block


def _origins(block: ExportBlock, first: int, space: Space) -> Iterator[dict[str, Any]]:
    """What the lines of a block say of its rows.

    Args:
        block: the block.
        first: the index of its first row.
        space: the space of the vectors.
    """
    times_s = block.times_s or [None] * len(block.sources)
    for index, (source, time_s) in enumerate(zip(block.sources, times_s, strict=True), first):
        time = {} if time_s is None else {"time_s": time_s}
        yield {"index": index, "source": source, **time, "fingerprint": space.fingerprint}


def _finite(vector: Floats) -> list[Any]:
    """A vector as JSON takes it, which has no NaN."""
    if np.isfinite(vector).all():
        return list(vector.tolist())
    return [value if np.isfinite(value) else None for value in vector.tolist()]


def _write_line(file: IO[bytes], entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _beside(path: Path) -> Path:
    # NAME.partial is the folder of an interrupted `vitriton embed`
    return path.with_name(f".{path.name}.{os.getpid()}")
