"""The output of an earlier run, to which a run adds: its rows are kept, and the images that it lacks are embedded."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitriton._call.results import Result
from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import Inputs
from vitriton._console.progress import count
from vitriton._errors import InvalidOption
from vitriton._tables.parquet import import_pyarrow
from vitriton.commands.embed.inputs import BulkImages
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import Rows
from vitriton.commands.embed.outputs import Paths, text

if TYPE_CHECKING:
    from vitriton._client import Client

_BATCH_BYTES = 16 * 1024 * 1024  # of embeddings that are read at a time
_COLUMNS = ("index", "source", "embedding")  # of a .parquet file
_LINE = ("index", "source", "fingerprint")  # of the file beside an .npy
_ELSE = "give another name, or --overwrite to embed all images again"


class EarlierOutput(ABC):
    """The rows of an output, which must stay as it is while it is used.

    Args:
        path: the path of the output.

    Attributes:
        path: the same.
        names: the name of each row's image.
        shape: the shape of one embedding.
        fingerprint: the fingerprint of the embedding space; None if there are no rows.
    """

    names: list[str]
    shape: tuple[int, ...]
    fingerprint: str | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = self._read_stamp()

    @abstractmethod
    def rows(self, first: int) -> Iterator[Rows]:
        """Yields the embeddings from a row on, float32, each of `shape`.

        Raises:
            CommandFailed, OSError: the output cannot be read.
        """

    def check(self, job: Job) -> None:
        """Checks that a job's embeddings may stand beside these.

        Raises:
            CommandFailed: they are of another space or shape.
        """
        if self.fingerprint not in (None, job.fingerprint):
            raise CommandFailed(
                f"{self.path} has vectors of the fingerprint {self.fingerprint}, and model {job.model} has "
                f"{job.fingerprint}; vectors of two spaces must not be mixed: {_ELSE}"
            )
        if self.shape != job.shape:
            raise CommandFailed(
                f"{self.path} has embeddings of shape {list(self.shape)}, and this command makes {list(job.shape)}: "
                f"give --pool or --unpooled as before; or {_ELSE}"
            )

    def check_unchanged(self) -> None:
        """Checks that nobody has replaced the output since it was opened.

        Raises:
            CommandFailed: somebody has.
        """
        if self._read_stamp() != self._stamp:
            raise CommandFailed(f"{self.path} was changed while it was read; repeat the command")

    def _read_stamp(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


class ParquetOutput(EarlierOutput):
    """A .parquet file.

    Args:
        path: the path of the file.

    Raises:
        InvalidOption: the command did not write the file, or not in this form.
        CommandFailed: pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pyarrow, self._parquet = import_pyarrow("reading", "give an .npy")
        try:
            with self._open() as file:
                schema = file.schema_arrow
                metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
                _check_columns(path, schema.names, _COLUMNS)
                self.fingerprint = metadata["fingerprint"]
                self.shape = tuple(json.loads(metadata["shape"]))
                if None in self.shape:
                    raise ValueError("its embeddings differ in shape, as only those of texts do")
                kind = self._pyarrow.list_(self._pyarrow.float32(), math.prod(self.shape))
                if schema.field("embedding").type != kind:
                    raise ValueError(f"its embeddings are {schema.field('embedding').type}")
                self.names = file.read(columns=["source"]).column(0).to_pylist()
        except (self._pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as exc:
            raise _foreign(path, exc) from exc

    def rows(self, first: int) -> Iterator[Rows]:
        """See `EarlierOutput`."""
        size = max(1, _BATCH_BYTES // (4 * math.prod(self.shape)))
        try:
            with self._open() as file:
                for batch in file.iter_batches(size, columns=["embedding"], use_threads=False):
                    if first < len(batch):
                        yield from batch.column(0).flatten().to_numpy().reshape(-1, *self.shape)[first:]
                    first = max(0, first - len(batch))
        except self._pyarrow.ArrowException as exc:
            raise CommandFailed(f"{self.path} cannot be read: {exc}") from exc

    def _open(self) -> Any:
        return self._parquet.ParquetFile(self.path)


class ArrayOutput(EarlierOutput):
    """An .npy file, and the file that names its rows.

    Args:
        path: the path of the array.
        sources: the path of the other file.

    Raises:
        InvalidOption: the command did not write the files, or not in this form.
    """

    def __init__(self, path: Path, sources: Path) -> None:
        super().__init__(path)
        self.names = []
        fingerprints = set()
        try:
            array = self._load()
            with sources.open(encoding="utf-8") as file:
                for line in map(json.loads, file):
                    _check_columns(sources, line, _LINE)
                    self.names.append(line["source"])
                    fingerprints.add(line["fingerprint"])
            if array.dtype != np.dtype("<f4") or len(array) != len(self.names) or len(fingerprints) > 1:
                raise ValueError(f"{sources} has {len(self.names)} lines for {len(array)} rows")
        except (OSError, KeyError, TypeError, ValueError) as exc:
            raise _foreign(path, exc) from exc
        self.shape = array.shape[1:]
        self.fingerprint = next(iter(fingerprints), None)

    def rows(self, first: int) -> Iterator[Rows]:
        """See `EarlierOutput`."""
        yield from self._load()[first:]

    def _load(self) -> Any:
        return np.load(self.path, mmap_mode="r")


class AppendedImages(BulkImages):
    """The rows of an earlier output, and then the images that it does not have.

    An image is known by its name in the output: the path or URL as it is given, or its id. Contents are not compared.

    Args:
        earlier: the output.
        inputs: all images of the command.
    """

    def __init__(self, earlier: EarlierOutput, inputs: Inputs) -> None:
        known = set(earlier.names)
        is_new = [text(name) not in known for name in inputs.names]
        ids = None if inputs.ids is None else [*earlier.names, *_where(inputs.ids, is_new)]
        super().__init__(Inputs([*earlier.names, *_where(inputs.sources, is_new)], ids, inputs.passed_over))
        self.kept = len(earlier.names)
        self._earlier = earlier
        changed = _newer(_where(inputs.sources, [not new for new in is_new]), earlier.path)
        if changed:
            what = f"{count(changed, 'image')} changed after {earlier.path} was written, whose vectors are kept"
            self.note = "; ".join(filter(None, [self.note, f"{what} (--overwrite embeds all images again)"]))

    def check(self, job: Job) -> None:
        """See `BulkInputs`; another run may have added to the output before this one was alone."""
        self._earlier.check_unchanged()
        self._earlier.check(job)

    def stream(self, client: Client, first: int, *, pool: bool) -> Generator[Result, None, None]:
        """See `BulkInputs`; the rows of the output need no request."""
        kept = len(self._earlier.names)
        if first < kept:
            for index, row in enumerate(islice(self._earlier.rows(first), kept - first)):
                yield Result(index, "", row)
            self._earlier.check_unchanged()
        start = max(first, kept)
        with closing(super().stream(client, start, pool=pool)) as results:
            for result in results:
                yield replace(result, index=result.index + start - first)


def open_output(paths: Paths) -> EarlierOutput:
    """The output of an earlier run.

    Raises:
        InvalidOption: it is none that the command can add to.
        CommandFailed: pyarrow is missing.
    """
    if paths.sources is not None:
        return ArrayOutput(paths.output, paths.sources)
    return ParquetOutput(paths.output)


def _check_columns(path: Path, found: Sequence[str] | Mapping[str, object], wanted: Sequence[str]) -> None:
    """Refuses columns that would be lost."""
    if list(found) != list(wanted):
        raise ValueError(f"{path} has the columns {', '.join(found)}, and not {', '.join(wanted)}")


def _foreign(path: Path, error: Exception) -> InvalidOption:
    fault = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return InvalidOption("append", f"cannot add to {path} ({fault}); {_ELSE}")


def _where(items: Sequence[str], chosen: Sequence[bool]) -> list[str]:
    return [item for item, is_chosen in zip(items, chosen, strict=True) if is_chosen]


def _newer(sources: Sequence[str], output: Path) -> int:
    """The number of files that were written after the output."""
    written_ns, newer = output.stat().st_mtime_ns, 0
    for source in sources:
        with suppress(OSError, ValueError):  # a URL, or a file that is gone
            newer += os.stat(source).st_mtime_ns > written_ns  # noqa: PTH116 - a million of them
    return newer
