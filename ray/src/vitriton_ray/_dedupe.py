"""`--dedupe`: rows with the same content are brought together, so that one vector is computed for them.

All images are read and hashed first, as they are embedded: by workers, in shards, and continued after an interruption.
Then the rows are sorted by their hashes, and rows that have the same are put into one shard.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from vitriton import Result
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._engines import Opened
from vitriton_ray._job import BulkJob, Shard
from vitriton_ray._manifest import SHA256
from vitriton_ray._output import BulkOutput

_BUCKETS = 256  # by the first byte of the hash
_ROW_GROUP = 8192
_LARGEST = 4  # times the usual rows of a shard; more rows of one content are cut, and their vector computed again


@dataclass(frozen=True)
class Hashing:
    """An engine that embeds nothing: a worker hashes what it reads in any case."""

    @contextmanager
    def open(self, job: BulkJob) -> Iterator[Opened]:
        """See `Engine`."""
        yield _Nothing()


class _Nothing:
    def stream(self, inputs: Iterator[Any]) -> Iterator[Result]:
        """See `Opened`."""
        for index, _ in enumerate(inputs):
            yield Result(index, "")

    def check(self) -> None:
        """See `Opened`."""


def hashing_job(job: BulkJob) -> BulkJob:
    """The job that hashes the images of another one."""
    return replace(job, model=SHA256, fingerprint=SHA256, dimension=1, dtype="float32", dedupe=False)


def sort_rows(hashes: BulkOutput, kept_columns: Sequence[str], output: BulkOutput) -> None:
    """Writes the rows of a job that has hashed them, sorted by hash, as the table of rows of another output.

    Args:
        hashes: the output of the job.
        kept_columns: the columns that are copied to the output.
        output: the other output.

    Raises:
        OSError: a store failed, or the disk of this machine is full.
    """
    pa, pq = import_pyarrow("writing", "run the command on one machine")
    schema = None
    with tempfile.TemporaryDirectory(prefix="vitriton-dedupe-") as folder:
        writers: dict[int, Any] = {}
        for part in hashes.read_parts(["id", "uri", SHA256, *kept_columns]):
            table = part.replace_schema_metadata()
            schema = schema or table.schema
            first = pa.compute.utf8_slice_codeunits(table.column(SHA256), 0, 2).to_pylist()
            numbers = [_BUCKETS if two is None else int(two, 16) for two in first]
            for number in set(numbers):
                if number not in writers:
                    writers[number] = pq.ParquetWriter(Path(folder) / str(number), schema)
                writers[number].write_table(table.filter([each == number for each in numbers]))
        with output.manifest(schema) as manifest:
            for number in sorted(writers):
                writers[number].close()
                rows = pq.read_table(Path(folder) / str(number)).sort_by([(SHA256, "ascending"), ("id", "ascending")])
                manifest.write_table(rows, row_group_size=_ROW_GROUP)


def cut_by_content(output: BulkOutput, size: int) -> list[Shard]:
    """Cuts sorted rows into shards; rows with the same content are in one."""
    shards: list[Shard] = []
    first = rows = 0
    for length in _lengths(output, _LARGEST * size):
        if rows and rows + length > size:
            shards.append(Shard(len(shards), output.manifest_uri, first, rows))
            first, rows = first + rows, 0
        rows += length
    return [*shards, Shard(len(shards), output.manifest_uri, first, rows)]


def _lengths(output: BulkOutput, most: int) -> Iterator[int]:
    """Yields the number of rows of each content; of a content with more rows than are allowed, those of its pieces."""
    hashes = (value for batch in output.read_manifest([SHA256]) for value in batch.column(0).to_pylist())
    for _, group in groupby(hashes, lambda value: value or object()):
        rows = sum(1 for _ in group)
        for start in range(0, rows, most):
            yield min(most, rows - start)
