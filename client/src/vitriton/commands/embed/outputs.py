"""The output files of a run: embeddings in three formats, and the list of failures.

All are written from a work folder, in blocks, beside their targets; only complete and synced files replace others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._console.failure import CommandFailed
from vitriton._console.paths import target_fault
from vitriton._errors import InvalidOption
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import WorkFolder, sync_folder


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of a run's files.

    Attributes:
        output: the file of the embeddings; its suffix is the format.
        errors: the file that lists images that could not be embedded, as JSON Lines; only written if there are any.
    """

    output: Path
    errors: Path

    @property
    def work(self) -> Path:
        """The work folder of an unfinished run."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def sources(self) -> Path | None:
        """The file that maps rows to images, for a format that cannot hold that."""
        return self.output.with_suffix(".sources.jsonl") if self.output.suffix == ".npy" else None

    def check(self) -> None:
        """Checks early what would otherwise fail late.

        Raises:
            InvalidOption: a file cannot be written there.
            CommandFailed: the format cannot be written.
        """
        for option, path in (("output", self.output), ("errors", self.errors)):
            if (fault := target_fault(path)) is not None:
                raise InvalidOption(option, fault)
        if self.output.suffix == ".parquet":
            _import_pyarrow()
        taken = [path.resolve() for path in (self.output, self.sources) if path is not None]
        if self.errors.resolve() in taken:
            raise InvalidOption("errors", f"{self.errors} is a file that holds the embeddings; give another name")

    def check_free(self) -> None:
        """Refuses to replace existing files.

        Raises:
            InvalidOption: a file exists; the text names it.
        """
        for option, path in (("output", self.output), ("output", self.sources), ("errors", self.errors)):
            if path is not None and path.exists():
                raise InvalidOption(option, f"{path} exists; give --overwrite to replace it, or another name")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A complete file that is not yet in its place."""

    path: Path
    target: Path


def draft(work: WorkFolder, paths: Paths, sources: Sequence[str]) -> list[Draft]:
    """Writes the files of a finished run, in the order in which they move to their places.

    Raises:
        OSError: a file cannot be written.
    """
    drafts = []
    if work.failed:
        # Beside its target, which may be on another disk than the other files.
        path = paths.errors.with_name(f"{paths.errors.name}.partial")
        drafts.append(_write(_write_errors, work, sources, path, paths.errors))
    if paths.sources is not None:
        drafts.append(_write(_write_sources, work, sources, work.draft("sources"), paths.sources))
    write_embeddings = FORMATS[paths.output.suffix]
    drafts.append(_write(write_embeddings, work, sources, work.draft("embeddings"), paths.output))
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


Writer = Callable[[IO[bytes], WorkFolder, Sequence[str]], None]


def text(source: str) -> str:
    """A path as valid Unicode: other bytes become Python's backslash escapes."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def _write(write: Writer, work: WorkFolder, sources: Sequence[str], path: Path, target: Path) -> Draft:
    with path.open("wb") as file:
        write(file, work, sources)
        file.flush()
        os.fsync(file.fileno())
    return Draft(path=path, target=target)


def _write_npy(file: IO[bytes], work: WorkFolder, sources: Sequence[str]) -> None:
    """Writes an array of (rows, *shape) float32."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (work.rows, *work.begun_job.shape)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]  # numpy's
    with work.rows_path.open("rb") as rows:
        shutil.copyfileobj(rows, file, 1024 * 1024)


def _write_jsonl(file: IO[bytes], work: WorkFolder, sources: Sequence[str]) -> None:
    """Writes a line for each embedding."""
    for indices, rows in work.blocks(work.begun_job.block_rows()):
        for index, row in zip(indices, rows, strict=True):
            values: NDArray[Any] = row
            if not np.isfinite(row).all():
                values = row.astype(object)
                values[~np.isfinite(row)] = None  # JSON has no NaN
            _write_line(file, {**_origin(work, sources, index), "embedding": values.tolist()})


def _write_sources(file: IO[bytes], work: WorkFolder, sources: Sequence[str]) -> None:
    """Writes a line for each row of the array, in order."""
    for index in work.indices():
        _write_line(file, _origin(work, sources, index))


def _write_errors(file: IO[bytes], work: WorkFolder, sources: Sequence[str]) -> None:
    """Writes a line for each image without an embedding."""
    for index, reason, code in work.failures():
        _write_line(file, {"index": index, "source": text(sources[index]), "reason": reason, "code": code})


def _write_parquet(file: IO[bytes], work: WorkFolder, sources: Sequence[str]) -> None:
    """Writes columns `index`, `source` and `embedding` (a flat list; the shape is in the schema's metadata)."""
    pa, pq = _import_pyarrow()
    job = work.begun_job
    width = math.prod(job.shape)
    schema = pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), width), nullable=False),
        ],
        metadata=_metadata(job),
    )
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for indices, rows in work.blocks(job.block_rows()):
            columns = [
                pa.array(indices, pa.int64()),
                pa.array([text(sources[index]) for index in indices], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(indices))


FORMATS: dict[str, Writer] = {".parquet": _write_parquet, ".npy": _write_npy, ".jsonl": _write_jsonl}


def _metadata(job: Job) -> dict[str, str]:
    from vitriton._version import __version__

    return {
        "model": job.model,
        "fingerprint": job.fingerprint,
        "pool": json.dumps(job.pool),
        "shape": json.dumps(job.shape),
        "vitriton_version": __version__,
    }


def _origin(work: WorkFolder, sources: Sequence[str], index: int) -> dict[str, Any]:
    # In each line, so that it stays with the vector when files are split or joined.
    return {"index": index, "source": text(sources[index]), "fingerprint": work.begun_job.fingerprint}


def _write_line(file: IO[bytes], entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as exc:
        raise CommandFailed(
            "writing .parquet needs pyarrow; install it with: pip install 'vitriton[parquet]' (or write .npy or .jsonl)"
        ) from exc
    except ImportError as exc:  # pyarrow's metadata does not state the numpy it needs; only the import shows it
        raise CommandFailed(
            f"{_installed('pyarrow')} (beside {_installed('numpy')}) cannot be used: {exc}; install one that works "
            "here: pip install 'vitriton[parquet]' (or write .npy or .jsonl)"
        ) from exc
    return pyarrow, pyarrow.parquet


def _installed(distribution: str) -> str:
    """The name and version of a distribution."""
    with contextlib.suppress(PackageNotFoundError):  # not installed by pip
        return f"{distribution} {version(distribution)}"
    return distribution
