"""A worker of a job: an actor of Ray that embeds shards, one after the other."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from PIL import Image
from vitriton import VitritonError
from vitriton._errors import Unreadable
from vitriton._storage import Storage, read_ahead
from vitriton._tables.parquet import import_pyarrow
from vitriton.preprocessing import DEFAULT_FORMATS

from vitriton_ray._engines import Engine, Opened
from vitriton_ray._job import BulkJob, Shard, ShardPlan
from vitriton_ray._manifest import ManifestRow, read_kept, read_rows
from vitriton_ray._output import BulkOutput
from vitriton_ray._parts import RowResult, make_part
from vitriton_ray._tars import read_member

_MAX_BYTES = 256 * 1024 * 1024  # of one image
_ATTEMPTS = (0.2, 1.0, 5.0, 10.0)  # seconds before an object is read again that its store could not give
# So large a share of a shard that no object of the store could be at fault
_STORE_FAILED = 0.1
_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # those that exchange width and height


class ShardsFailed(VitritonError):  # noqa: N818 - as the other errors
    """A shard cannot be embedded, for a reason that is not in its rows."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of a shard that is done; the columns of what it returns to Ray.

    Attributes:
        shard: the number of the shard.
        worker: the name of the worker: its machine and its process.
        rows: the number of its rows.
        errors: the number of its rows with an error.
        truncated: the number of its texts that were cut.
        read_bytes: the number of bytes of its images and texts.
        written_bytes: the size of its file.
        reading_s: the time in which nothing could be sent as nothing was read, in seconds.
        embedding_s: the time in which rows were read, and not yet embedded, in seconds.
        writing_s: the time of writing, in seconds.
        failure: why the shard is not done, and the job ends; empty if it is done.
    """

    shard: int
    worker: str
    rows: int = 0
    errors: int = 0
    truncated: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    reading_s: float = 0.0
    embedding_s: float = 0.0
    writing_s: float = 0.0
    failure: str = ""

    def table(self) -> Any:
        """The report as a table of one row."""
        pa, _ = import_pyarrow("writing", "run the command on one machine")
        return pa.table({field.name: [getattr(self, field.name)] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all workers of a job are told.

    Attributes:
        job: the job.
        plan: its plan.
        output_uri: the folder of the output.
        engine: what embeds.
        read_threads: the number of threads that read images.
    """

    job: BulkJob
    plan: ShardPlan
    output_uri: str
    engine: Engine
    read_threads: int = 32


