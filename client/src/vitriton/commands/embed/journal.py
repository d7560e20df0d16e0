"""The progress of a run on disk: what is committed stays, whatever ends the run.

A work folder holds

- `rows.f32`: the embeddings so far, little-endian float32, row after row in input order;
- `sources`: the names of the inputs, such as the paths and URLs of images, each with a null byte at its end. An empty
  name comes before that of a video, and between them the time and the number of the frame;
- `journal.jsonl`: the job, then a line for each commit: so far, the numbers of inputs, of embeddings, of their floats,
  and of texts that were cut; and in this commit, which inputs have no embedding, and why, and the number of tokens of
  each embedding if they differ in it.

A commit writes rows, fsync, line, fsync. So a complete line describes rows that are on the disk. A resumed run cuts off
everything after the last complete line and embeds those inputs again: nothing is lost or duplicated.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import FileIO
from itertools import islice, repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitriton._console.failure import CommandFailed
from vitriton._errors import InputCode
from vitriton.commands.embed.job import Job, Name, job_change

try:
    import fcntl
except ImportError:  # Windows: two runs are not kept apart there
    fcntl = None  # type: ignore[assignment]

_FORMAT = 4  # raised when an older reader would misunderstand a newer folder
_JOURNAL, _SOURCES, _ROWS, _DRAFT = "journal.jsonl", "sources", "rows.f32", "result-"
_FLOAT = np.dtype("<f4")
_BLOCK_BYTES = 64 * 1024 * 1024  # of embeddings that are in memory at a time
_CHUNK_BYTES = 1024 * 1024

Rows = NDArray[np.float32]


class Outcome(NamedTuple):
    """The result for one input: either `embedding` or `reason` is None.

    Attributes:
        index: the position among the inputs.
        embedding: the embedding, float32, of the job's shape.
        reason: the reason why there is no embedding.
        code: the kind of reason, for programs.
        truncated: whether a text was cut.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not needed here
    embedding: Rows | None
    reason: str | None
    code: InputCode | None = None
    truncated: bool = False


class Block(NamedTuple):
    """Consecutive embeddings.

    Attributes:
        origins: the index and the name of each one's input.
        rows: the embeddings, (n, *shape) float32; if they are ragged, a list of n arrays (T, D).
    """

    origins: Sequence[tuple[int, Name]]
    rows: Sequence[Rows] | Rows


