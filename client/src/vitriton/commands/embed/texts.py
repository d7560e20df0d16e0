"""The texts of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitriton._console.failure import CommandFailed
from vitriton._console.progress import step
from vitriton._errors import InvalidOption
from vitriton._repository.names import kind_of
from vitriton._tables.rows import TABLES, TABULAR, Columns, PlainLines, RowFile, rereadable
from vitriton.commands.embed.inputs import BulkInputs
from vitriton.commands.embed.job import Job, Name, Shape

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client
    from vitriton._repository.names import Tower

_FORMATS: dict[str, type[RowFile]] = {".txt": PlainLines, **TABLES}
_TEXT_COLUMN = "text"


class BulkTexts(BulkInputs):
    """The texts of a run: the rows of a file, none of which is in memory for long.

    A text is named by the value of the identifying column, or else by the file and the number of the row, from 1.

    Args:
        file: the file.
        prompt: the name of the model's prompt; None means the model's default one, and "" none.

    Raises:
        InvalidOption: the file has no rows.
        OSError: the file cannot be read.
    """

    tower: Tower = "text"

    def __init__(self, file: RowFile, prompt: str | None) -> None:
        self._file = file
        self._prompt = prompt
        content = file.read_content()
        self.total = content.rows
        self._sha256 = content.sha256
        if not self.total:
            raise InvalidOption("texts", f"{file.name} has no texts")

    def sha256(self) -> str:
        """The hash of the file's name and bytes, and of the columns that are read."""
        columns = self._file.columns
        parts = [self._file.name, columns.value, columns.identity, self._sha256]
        return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()

    def names(self) -> Iterator[Name]:
        """See `BulkInputs`."""
        if self._file.columns.identity is None:
            yield from (Name(self._place(index)) for index in range(self.total))
            return
        for index, row in enumerate(islice(self._file.rows(), self.total)):
            yield Name(self._place(index) if row.identity is None else row.identity)
        self._file.check_unchanged()

    def prompt(self, client: Client) -> str | None:
        """See `BulkInputs`; the model's default one where none is named."""
        rules = client.describe().texts
        if rules is None:  # the model is not loaded any more, which the next request says
            return self._prompt
        try:
            rules.prefix(self._prompt)
        except ValueError as exc:
            raise CommandFailed(f"--{exc}") from exc
        return rules.default_prompt if self._prompt is None else self._prompt or None

    def shape(self, client: Client, *, pool: bool) -> Shape:
        """See `BulkInputs`; without pooling, each text has its own number of tokens."""
        if pool:
            return client.embed_texts([]).shape[1:]
        client.embed_texts([], pool=False)
        kind = kind_of(pool, self.tower)
        (shape,) = (output.shape for output in client.describe().outputs if output.kind == kind)
        return None, *(shape or (-1, 0))[1:]

    def stream(self, client: Client, first: int, *, pool: bool) -> Generator[Result, None, None]:
        """See `BulkInputs`."""
        texts: Iterator[Any] = (row.value for row in islice(self._file.rows(), first, self.total))
        yield from client.stream_texts(texts, pool=pool, prompt=self._prompt, on_error="return")
        self._file.check_unchanged()

    def details(self, job: Job, truncated: int) -> Mapping[str, object]:
        """See `BulkInputs`."""
        return {"truncated": truncated, "prompt": job.prompt}

    def reason(self, index: int, reason: str) -> str:
        """See `BulkInputs`."""
        return reason if self._file.columns.identity is None else f"{self._place(index)}: {reason}"

    def _place(self, index: int) -> str:
        return f"{self._file.name}:{index + 1}"


@contextmanager
def open_texts(
    name: str, text_column: str | None, id_column: str | None, prompt: str | None, *, quiet: bool
) -> Iterator[BulkTexts]:
    """Opens a file of texts for a `with` block.

    Args:
        name: the path of the file; `-`: standard input, with JSON Lines if a column is named, and else with plain ones.
        text_column: the column with the texts. None: "text".
        id_column: the column that identifies a row; None if none does.
        prompt: the name of the model's prompt; see `BulkTexts`.
        quiet: whether to show nothing while the file is read.

    Raises:
        InvalidOption: the file is empty or of another format, or does not have the columns.
        CommandFailed: pyarrow is missing.
        OSError: the file cannot be read.
    """
    has_columns = text_column is not None or id_column is not None
    suffix = (".jsonl" if has_columns else ".txt") if name == "-" else Path(name).suffix.lower()
    if suffix not in _FORMATS:
        raise InvalidOption("texts", f"{name} must end in one of {', '.join(_FORMATS)}")
    if suffix == ".txt" and has_columns:
        option = "id_column" if text_column is None else "text_column"
        raise InvalidOption(option, f"is for {TABULAR}; {name} has a text on each line, and no columns")
    columns = Columns(_TEXT_COLUMN if text_column is None else text_column, id_column)
    with rereadable(name) as file:
        shown = "stdin" if name == "-" else name
        with step(f"Reading {shown}", quiet=quiet):
            texts = BulkTexts(_FORMATS[suffix](file, shown, columns), prompt)
        yield texts