class EmbedShards:
    """Embeds shards and writes their files. Its name is that of the stage on Ray's dashboard.

    Args:
        work: what to do.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        pa, _ = import_pyarrow("reading", "run the command on one machine")
        # pyarrow opens as many connections to a store as it has threads of its own, and by default 25
        pa.set_io_thread_count(max(pa.io_thread_count(), work.read_threads))
        self._storage = Storage()
        self._output = BulkOutput(self._storage, work.output_uri)
        self._stack = ExitStack()
        self._opened: Opened | None = None
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, shards: Any) -> Iterator[Any]:
        """Yields a report for each shard (a row of a table) as soon as its file is there.

        Failures are reports, too: an exception here would be a page of Ray's, and a worker that cannot start would be
        started again without end.
        """
        pa, _ = import_pyarrow("reading", "run the command on one machine")
        for row in shards.to_pylist():
            shard = Shard(**row)
            try:
                # After a worker's death, Ray gives its shards to another; some of them may be done.
                is_done = self._output.has(shard.number)
                report = Report(shard=shard.number, worker=self._name, rows=shard.rows) if is_done else None
                yield (report or self._embed(shard)).table()
            except (VitritonError, OSError, pa.ArrowException) as exc:
                yield Report(
                    shard=shard.number, worker=self._name, failure=" ".join(str(exc).split()) or type(exc).__name__
                ).table()
                return

    def _embed(self, shard: Shard) -> Report:
        if self._opened is None:  # here and not in __init__, where it could not be reported
            self._opened = self._stack.enter_context(self._work.engine.open(self._work.job))
        began_s = time.monotonic()
        done, reading = embed_rows(self._storage, self._work, shard, self._opened)
        self._opened.check()  # of a server that has another model now, the last vectors may be from either
        embedded_s = time.monotonic()
        kept = read_kept(self._storage, self._work.job, shard)
        part = make_part(self._work.job, self._work.plan, shard, done, kept)
        written = self._output.write_part(shard.number, part)
        return Report(
            shard=shard.number,
            worker=self._name,
            rows=len(done),
            errors=sum(row.error is not None for row in done),
            truncated=reading.truncated,
            read_bytes=reading.read_bytes,
            written_bytes=written,
            reading_s=reading.waited_s,
            embedding_s=embedded_s - began_s - reading.waited_s,
            writing_s=time.monotonic() - embedded_s,
        )


def embed_rows(storage: Storage, work: Work, shard: Shard, opened: Opened) -> tuple[list[RowResult], ShardReading]:
    """Embeds the rows of a shard; returns their results, in order, and how they were read.

    Raises:
        ShardsFailed: the store failed, or the table of rows has changed.
        ClientError: the servers failed.
        OSError: the table cannot be read.
    """
    reading = ShardReading(storage, work, shard)
    with closing(reading), closing(opened.stream(reading.inputs())) as results:
        done = [row for result in results for row in reading.take(result)]
    reading.check()
    if len(done) != shard.rows:
        span = f"rows {shard.first} to {shard.first + shard.rows}"
        raise ShardsFailed(f"{shard.uri} has changed: {span} are not all there")
    return done, reading


class _Content(NamedTuple):
    """A row with what was read for it: the input of a call, and what is known of it."""

    row: ManifestRow
    data: Any  # for the client: bytes, a text, a URL, or Unreadable
    sha256: str | None = None
    size: int = 0
    width: int | None = None
    height: int | None = None
    store_failed: bool = False


class ShardReading:
    """Reads the rows of a shard ahead of their vectors, and joins the two.

    Args:
        storage: the stores.
        work: the work.
        shard: the shard.

    Attributes:
        waited_s: the time in which nothing could be sent as nothing was read, in seconds.
        read_bytes: the number of bytes of images and texts.
        truncated: the number of texts that were cut.
    """

    def __init__(self, storage: Storage, work: Work, shard: Shard) -> None:
        self._storage = storage
        self._work = work
        self._shard = shard
        self._waiting: list[_Content | None] = []
        self._copies: deque[list[ManifestRow]] = deque()
        self._store_failures = 0
        self._first_failure = ""
        self.waited_s = 0.0
        self.read_bytes = 0
        self.truncated = 0

    def inputs(self) -> Iterator[Any]:
        """Yields the inputs of the call, in order; runs on a thread of the client."""
        rows = read_rows(self._storage, self._work.job, self._work.plan, self._shard)
        firsts = map(self._with_copies, groupby(rows, _content_of))
        read = partial(_read, self._storage, self._work.job.kind)
        threads = self._work.read_threads
        contents = (
            read_ahead(firsts, read, threads=threads, ahead=4 * threads)
            if self._work.job.has_uris
            else map(read, firsts)
        )
        while True:
            asked_s = time.monotonic()
            content = next(contents, None)
            self.waited_s += time.monotonic() - asked_s
            if content is None:
                return
            # kept until the vector comes, without what may be large
            kept = content.data if isinstance(content.data, Unreadable) else None
            self._waiting.append(content._replace(data=kept, row=content.row._replace(value=None)))
            yield content.data

    def take(self, result: Any) -> Iterator[RowResult]:
        """Yields the result of the next input: of its row, and of those with the same content."""
        content = self._waiting[result.index]
        assert content is not None
        self._waiting[result.index] = None
        copies = self._copies.popleft()
        self.read_bytes += content.size
        self.truncated += result.truncated
        problem = None if result.error is None else result.error.errors[0]
        if content.store_failed:
            self._store_failures += 1
            self._first_failure = self._first_failure or f"{content.row.uri}: {content.data.reason}"
        first = RowResult(
            id=content.row.id,
            uri=content.row.uri,
            sha256=content.sha256,
            embedding=result.embedding,
            error=None if problem is None else problem.reason,
            error_code=None if problem is None else problem.code,
            width=content.width,
            height=content.height,
        )
        yield first
        for copy in copies:
            if content.sha256 in (None, content.row.sha256):
                yield first._replace(id=copy.id, uri=copy.uri)
            else:
                reason = f"it had the content of {content.row.uri}, which has changed since"
                yield RowResult(copy.id, copy.uri, None, None, reason, "other", None, None)

    def _with_copies(self, group: tuple[Any, Iterator[ManifestRow]]) -> ManifestRow:
        """The first of the rows with the same content; the others are kept for its vector."""
        first, *copies = group[1]
        self._copies.append(copies)
        return first

    def check(self) -> None:
        """Checks that the store did not fail; its images would be rows with errors for ever.

        Raises:
            ShardsFailed: it did.
        """
        if self._store_failures > max(1.0, _STORE_FAILED * self._shard.rows):
            raise ShardsFailed(
                f"the store failed for {self._store_failures} of {self._shard.rows} images, the first of them "
                f"{self._first_failure}"
            )

    def close(self) -> None:
        """Frees what is held."""
        self._waiting.clear()


def _content_of(row: ManifestRow) -> object:
    """What two rows that follow one another have in common if one vector is for both."""
    return row.sha256 or object()


def _read(storage: Storage, kind: str, row: ManifestRow) -> _Content:
    """Reads the content of a row; runs on several threads."""
    if not row.value:
        reason = "the row has no value" if row.value is None else "the value is empty"
        return _Content(row, Unreadable(reason, "empty"))
    if kind == "text":
        data = row.value.encode("utf-8", "surrogatepass")
        return _Content(row, row.value, hashlib.sha256(data).hexdigest(), len(data))
    if kind == "bytes":
        return _described(row, row.value)
    if row.uri is not None and row.uri[:5].lower() in ("http:", "https"):
        return _Content(row, row.value)  # the client fetches it
    content = _read_object(partial(read_member if kind == "member" else Storage.read, storage, row.value, _MAX_BYTES))
    return (
        _described(row, content)
        if isinstance(content, bytes)
        else _Content(row, content, store_failed=content.code == "other")
    )


def _read_object(read: Callable[[], bytes | Unreadable]) -> bytes | Unreadable:
    """Reads an image, more than once if its store fails; then the code is "other"."""
    for pause_s in (*_ATTEMPTS, None):
        try:
            return read()
        except VitritonError as exc:  # no such store
            return Unreadable(str(exc), "bad_url")
        except OSError as exc:
            if pause_s is None:
                return Unreadable(" ".join(str(exc).split()), "other")
            time.sleep(pause_s)
    raise AssertionError


def _described(row: ManifestRow, data: bytes) -> _Content:
    width, height = _size_of(data)
    return _Content(row, data, hashlib.sha256(data).hexdigest(), len(data), width, height)


def _size_of(data: bytes) -> tuple[int | None, int | None]:
    """The width and height of an image as it is shown, in pixels; nothing for what is no image."""
    try:
        with Image.open(io.BytesIO(data), formats=DEFAULT_FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
    except Exception:  # Pillow raises whatever it meets; the server says what is wrong with a bad file
        return None, None
    return (height, width) if turned else (width, height)