class WorkFolder:
    """The progress of a run in a folder, locked against other processes until it is closed.

    Args:
        path: the path of the folder, which is made if it does not exist.
        resume: whether to continue the run in the folder; else it is discarded.

    Attributes:
        job: the job of the run in the folder; None if there is none.
        done: the number of finished inputs, from the first on.
        rows: the number of finished inputs that have an embedding.
        floats: the number of floats of all embeddings.
        truncated: the number of texts that were cut.
        is_publishing: whether all inputs are done, and the results are being moved to their places.

    Raises:
        CommandFailed: another process holds the folder, or it holds something else.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = True) -> None:
        self.path = path
        self.job: Job | None = None
        self.done = self.rows = self.floats = self.truncated = 0
        self.is_publishing = False
        self._failed = array("q")  # indices; ascending
        self._rows_file: FileIO | None = None
        self._journal = self._open_journal()
        try:
            if not resume:
                self._journal.truncate(0)
            self._journal.truncate(self._read_journal())
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def begun_job(self) -> Job:
        """The job of a run that has begun."""
        if self.job is None:
            raise ValueError("no run has begun in the work folder")
        return self.job

    @property
    def failed(self) -> int:
        """The number of finished inputs without an embedding."""
        return len(self._failed)

    def begin(self, job: Job, names: Iterable[Name] = ()) -> None:
        """Begins a job in the folder, or checks that its run has the same job.

        Args:
            job: the job.
            names: the names of the job's inputs.

        Raises:
            CommandFailed: the folder holds a run with another job.
        """
        if self.job is None:
            self._rows_file = _open_bytes(self.rows_path)
            self._rows_file.truncate(0)
            self._write_names(names)
            self._append({"format": _FORMAT, "job": asdict(job)})
            sync_folder(self.path)
            sync_folder(self.path.parent)
            self.job = job
            return
        if job != self.job:
            change = job_change(self.job, job, self.names(), names)
            raise CommandFailed(
                f"{self.path} holds an interrupted run that this command cannot continue: {change}. Repeat the earlier "
                "command, or discard that run with --no-resume"
            )
        self._rows_file = _open_bytes(self.rows_path)
        self._rows_file.truncate(self.floats * _FLOAT.itemsize)
        self._rows_file.seek(0, os.SEEK_END)

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Writes the outcomes of the next inputs to the disk.

        Raises:
            CommandFailed: an embedding has another shape than the job's.
            OSError: the outcomes could not be written; earlier ones stay.
        """
        job, rows_file = self.begun_job, self._rows_file
        if rows_file is None:
            raise ValueError("the run in the work folder has not been taken up: begin it")
        if [outcome.index for outcome in outcomes] != list(range(self.done, self.done + len(outcomes))):
            raise ValueError("a commit takes the outcomes that follow on what is done, in order")
        rows = [outcome.embedding for outcome in outcomes if outcome.embedding is not None]
        for row in rows:
            if not job.fits(row.shape):
                raise CommandFailed(
                    f"the server returned an embedding of shape {list(row.shape)} after {list(job.shape)}; was "
                    "the model exported again?"
                )
        failed = [outcome for outcome in outcomes if outcome.embedding is None]
        if rows:
            floats = np.concatenate([row.reshape(-1) for row in rows])
            _write(rows_file, floats.astype(_FLOAT, copy=False).data.cast("B"))
            os.fsync(rows_file.fileno())
        entry = {
            "done": self.done + len(outcomes),
            "rows": self.rows + len(rows),
            "floats": self.floats + sum(row.size for row in rows),
            "truncated": self.truncated + sum(outcome.truncated for outcome in outcomes),
            "failed": [(each.index, each.reason) for each in failed],
            "codes": [each.code or "other" for each in failed],
        }
        if job.is_ragged:
            entry["tokens"] = [len(row) for row in rows]
        self._append(entry)
        self._count(entry)

    def blocks(self, max_bytes: int = _BLOCK_BYTES) -> Iterator[Block]:
        """Yields all embeddings so far, in blocks of at most `max_bytes`, or of one embedding if that has more."""
        job, origins = self.begun_job, self.origins()
        with self.rows_path.open("rb") as file:
            for tokens in self._spans(max_bytes):
                count = len(tokens)
                floats = np.frombuffer(file.read(sum(tokens) * job.width * _FLOAT.itemsize), _FLOAT)
                if job.is_ragged:
                    rows: Any = np.split(floats.reshape(-1, job.width), np.cumsum(tokens)[:-1])
                else:
                    rows = floats.reshape(count, *job.shape)
                yield Block(list(islice(origins, count)), rows)

    def origins(self) -> Iterator[tuple[int, Name]]:
        """Yields index and name of each input that has an embedding, in order."""
        failed = iter(self._failed)
        next_failed = next(failed, None)
        for index, name in enumerate(islice(self.names(), self.done)):
            if index == next_failed:
                next_failed = next(failed, None)
            else:
                yield index, name

    def tokens(self) -> Iterator[int]:
        """Yields the number of tokens of each ragged embedding, in order."""
        for entry in self._entries():
            yield from entry.get("tokens", ())

    def names(self) -> Iterator[Name]:
        """Yields the names of all inputs, in order."""
        fields = self._fields()
        for field in fields:
            if field:
                yield Name(os.fsdecode(field))
            else:
                time_s, frame = next(fields).split()
                yield Name(os.fsdecode(next(fields)), float(time_s), int(frame))

    def _fields(self) -> Iterator[bytes]:
        rest = b""
        with self._sources_path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\0")
                yield from whole

    @property
    def rows_path(self) -> Path:
        """The file of the embeddings' bytes."""
        return self.path / _ROWS

    def draft(self, name: str) -> Path:
        """The path where a result is written before it moves to its place."""
        return self.path / f"{_DRAFT}{name}"

    def failures(self) -> Iterator[tuple[int, Name, str, InputCode]]:
        """Yields index, name, reason and code of each input without an embedding, in order."""
        named = enumerate(self.names())
        for entry in self._entries():
            for (failed, reason), code in zip(entry.get("failed", ()), entry.get("codes", ()), strict=True):
                yield failed, next(name for index, name in named if index == failed), reason, code

    def mark_publishing(self) -> None:
        """Notes that the results are complete and are being moved to their places."""
        self._append({"state": "publishing"})
        self.is_publishing = True

    def remove(self) -> None:
        """Removes the folder, after its results are in their places."""
        self._journal.truncate(0)  # even if a crash leaves the folder, there is no run in it
        os.fsync(self._journal.fileno())
        self._clear()

    def close(self) -> None:
        """Releases the folder, and removes it if no run has begun."""
        if self._rows_file is not None:
            self._rows_file.close()
        if self.job is None and not self._journal.closed:
            self._clear()
        self._journal.close()

    def _spans(self, max_bytes: int) -> Iterator[list[int]]:
        """Yields the numbers of tokens of the embeddings in each block; an embedding of fixed shape counts as one."""
        job = self.begun_job
        most = max(1, max_bytes // (job.width * _FLOAT.itemsize))
        span: list[int] = []
        size = 0
        for tokens in self.tokens() if job.is_ragged else repeat(1, self.rows):
            if span and size + tokens > most:
                yield span
                span, size = [], 0
            span.append(tokens)
            size += tokens
        if span:
            yield span

    def _entries(self) -> Iterator[dict[str, Any]]:
        with (self.path / _JOURNAL).open("rb") as file:
            yield from map(json.loads, file)

    def _clear(self) -> None:
        # The journal goes last, because it identifies the folder.
        self.rows_path.unlink(missing_ok=True)
        self._sources_path.unlink(missing_ok=True)
        for draft in self.path.glob(f"{_DRAFT}*"):
            draft.unlink()
        (self.path / _JOURNAL).unlink()
        with contextlib.suppress(OSError):  # someone has put other files into it
            self.path.rmdir()
        self._journal.close()  # this releases the lock, and only now, when the folder is gone

    def _open_journal(self) -> FileIO:
        self.path.mkdir(exist_ok=True)
        journal = self.path / _JOURNAL
        if not journal.exists() and any(self.path.iterdir()):
            raise CommandFailed(
                f"{self.path} is in the way: it is not an interrupted run; move it, or choose another output"
            )
        file = FileIO(journal, "a+b")
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), journal.stat()):
                    raise FileNotFoundError
            except (BlockingIOError, FileNotFoundError) as exc:  # not found: the other run has just finished
                file.close()
                raise CommandFailed(f"another run is writing to {self.path}; wait for it, or end it") from exc
            except OSError:  # a file system without locks
                pass
        return file

    def _read_journal(self) -> int:
        """Reads the complete lines whose rows exist; returns their length in bytes."""
        rows_bytes = self.rows_path.stat().st_size if self.rows_path.exists() else 0
        end = 0
        with (self.path / _JOURNAL).open("rb") as file:
            for line in file:
                entry = _parse(line)
                if entry is None or not self._take(entry, rows_bytes):
                    break
                end += len(line)
        return end if self.job is not None else 0

    def _take(self, entry: dict[str, Any], rows_bytes: int) -> bool:
        if self.job is None:
            if entry.get("format") != _FORMAT:
                raise CommandFailed(
                    f"{self.path} holds a run that another version of vitriton began; finish it with that version, or "
                    "discard it with --no-resume"
                )
            self.job = Job(**{**entry["job"], "shape": tuple(entry["job"]["shape"])})
            return True
        if "state" in entry:
            self.is_publishing = True
            return True
        if entry["floats"] * _FLOAT.itemsize > rows_bytes:
            return False
        self._count(entry)
        return True

    def _count(self, entry: dict[str, Any]) -> None:
        """Takes a commit into the counts."""
        self.done, self.rows = entry["done"], entry["rows"]
        self.floats, self.truncated = entry["floats"], entry["truncated"]
        self._failed.extend(index for index, _ in entry["failed"])

    def _append(self, entry: dict[str, Any]) -> None:
        _write(self._journal, memoryview(json.dumps(entry).encode() + b"\n"))
        os.fsync(self._journal.fileno())

    @property
    def _sources_path(self) -> Path:
        return self.path / _SOURCES

    def _write_names(self, names: Iterable[Name]) -> None:
        with self._sources_path.open("wb") as file:
            for name in names:
                if name.frame is not None:
                    file.write(f"\0{name.time_s!r} {name.frame}\0".encode())
                file.write(os.fsencode(name.source) + b"\0")
            file.flush()
            os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes changes to a folder's entries survive a power cut."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_bytes(path: Path) -> FileIO:
    """Opens a file without a buffer, so that a failed write leaves nothing to be written later."""
    path.touch()
    return FileIO(path, "r+b")


def _write(file: FileIO, data: memoryview) -> None:
    while data:  # a full disk may accept a part first
        data = data[file.write(data) :]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parses a line; None if it is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
