"""The rows of a job, read from Parquet files in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vitriton._storage import Storage
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._job import BulkJob, Shard, ShardPlan

SHA256 = "sha256"  # the column of the hashes, with --dedupe
_BUFFER_BYTES = 1024 * 1024
_LONG_ROWS, _SHORT_ROWS = 4096, 64  # read at a time: URIs and texts; bytes of images


class ManifestRow(NamedTuple):
    """A row of a job.

    Attributes:
        id: its id.
        uri: the URI of the image; None for bytes and texts.
        value: the URI, the bytes or the text; None if the table has none.
        sha256: the hash of the content, where it was read before (`_dedupe`); rows that have the same follow one
            another.
    """

    id: str | int
    uri: str | None
    value: Any
    sha256: str | None = None


def read_rows(storage: Storage, job: BulkJob, plan: ShardPlan, shard: Shard) -> Iterator[ManifestRow]:
    """Yields the rows of a shard, in order.

    Args:
        storage: the stores.
        job: the job.
        plan: its plan, which names the columns.
        shard: the shard.

    Raises:
        OSError: the table cannot be read.
    """
    names = [plan.value_column] if plan.id_column is None else [plan.id_column, plan.value_column]
    names += [SHA256] if job.dedupe else []
    number = shard.first
    for batch in _batches(
        storage, shard, list(dict.fromkeys(names)), _SHORT_ROWS if job.kind == "bytes" else _LONG_ROWS
    ):
        values = _column(batch, plan.value_column).to_pylist()
        ids = values if plan.id_column is None else batch.column(plan.id_column).to_pylist()
        hashes = batch.column(SHA256).to_pylist() if job.dedupe else [None] * len(values)
        for value, identity, sha256 in zip(values, ids, hashes, strict=True):
            number += 1
            uri = value if job.has_uris else None
            if plan.id_column is None and not job.has_uris:
                identity = f"{shard.uri}:{number}"
            yield ManifestRow(identity, uri, value, sha256)


def read_kept(storage: Storage, job: BulkJob, shard: Shard) -> Any:
    """Reads the columns of a shard that are copied to the output: an Arrow table; None if there are none.

    Raises:
        OSError: the table cannot be read.
    """
    if not job.kept_columns:
        return None
    pa, _ = import_pyarrow("reading", "run the command on one machine")
    batches = _batches(storage, shard, list(job.kept_columns), _LONG_ROWS)
    return pa.Table.from_batches(batches).select(job.kept_columns)


def _column(batch: Any, name: str) -> Any:
    """A column, or a field of one, such as image.bytes."""
    if name in batch.schema.names:
        return batch.column(name)
    outer, _, inner = name.partition(".")
    return batch.column(outer).field(inner)


def _batches(storage: Storage, shard: Shard, columns: list[str], size: int) -> Iterator[Any]:
    """Yields the rows of a shard as record batches. Row groups that have none of them are not read."""
    _, pq = import_pyarrow("reading", "run the command on one machine")
    files, path = storage.place(shard.uri)
    with pq.ParquetFile(files.open_input_file(path), buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
        groups, skipped, at = [], 0, 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if at + rows <= shard.first:
                skipped += rows
            elif at < shard.first + shard.rows:
                groups.append(group)
            at += rows
        skip, left = shard.first - skipped, shard.rows
        for batch in table.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            part = batch.slice(skip, left)
            skip, left = 0, left - part.num_rows
            yield part
            if not left:
                return
