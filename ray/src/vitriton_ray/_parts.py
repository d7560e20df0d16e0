"""The file of a shard: its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from vitriton._tables.parquet import import_pyarrow
from vitriton._version import __version__

from vitriton_ray._job import BulkJob, Shard, ShardPlan


class RowResult(NamedTuple):
    """A row of the output.

    Attributes:
        id: the id.
        uri: the URI of the image; None for bytes and texts.
        sha256: the hash of the bytes of the image or the text; None if it could not be read, or the client fetched it.
        embedding: the vector, (D,) float32; None if there is an error.
        error: the reason why there is no vector.
        error_code: the kind of reason (`vitriton.InputCode`).
        width: the width of the image as it is shown, in pixels; None if it is unknown.
        height: the height.
    """

    id: str | int
    uri: str | None
    sha256: str | None
    embedding: Any
    error: str | None
    error_code: str | None
    width: int | None
    height: int | None


def make_part(job: BulkJob, plan: ShardPlan, shard: Shard, rows: Sequence[RowResult], kept: Any = None) -> Any:
    """The table of a shard's rows, in order, with the columns of `COLUMNS` and those that are kept.

    The vectors are of type fixed_size_list<float32 or float16>[D]; that of a row with an error has D nulls.
    """
    pa, _ = import_pyarrow("writing", "run the command on one machine")
    values = np.zeros((len(rows), job.dimension), job.dtype)
    failed = np.ones(len(rows), bool)
    for index, row in enumerate(rows):
        if row.embedding is not None:
            values[index] = row.embedding
            failed[index] = False
    # Arrow's readers of Parquet refuse a fixed-size list that is null, up to the newest version (apache/arrow#35692).
    floats = pa.array(values.reshape(-1), mask=np.repeat(failed, job.dimension))
    id_type = pa.int64() if plan.id_type == "int64" else pa.string()
    columns = {
        "id": pa.array([row.id for row in rows], id_type),
        "uri": pa.array([row.uri for row in rows], pa.string()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(floats, job.dimension),
        "error": pa.array([row.error for row in rows], pa.string()),
        "error_code": pa.array([row.error_code for row in rows], pa.string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "fingerprint": pa.array([job.fingerprint] * len(rows), pa.string()),
        **({} if kept is None else {name: kept.column(name) for name in kept.schema.names}),
    }
    metadata = {
        "model": job.model,
        "fingerprint": job.fingerprint,
        "shard": str(shard.number),
        "rows": str(len(rows)),
        "errors": str(int(failed.sum())),
        "vitriton_version": __version__,
    }
    return pa.table(columns).replace_schema_metadata(metadata)
