"""The progress of a run, on disk: what a commit has written stays, whatever ends the run.

A work folder holds

- `rows.f32`: the embeddings so far, little-endian float32, row after row in input order;
- `journal.jsonl`: the job, then a line for each commit: how many images are done, how many rows that makes, and which
  images have none, and why.

A commit is rows, fsync, line, fsync. So what a whole line says is on the disk. What lies behind the last whole line is
cut off when the run is taken up again, and those images are embedded once more: nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from io import FileIO
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitriton._console.failure import CommandFailed
from vitriton._errors import ImageCode

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs apart there
    fcntl = None  # type: ignore[assignment]

_FORMAT = 1  # raised when an older reader would misunderstand a newer folder
_JOURNAL, _ROWS, _DRAFT = "journal.jsonl", "rows.f32", "result-"
_FLOAT = np.dtype("<f4")
_BLOCK_BYTES = 64 * 1024 * 1024

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What makes two runs the same.

    Attributes:
        model: the name that it was exported under.
        fingerprint: of its embedding space.
        pool: whether the embeddings are pooled.
        shape: of one embedding.
        images: how many there are.
        images_sha256: of the list of them.
    """

    model: str
    fingerprint: str
    pool: bool
    shape: tuple[int, ...]
    images: int
    images_sha256: str

    @property
    def row_bytes(self) -> int:
        """Of one embedding as float32."""
        return math.prod(self.shape) * _FLOAT.itemsize

    def block_rows(self) -> int:
        """Embeddings that are held in memory together when they are copied; at least one."""
        return max(1, _BLOCK_BYTES // self.row_bytes)


class Outcome(NamedTuple):
    """What became of one image: either `embedding` or `reason` is None.

    Attributes:
        index: in the list of images.
        embedding: float32, of the job's shape.
        reason: why there is none.
        code: the kind of the reason, for programs.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    embedding: Rows | None
    reason: str | None
    code: ImageCode | None = None


class WorkFolder:
    """A run's progress; locked against other processes until it is closed.

    Args:
        path: of the folder; made if it is not there.
        resume: whether what it holds is gone on with; else that is thrown away.

    Attributes:
        job: of the run that is in it; None if there is none.
        done: images that are dealt with, the first ones of the list.
        rows: of them, those that have an embedding.
        is_publishing: whether all is done, and its results have begun to take their places.

    Raises:
        CommandFailed: another process has it, or it is something else.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = True) -> None:
        self.path = path
        self.job: Job | None = None
        self.done = self.rows = 0
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
        """The job, where there must be one."""
        if self.job is None:
            raise ValueError("no run has begun in the work folder")
        return self.job

    @property
    def failed(self) -> int:
        """Images that are done and have no embedding."""
        return len(self._failed)

    def begin(self, job: Job) -> None:
        """Binds the folder to a job, or checks that it is the one that it was bound to.

        Raises:
            CommandFailed: it is another one.
        """
        if self.job is None:
            self._rows_file = _open_bytes(self.rows_path)
            self._rows_file.truncate(0)
            self._append({"format": _FORMAT, "job": asdict(job)})
            sync_folder(self.path)
            sync_folder(self.path.parent)
            self.job = job
            return
        if job != self.job:
            raise CommandFailed(self._difference(self.job, job))
        self._rows_file = _open_bytes(self.rows_path)
        self._rows_file.truncate(self.rows * job.row_bytes)
        self._rows_file.seek(0, os.SEEK_END)

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Adds the outcomes of the next images; when this returns they are on the disk.

        Raises:
            CommandFailed: an embedding has not the job's shape.
            OSError: they could not be written; what was there before stays.
        """
        job, rows_file = self.begun_job, self._rows_file
        if rows_file is None:
            raise ValueError("the run in the work folder has not been taken up: begin it")
        if [outcome.index for outcome in outcomes] != list(range(self.done, self.done + len(outcomes))):
            raise ValueError("a commit takes the outcomes that follow on what is done, in order")
        rows = [outcome.embedding for outcome in outcomes if outcome.embedding is not None]
        for row in rows:
            if row.shape != job.shape:
                raise CommandFailed(
                    f"the server returned an embedding of shape {list(row.shape)} after {list(job.shape)}; was "
                    "the model exported again?"
                )
        failed = [outcome for outcome in outcomes if outcome.embedding is None]
        if rows:
            _write(rows_file, np.stack(rows).astype(_FLOAT, copy=False).data.cast("B"))
            os.fsync(rows_file.fileno())
        done, count = self.done + len(outcomes), self.rows + len(rows)
        reasons, codes = [(each.index, each.reason) for each in failed], [each.code or "other" for each in failed]
        self._append({"done": done, "rows": count, "failed": reasons, "codes": codes})
        self.done, self.rows = done, count
        self._failed.extend(each.index for each in failed)

    def blocks(self, max_rows: int) -> Iterator[tuple[list[int], Rows]]:
        """All embeddings so far: the indices of at most `max_rows` images, and (n, *shape) float32."""
        job, indices = self.begun_job, self.indices()
        with self.rows_path.open("rb") as file:
            for first in range(0, self.rows, max_rows):
                count = min(max_rows, self.rows - first)
                rows = np.frombuffer(file.read(count * job.row_bytes), _FLOAT).reshape(count, *job.shape)
                yield [next(indices) for _ in range(count)], rows

    @property
    def rows_path(self) -> Path:
        """The embeddings' bytes."""
        return self.path / _ROWS

    def draft(self, name: str) -> Path:
        """Where a result is written before it takes its place."""
        return self.path / f"{_DRAFT}{name}"

    def failures(self) -> Iterator[tuple[int, str, ImageCode]]:
        """Index, reason and code of each image that has no embedding, in order."""
        with (self.path / _JOURNAL).open("rb") as file:
            for line in file:
                entry = json.loads(line)
                codes = chain(entry.get("codes", ()), repeat("other"))  # a run that an older vitriton began has none
                for (index, reason), code in zip(entry.get("failed", ()), codes, strict=False):
                    yield index, reason, code

    def mark_publishing(self) -> None:
        """Notes that the results are whole and begin to take their places."""
        self._append({"state": "publishing"})
        self.is_publishing = True

    def remove(self) -> None:
        """Removes the folder, after its results have taken their places."""
        self._journal.truncate(0)  # no run is in it any more, whatever is left of it after a crash
        os.fsync(self._journal.fileno())
        self._clear()

    def close(self) -> None:
        """Lets go of the folder. One that no run has begun in is removed."""
        if self._rows_file is not None:
            self._rows_file.close()
        if self.job is None and not self._journal.closed:
            self._clear()
        self._journal.close()

    def _clear(self) -> None:
        # The journal goes last, as the folder explains itself by it.
        self.rows_path.unlink(missing_ok=True)
        for draft in self.path.glob(f"{_DRAFT}*"):
            draft.unlink()
        (self.path / _JOURNAL).unlink()
        with contextlib.suppress(OSError):  # somebody has put something of his own into it
            self.path.rmdir()
        self._journal.close()  # and with it the lock: nobody takes the folder over before it is gone

    def _open_journal(self) -> FileIO:
        self.path.mkdir(exist_ok=True)
        journal = self.path / _JOURNAL
        if not journal.exists() and any(self.path.iterdir()):
            raise CommandFailed(f"{self.path} is in the way: it holds something else than an interrupted run")
        file = FileIO(journal, "a+b")
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), journal.stat()):
                    raise FileNotFoundError
            except (BlockingIOError, FileNotFoundError) as exc:  # not found: it has just been finished
                file.close()
                raise CommandFailed(f"another run is writing to {self.path}; wait for it, or end it") from exc
            except OSError:  # a file system without locks
                pass
        return file

    def _read_journal(self) -> int:
        """Takes in the lines that are whole and whose rows are there; returns where they end, in bytes."""
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
                    f"{self.path} holds a run that another version of vitriton began; finish it with that one, or "
                    "throw it away with --no-resume"
                )
            self.job = Job(**{**entry["job"], "shape": tuple(entry["job"]["shape"])})
            return True
        if "state" in entry:
            self.is_publishing = True
            return True
        if entry["rows"] * self.job.row_bytes > rows_bytes:
            return False
        self.done, self.rows = entry["done"], entry["rows"]
        self._failed.extend(index for index, _ in entry["failed"])
        return True

    def _append(self, entry: dict[str, Any]) -> None:
        _write(self._journal, memoryview(json.dumps(entry).encode() + b"\n"))
        os.fsync(self._journal.fileno())

    def indices(self) -> Iterator[int]:
        """Of the images that have an embedding, in order."""
        failed = iter(self._failed)
        next_failed = next(failed, None)
        for index in range(self.done):
            if index == next_failed:
                next_failed = next(failed, None)
            else:
                yield index

    def _difference(self, theirs: Job, ours: Job) -> str:
        differing = next(item.name for item in fields(Job) if getattr(theirs, item.name) != getattr(ours, item.name))
        then, now = getattr(theirs, differing), getattr(ours, differing)
        said = "another list of images of the same length" if differing == "images_sha256" else f"{differing} {then}"
        is_now = "" if differing == "images_sha256" else f", and now it is {now}"
        return (
            f"{self.path} holds an interrupted run with {said}{is_now}: the two must not be mixed. Give the same "
            "command as then, or throw that run away with --no-resume"
        )


def sync_folder(path: Path) -> None:
    """Makes what was made, renamed or removed in a folder outlast a power cut."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_bytes(path: Path) -> FileIO:
    """Opens without a buffer, so that a write that fails leaves nothing behind to be written later."""
    path.touch()
    return FileIO(path, "r+b")


def _write(file: FileIO, data: memoryview) -> None:
    while data:  # a full disk may take a part before it says so
        data = data[file.write(data) :]


def _parse(line: bytes) -> dict[str, Any] | None:
    """None for a line that was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
