"""The plan of a job: how many rows there are, and how they are cut into shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vitriton._console.failure import CommandFailed
from vitriton._errors import InvalidOption
from vitriton._storage import Storage, read_ahead
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._inputs import JobInputs, make_manifest
from vitriton_ray._job import Shard, ShardPlan
from vitriton_ray._output import BulkOutput

_FEWEST, _MOST = 256, 8192  # rows of a shard, unless told
_SHARDS = 1024  # about as many, where that allows it
_FOOTERS = 16  # read at a time


class Planned(NamedTuple):
    """A job that is planned.

    Attributes:
        inputs: its inputs, with the tables that list the rows.
        plan: the plan. The type of the ids is not known yet.
        shards: the shards.
    """

    inputs: JobInputs
    plan: ShardPlan
    shards: list[Shard]


def make_plan(storage: Storage, inputs: JobInputs, output: BulkOutput, shard_rows: int | None) -> Planned:
    """Lists the rows of a job, and cuts them into shards.

    Args:
        storage: the stores.
        inputs: the inputs.
        output: the folder for the list of rows, where one has to be made.
        shard_rows: the largest number of rows of a shard; None: it depends on their number.

    Raises:
        InvalidOption: there are no rows, or see `make_manifest`.
        CommandFailed, OSError: an input cannot be read.
    """
    inputs = make_manifest(storage, inputs, output)
    counts = count_rows(storage, inputs.tables)
    if not sum(counts):
        raise InvalidOption("", f"{', '.join(inputs.sources)} has no rows")
    size = shard_size(sum(counts), shard_rows)
    shards = cut(inputs.tables, counts, size)
    plan = ShardPlan(
        rows=sum(counts),
        shards=len(shards),
        shard_rows=size,
        value_column=inputs.value_column,
        id_column=inputs.id_column,
    )
    return Planned(inputs, plan, shards)


def count_rows(storage: Storage, tables: Sequence[str]) -> list[int]:
    """The number of rows of each table, from its end alone.

    Raises:
        CommandFailed: a table cannot be read.
    """
    _, pq = import_pyarrow("reading", "run the command on one machine")

    def rows(uri: str) -> int:
        place = storage.place(uri)
        try:
            return int(pq.read_metadata(place.path, filesystem=place.files).num_rows)
        except (OSError, ValueError) as exc:
            raise CommandFailed(f"{uri} cannot be read as a Parquet file: {' '.join(str(exc).split())}") from exc

    return list(read_ahead(tables, rows, threads=_FOOTERS, ahead=4 * _FOOTERS))


def shard_size(rows: int, wanted: int | None) -> int:
    """The largest number of rows of a shard: a power of two, or what is wanted."""
    if wanted is not None:
        return wanted
    size = _FEWEST
    while size < _MOST and size * _SHARDS < rows:
        size *= 2
    return size


def cut(tables: Sequence[str], counts: Sequence[int], size: int) -> list[Shard]:
    """Cuts tables into shards. No shard has rows of two tables."""
    spans = (
        (uri, first, min(size, rows - first))
        for uri, rows in zip(tables, counts, strict=True)
        for first in range(0, rows, size)
    )
    return [Shard(number, *span) for number, span in enumerate(spans)]
