"""The output files of a run: embeddings in three formats, and the list of failures.

All are written from a work folder, in blocks, beside their targets; only complete and synced files replace others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._console.paths import target_fault
from vitriton._errors import InvalidOption
from vitriton._tables.parquet import import_pyarrow
from vitriton.commands.embed.job import Job, Name
from vitriton.commands.embed.journal import Block, WorkFolder, sync_folder

_WITHOUT_PARQUET = "write .npy or .jsonl"


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of a run's files.

    Attributes:
        output: the file of the embeddings; its suffix is the format.
        errors: the file that lists inputs that could not be embedded, as JSON Lines; only written if there are any.
    """

    output: Path
    errors: Path

    @property
    def work(self) -> Path:
        """The work folder of an unfinished run."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def sources(self) -> Path | None:
        """The file that maps rows to inputs, for a format that cannot hold that."""
        return self.output.with_suffix(".sources.jsonl") if self.output.suffix == ".npy" else None

    def check(self, read: Path | None = None) -> None:
        """Checks early what would otherwise fail late.

        Args:
            read: the file of texts or the list of images, which must not be replaced.

        Raises:
            InvalidOption: a file cannot be written there.
            CommandFailed: the format cannot be written.
        """
        for option, path in (("output", self.output), ("errors", self.errors)):
            if (fault := target_fault(path)) is not None:
                raise InvalidOption(option, fault)
            if read is not None and path.resolve() == read.resolve():
                raise InvalidOption(option, f"{path} is a file that the command reads; give another name")
        if self.output.suffix == ".parquet":
            import_pyarrow("writing", _WITHOUT_PARQUET)
        taken = [path.resolve() for path in (self.output, self.sources) if path is not None]
        if self.errors.resolve() in taken:
            raise InvalidOption("errors", f"{self.errors} is a file that holds the embeddings; give another name")

    def check_free(self, *, can_append: bool) -> None:
        """Refuses to replace existing files.

        Args:
            can_append: whether the command could add to the output instead.

        Raises:
            InvalidOption: a file exists; the text names it.
        """
        for option, path in (("output", self.output), ("output", self.sources), ("errors", self.errors)):
            if path is not None and path.exists():
                add = "--append to add new images to it, " if path == self.output and can_append else ""
                raise InvalidOption(option, f"{path} exists; give --overwrite to replace it, {add}or another name")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A complete file that is not yet in its place."""

    path: Path
    target: Path


def draft(work: WorkFolder, paths: Paths) -> list[Draft]:
    """Writes the files of a finished run, in the order in which they move to their places.

    Raises:
        OSError: a file cannot be written.
    """
    drafts = []
    if work.failed:
        # Beside its target, which may be on another disk than the other files.
        path = paths.errors.with_name(f"{paths.errors.name}.partial")
        drafts.append(_write(_write_errors, work, path, paths.errors))
    if paths.sources is not None:
        drafts.append(_write(_write_sources, work, work.draft("sources"), paths.sources))
    write_embeddings = FORMATS[paths.output.suffix]
    drafts.append(_write(write_embeddings, work, work.draft("embeddings"), paths.output))
    return drafts


def publish(work: WorkFolder, paths: Paths, drafts: Sequence[Draft]) -> None:
    """Moves the files of a run to their places, and removes its work folder. Can be repeated after a crash.

    Raises:
        OSError: a file cannot be moved; the work folder stays.
    """
    work.mark_publishing()
    if not work.failed:
        paths.errors.unlink(missing_ok=True)
    if paths.sources is not None:
        paths.output.unlink(missing_ok=True)  # it must never stand beside the sources of another run
    for item in drafts:
        item.path.replace(item.target)
    for folder in {item.target.parent for item in drafts}:
        sync_folder(folder)
    work.remove()


Writer = Callable[[IO[bytes], WorkFolder], None]


