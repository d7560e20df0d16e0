"""The vectors of a store in a temporary file, of length 1, for answers that compare all of them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vitriton_search.answers.errors import AnswerError
from vitriton_search.stores.store import Floats, Store
from vitriton_search.stores.where import Where

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The vectors of N rows. Ids and sources are in memory, the vectors in a file that is read as they are needed.

    Attributes:
        ids: the ids of the rows, (N,).
        sources: the sources of the rows, (N,).
        source_numbers: the number of each row's source, (N,); frames of one video have the same.
        unit: the vectors, (N, D) float32, of length 1.
        left_out: the number of rows with an error, which have no vector.
    """

    ids: pa.StringArray
    sources: pa.StringArray
    source_numbers: Indices
    unit: Floats
    left_out: int

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Indices) -> Vectors:
        """Some of the rows; their vectors are copied to memory."""
        return Vectors(
            ids=self.ids.take(pa.array(indices)),
            sources=self.sources.take(pa.array(indices)),
            source_numbers=self.source_numbers[indices],
            unit=self.unit[indices],
            left_out=self.left_out,
        )


@contextmanager
def vectors_of(store: Store, where: Where | None = None) -> Iterator[Vectors]:
    """Copies the vectors of a store to a temporary file, which is gone after the `with` block.

    Args:
        store: the store.
        where: the condition that the rows meet; None for all rows.

    Raises:
        AnswerError: there is no room for the file.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="vitriton-search-", buffering=0))
            vectors = _copied(store, where, file)
        except OSError as exc:
            reason = exc.strerror or exc
            raise AnswerError(
                f"the vectors cannot be copied to a temporary file: {reason}; name another folder with TMPDIR"
            ) from exc
        yield vectors


def _copied(store: Store, where: Where | None, file: IO[bytes]) -> Vectors:
    ids: list[pa.StringArray] = [pa.array([], pa.string())]
    sources: list[pa.StringArray] = [pa.array([], pa.string())]
    seen = 0
    for batch in store.scan(["id", "source", "embedding"], where):
        seen += batch.num_rows
        found = batch.filter(batch.column("embedding").is_valid())
        rows = rows_of(found.column("embedding"), store.space.dimensions).astype(np.float64)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        data = unit.astype(np.float32).tobytes()
        if file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ids.append(found.column("id"))
        sources.append(found.column("source"))
    all_ids, all_sources = pa.concat_arrays(ids), pa.concat_arrays(sources)
    shape = (len(all_ids), store.space.dimensions)
    return Vectors(
        ids=all_ids,
        sources=all_sources,
        source_numbers=all_sources.dictionary_encode().indices.to_numpy().astype(np.int64),
        unit=np.memmap(file, np.float32, "r", shape=shape) if len(all_ids) else np.zeros(shape, np.float32),
        left_out=seen - len(all_ids),
    )


def rows_of(embeddings: pa.FixedSizeListArray, dimensions: int) -> Floats:
    """A column of vectors, none of which is missing, as an array (N, D) float32."""
    flat: Floats = embeddings.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, dimensions)
