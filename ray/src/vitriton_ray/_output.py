"""The output of a job: a folder with a Parquet file for each shard, and the job itself.

    OUTPUT/part-00000000.parquet    the vectors of shard 0, whole or not there
    OUTPUT/_vitriton/job.json       the job, written last when it is planned
    OUTPUT/_vitriton/shards         the shards
    OUTPUT/_vitriton/manifest       the rows, where they are not read from tables as they are
    OUTPUT/_vitriton/drafts/        files on a disk that are being written

A shard is done if its file is there: the folder is the only record of progress. A shard that is computed twice replaces
its file by the same rows. Readers of folders leave out what begins with an underscore, and what is not named .parquet.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vitriton._errors import InvalidOption
from vitriton._storage import Storage, StoragePlace, read_ahead
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._job import BulkJob, Shard, ShardPlan, from_json, to_json

_PART = re.compile(r"part-(\d{8,})\.parquet")
# Object stores: an object is there when its upload is complete, or not at all. They have no folders to make.
_ATOMIC = frozenset({"s3", "gcs", "abfs"})
_JOB, _SHARDS, _MANIFEST, _DRAFTS = "job.json", "shards", "manifest", "drafts"


class BulkOutput:
    """The folder of a job's output.

    Args:
        storage: the stores.
        uri: the URI or path of the folder.

    Raises:
        InvalidOption: the store cannot be opened.
    """

    def __init__(self, storage: Storage, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._top = storage.place(self.uri)
        self._own = self._top / "_vitriton"

    @property
    def manifest_uri(self) -> str:
        """The URI of the table that lists the rows of folders, and of tables that are not Parquet."""
        return f"{self.own_uri}/{_MANIFEST}"

    @property
    def own_uri(self) -> str:
        """The URI of the folder for what are no vectors."""
        return f"{self.uri}/_vitriton"

    def read_job(self) -> tuple[BulkJob, ShardPlan] | None:
        """The job of an earlier run, and its plan; None if there is none.

        Raises:
            InvalidOption: there is a job that this version cannot continue, or there are files of something else.
            OSError: the store failed.
        """
        text = self._read(_JOB)
        if text is None:
            if self._parts():
                raise InvalidOption(
                    "output", f"{self.uri} has files of another job, whose plan is missing; name another"
                )
            return None
        try:
            return from_json(text.decode())
        except (ValueError, TypeError, KeyError) as exc:
            raise InvalidOption("output", f"{self.uri} was begun by another version of vitriton: {exc}") from exc

    def write_job(self, job: BulkJob, plan: ShardPlan, shards: list[Shard]) -> None:
        """Writes a job and its plan; after that, the job has begun.

        Raises:
            OSError: the store failed.
        """
        pa, pq = import_pyarrow("writing", "run the command on one machine")
        columns = [pa.array(column) for column in zip(*shards, strict=True)]
        with self._new(self._own / _SHARDS) as file:
            pq.write_table(pa.Table.from_arrays(columns, names=list(Shard._fields)), file)
        with self._new(self._own / _JOB) as file:
            file.write(to_json(job, plan).encode())

    def read_shards(self) -> Any:
        """The table of the shards, with the columns of `Shard`.

        Raises:
            OSError: the store failed.
        """
        _, pq = import_pyarrow("reading", "run the command on one machine")
        return pq.read_table((self._own / _SHARDS).path, filesystem=self._own.files)

    @contextmanager
    def manifest(self, schema: Any) -> Iterator[Any]:
        """Writes the table of rows in a `with` block, as a ParquetWriter; it is there if the block ends without error.

        Raises:
            OSError: the store failed.
        """
        _, pq = import_pyarrow("writing", "run the command on one machine")
        with self._new(self._own / _MANIFEST) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            yield writer

    def read_manifest(self, columns: list[str]) -> Iterator[Any]:
        """Yields columns of the table of rows, as record batches.

        Raises:
            OSError: the store failed.
        """
        _, pq = import_pyarrow("reading", "run the command on one machine")
        place = self._own / _MANIFEST
        with pq.ParquetFile(place.files.open_input_file(place.path)) as file:
            yield from file.iter_batches(columns=columns)

    def read_parts(self, columns: list[str]) -> Iterator[Any]:
        """Yields columns of the files of all shards, a table for each.

        Raises:
            OSError: the store failed.
        """
        _, pq = import_pyarrow("reading", "run the command on one machine")
        for number in sorted(self._parts()):
            yield pq.read_table((self._top / _name(number)).path, filesystem=self._top.files, columns=columns)

    def done(self) -> set[int]:
        """The numbers of the shards whose files are there.

        Raises:
            OSError: the store failed.
        """
        return set(self._parts())

    def has(self, number: int) -> bool:
        """Whether the file of a shard is there.

        Raises:
            OSError: the store failed.
        """
        info = self._top.files.get_file_info((self._top / _name(number)).path)
        return bool(info.is_file)

    def write_part(self, number: int, table: Any) -> int:
        """Writes the file of a shard; it is there as a whole, or not at all. Returns the number of bytes.

        Raises:
            OSError: the store failed.
        """
        pa, pq = import_pyarrow("writing", "run the command on one machine")
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", use_dictionary=["error", "error_code", "fingerprint"])
        data = buffer.getvalue()
        with self._new(self._top / _name(number)) as file:
            file.write(data)
        return int(data.size)

    def count_errors(self, threads: int = 32) -> int:
        """The number of rows with an error in all files, as their metadata has it.

        Raises:
            OSError: the store failed, or a file is not one of a job.
        """
        _, pq = import_pyarrow("reading", "run the command on one machine")

        def errors(number: int) -> int:
            schema = pq.read_schema((self._top / _name(number)).path, filesystem=self._top.files)
            return int(schema.metadata[b"errors"])

        return sum(read_ahead(sorted(self._parts()), errors, threads=threads, ahead=4 * threads))

    def clean_up(self) -> None:
        """Removes drafts that a killed worker left.

        Raises:
            OSError: the store failed.
        """
        if self._top.files.type_name not in _ATOMIC:
            drafts = self._own / _DRAFTS
            if drafts.files.get_file_info(drafts.path).type.name == "Directory":
                drafts.files.delete_dir(drafts.path)

    def remove(self) -> None:
        """Removes the whole folder.

        Raises:
            OSError: the store failed.
        """
        self._top.files.delete_dir(self._top.path)

    def _parts(self) -> dict[int, int]:
        found = (info for info in self._top.entries(missing_ok=True) if info.is_file)
        named = ((_PART.fullmatch(info.base_name), info.size) for info in found)
        return {int(match[1]): size for match, size in named if match is not None and size}

    def _read(self, name: str) -> bytes | None:
        place = self._own / name
        try:
            with place.files.open_input_stream(place.path) as file:
                data: bytes = file.read()
        except FileNotFoundError:
            return None
        return data

    @contextmanager
    def _new(self, place: StoragePlace) -> Iterator[Any]:
        """A file to write, which takes its place when the block ends without an error."""
        files = place.files
        if files.type_name in _ATOMIC:
            file = files.open_output_stream(place.path)
            yield file  # an error leaves it open: closing it would complete the upload
            file.close()
            return
        drafts = self._own / _DRAFTS
        files.create_dir(drafts.path, recursive=True)
        draft = drafts / uuid.uuid4().hex
        if files.type_name == "local":
            with Path(draft.path).open("wb") as local:
                yield local
                _sync(local)
        else:
            with files.open_output_stream(draft.path) as file:
                yield file
        files.move(draft.path, place.path)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name(number: int) -> str:
    return f"part-{number:08d}.parquet"


def check_output(uri: str) -> None:
    """Checks the name of an output.

    Raises:
        InvalidOption: it is that of a file.
    """
    if Path(uri).suffix in (".parquet", ".npy", ".jsonl"):
        raise InvalidOption("output", f"{uri} is the name of a file; name a folder, for many files")