def text(source: str) -> str:
    """A path as valid Unicode: other bytes become Python's backslash escapes."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def _write(write: Writer, work: WorkFolder, path: Path, target: Path) -> Draft:
    with path.open("wb") as file:
        write(file, work)
        file.flush()
        os.fsync(file.fileno())
    return Draft(path=path, target=target)


def _write_npy(file: IO[bytes], work: WorkFolder) -> None:
    """Writes an array of (rows, *shape) float32; the tokens of ragged embeddings follow one another, (tokens, D)."""
    job = work.begun_job
    shape = (work.floats // job.width, job.width) if job.is_ragged else (work.rows, *job.shape)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]  # numpy's
    with work.rows_path.open("rb") as rows:
        shutil.copyfileobj(rows, file, 1024 * 1024)


def _write_jsonl(file: IO[bytes], work: WorkFolder) -> None:
    """Writes a line for each embedding."""
    for block in work.blocks():
        for origin, row in zip(block.origins, block.rows, strict=True):
            values: NDArray[Any] = row
            if not np.isfinite(row).all():
                values = row.astype(object)
                values[~np.isfinite(row)] = None  # JSON has no NaN
            _write_line(file, {**_origin(work, *origin), "embedding": values.tolist()})


def _write_sources(file: IO[bytes], work: WorkFolder) -> None:
    """Writes a line for each embedding in the array, in order; `tokens` says how many rows of it are a ragged one's."""
    tokens = work.tokens() if work.begun_job.is_ragged else None
    for index, name in work.origins():
        line = _origin(work, index, name)
        _write_line(file, line if tokens is None else {**line, "tokens": next(tokens)})


def _write_errors(file: IO[bytes], work: WorkFolder) -> None:
    """Writes a line for each input without an embedding."""
    for index, name, reason, code in work.failures():
        _write_line(file, {"index": index, **_named(name), "reason": reason, "code": code})


def _write_parquet(file: IO[bytes], work: WorkFolder) -> None:
    """Writes columns `index`, `source` and `embedding` (a flat list; the shape is in the schema's metadata).

    Lists of ragged embeddings have their own lengths. With videos, there are also `time_s` and `frame`.
    """
    pa, pq = import_pyarrow("writing", _WITHOUT_PARQUET)
    job = work.begun_job
    fields = [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), -1 if job.is_ragged else job.width), nullable=False),
    ]
    if job.every_s is not None:
        fields[2:2] = [pa.field("time_s", pa.float64()), pa.field("frame", pa.int64())]
    schema = pa.schema(fields, metadata=_metadata(job))
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for block in work.blocks():
            columns = [
                pa.array([index for index, _ in block.origins], pa.int64()),
                pa.array([text(name.source) for _, name in block.origins], pa.string()),
                _lists(pa, job, block),
            ]
            if job.every_s is not None:
                columns[2:2] = [
                    pa.array([name.time_s for _, name in block.origins], pa.float64()),
                    pa.array([name.frame for _, name in block.origins], pa.int64()),
                ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(block.origins))


def _lists(pa: Any, job: Job, block: Block) -> Any:
    """The flattened embeddings of a block as a column."""
    if not job.is_ragged:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(block.rows).reshape(-1)), job.width)
    ends = np.cumsum([0, *(row.size for row in block.rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(block.rows).reshape(-1)))


FORMATS: dict[str, Writer] = {".parquet": _write_parquet, ".npy": _write_npy, ".jsonl": _write_jsonl}


def _metadata(job: Job) -> dict[str, str]:
    from vitriton._version import __version__

    prompt = {} if job.prompt is None else {"prompt": job.prompt}
    every = {} if job.every_s is None else {"every_s": json.dumps(job.every_s)}
    ids = {} if job.id_column is None else {"id_column": job.id_column}
    return {
        "model": job.model,
        "fingerprint": job.fingerprint,
        "pool": json.dumps(job.pool),
        "shape": json.dumps(job.shape),
        "vitriton_version": __version__,
        **prompt,
        **every,
        **ids,
    }


def _origin(work: WorkFolder, index: int, name: Name) -> dict[str, Any]:
    # In each line, so that it stays with the vector when files are split or joined.
    return {"index": index, **_named(name), "fingerprint": work.begun_job.fingerprint}


def _named(name: Name) -> dict[str, Any]:
    frame = {} if name.frame is None else {"time_s": name.time_s, "frame": name.frame}
    return {"source": text(name.source), **frame}


def _write_line(file: IO[bytes], entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
