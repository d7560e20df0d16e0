"""Writes the rows that plans ask for: rows of moved files are copied, new and changed images are embedded.

The store is the only state. A run that is killed leaves the batches that it wrote, and the next one compares again and
does what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitriton import ClientError, ContractMismatch
from vitriton._console.progress import Advance
from vitriton._console.signals import Signals, Stopped

from vitriton_search.index.films import FilmContent, FilmPlan, FilmReading, FilmRow, read_content
from vitriton_search.index.photos import UnusableFile, place_of, read_file
from vitriton_search.index.plan import IndexPlan
from vitriton_search.index.reading import FileReading, Waiting
from vitriton_search.index.rows import BATCH_ROWS, NO_DIRECTION, Batches, Columns, copies_of, has_direction
from vitriton_search.index.scan import Found, is_gone
from vitriton_search.stores.store import Floats, Store

if TYPE_CHECKING:
    from vitriton import Client, Result

_LAST_WORD_S = 1.0  # for the server to confirm the last batch of a run that ends early
_NAMED = 10  # failures that are told one by one


@dataclass
class IndexTally:
    """What a run has done so far.

    Attributes:
        embedded: the number of images that were embedded.
        reused: the number of images whose content the store had, and whose vectors are copies.
        failed: the number of images that could not be embedded.
        reasons: the first of these, each with the reason.
    """

    embedded: int = 0
    reused: int = 0
    failed: int = 0
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, source: str, reason: str) -> None:
        """Counts an image that could not be embedded."""
        self.failed += 1
        if len(self.reasons) < _NAMED:
            self.reasons.append((source, reason))


class Indexing:
    """Writes the rows that plans ask for.

    Args:
        store: the store.
        tally: the counts of the run, which are kept up to date.
        signals: the signals that may end the run.
        advance: the function that counts each image.
        max_bytes: the size of the largest file that is read.
    """

    def __init__(self, store: Store, tally: IndexTally, signals: Signals, advance: Advance, max_bytes: int) -> None:
        self._store = store
        self._tally = tally
        self._signals = signals
        self._advance = advance
        self._max_bytes = max_bytes

    def copy(self, plan: IndexPlan) -> list[Found]:
        """Copies the rows of files that have moved, or changed in their time alone; returns the other files like them.

        Raises:
            StoreError: the store failed.
            Stopped: a signal arrived.
        """
        others: list[Found] = []
        copies: list[tuple[Found, Columns, str]] = []
        for number, file in enumerate(plan.alike, 1):
            try:
                content = read_file(file.path or "", self._max_bytes)
            except UnusableFile:  # it is told when it cannot be embedded
                others.append(file)
            else:
                like = plan.row_with(content.sha256, file.id)
                if like is None:
                    others.append(file)
                else:
                    copies.append((file, place_of(file, len(content.data), content.modified_us), like))
            if copies and (len(copies) == BATCH_ROWS or number == len(plan.alike)):
                others += self._copy(copies)
                copies = []
        return others

    def copy_films(self, plan: FilmPlan) -> list[Found]:
        """The same for videos.

        Raises:
            StoreError: the store failed.
            Stopped: a signal arrived.
        """
        others = []
        for film in plan.films:
            content = None
            if film.path is not None and film.size in plan.sizes:
                with suppress(UnusableFile):  # it is told when it cannot be embedded
                    content = read_content(film.path)
            like = None if content is None else plan.whole.get(content.sha256)
            if content is None or like is None or not self._copy_film(film, content, like, plan.rows):
                others.append(film)
        return others

    def embed(self, client: Client, images: Sequence[Found], films: FilmPlan | None = None) -> None:
        """Embeds images and frames of videos. Of files with one content, the first is embedded, and its row is copied.

        Args:
            client: the client.
            images: the images and the videos.
            films: the plan for the videos; None if there are none.

        Raises:
            ClientError: the server failed, or has another model now.
            StoreError: the store failed.
            Stopped: a signal arrived.

        What was embedded before the first or the last of these errors is written.
        """
        timeout: dict[str, float] = {}

        def confirm() -> None:
            # Before a batch is written: if the server has another model now, the last vectors may be from either.
            if client.describe(**timeout).fingerprint != self._store.space.fingerprint:
                raise ContractMismatch(
                    f"the export of {self._store.space.model} on the server changed during the run, and vectors of the "
                    "two exports must not be mixed",
                    model=self._store.space.model,
                )

        films = films or FilmPlan(every_s=0.0)
        reading, batches = FileReading(images, films, self._max_bytes), Batches(self._store, self._signals, confirm)
        try:
            self._embed(client, reading, films, batches)
            batches.write()
        except (ClientError, Stopped):
            timeout["timeout_s"] = _LAST_WORD_S
            # The next run embeds again what is not written here, so the first error is raised.
            with suppress(ClientError, Stopped):
                batches.write()
            raise
        others = self._copy_twins(reading, films)
        if others:  # the first one could not be read to its end, or another process has removed its rows
            self.embed(client, others, FilmPlan(every_s=films.every_s))

    def _embed(self, client: Client, reading: FileReading, films: FilmPlan, batches: Batches) -> None:
        waiting = reading.waiting

        def take_unsent() -> None:
            while waiting and not (isinstance(waiting[0], Waiting) and waiting[0].is_sent):
                first = waiting.popleft()
                if isinstance(first, FilmReading):
                    self._complete(first, films, batches)
                else:
                    self._take(first.columns, None, batches)

        with closing(client.stream(reading.inputs(), on_error="return")) as results:
            for result in results:
                take_unsent()
                sent = waiting.popleft()
                assert isinstance(sent, Waiting)  # as take_unsent has left it
                self._take(sent.columns, result, batches)
        take_unsent()

    def _complete(self, film: FilmReading, plan: FilmPlan, batches: Batches) -> None:
        """Says that all frames of a video are in the store, and removes rows that are none of its any more."""
        if not film.is_read:
            return
        batches.write()
        marked = {*film.ids[:1], film.found.id}
        with self._signals.held():
            self._store.delete(film.stale)
            rows = self._store.rows([name for name in film.ids if name in marked])
            columns = {**film.place, "every_s": plan.every_s}
            if len(rows):
                self._store.write(copies_of(rows, [({**columns, "id": name}, name) for name in rows["id"].to_pylist()]))
        if film.content is not None:
            sha256 = film.content.sha256
            plan.whole[sha256] = film.found.id
            plan.rows[film.found.id] = [FilmRow(name, sha256, False, name in marked) for name in film.ids]

    def _take(self, row: dict[str, Any], result: Result | None, batches: Batches) -> None:
        """Takes an image's result; None for one that was not sent: it has an error, or its row is there."""
        if result is not None and (reason := _reason(result, self._store.space.dimensions)) is not None:
            row["error"] = reason
        vector: Floats | None = None
        if "error" in row:
            self._tally.fail(row["id"], row["error"])
        elif result is not None:
            self._tally.embedded += 1
            vector = result.embedding
        else:
            self._tally.reused += 1
            self._advance(failed=False)
            return
        batches.add(row, vector)
        self._advance(failed=vector is None)

    def _copy_twins(self, reading: FileReading, films: FilmPlan) -> list[Found]:
        """Copies the rows of earlier files of the run; returns the files for which there are none."""
        others: list[Found] = []
        for start in range(0, len(reading.twins), BATCH_ROWS):
            others += self._copy(reading.twins[start : start + BATCH_ROWS])
        for film, like in reading.film_twins:
            assert film.content is not None  # by which it was found
            if not self._copy_film(film.found, film.content, like, films.rows):
                others.append(film.found)
        return others

    def _copy_film(self, film: Found, content: FilmContent, like: str, rows: Mapping[str, Sequence[FilmRow]]) -> bool:
        """Copies the rows of a video with the same content; returns whether they were there."""
        originals = sorted(rows.get(like, ()), key=lambda row: row.is_mark)  # the mark comes last
        ids = [film.id + row.id.removeprefix(like) for row in originals]
        copies = [(film, {**content.place(film), "id": name}, row.id) for name, row in zip(ids, originals, strict=True)]
        stale = list({row.id for row in rows.get(film.id, ())} - set(ids))
        for start in range(0, len(copies), BATCH_ROWS):
            if start + BATCH_ROWS >= len(copies):
                with self._signals.held():
                    self._store.delete(stale)
            if self._copy(copies[start : start + BATCH_ROWS]):
                return False
        return bool(copies)

    def _copy(self, copies: Sequence[tuple[Found, Columns, str]]) -> list[Found]:
        """Writes copies of rows; returns the files whose rows another process has removed meanwhile."""
        rows = self._store.rows(list({like for _, _, like in copies}))
        there = set(rows["id"].to_pylist())
        made = [(columns, like) for _, columns, like in copies if like in there]
        if made:
            table = copies_of(rows, made)
            with self._signals.held():
                self._store.write(table)
            for columns, error in zip([columns for columns, _ in made], table["error"].to_pylist(), strict=True):
                if error is None:
                    self._tally.reused += 1
                else:
                    self._tally.fail(columns["id"], error)
                self._advance(failed=error is not None)
        return [file for file, _, like in copies if like not in there]


def gone_rows(plan: IndexPlan) -> list[str]:
    """The ids of rows whose files do not exist any more."""
    gone = {source for source in {row.source for row in plan.missing} if is_gone(source)}
    return [row.id for row in plan.missing if row.source in gone]


def _reason(result: Result, dimensions: int) -> str | None:
    """The reason why an image has no vector; None if it has one."""
    if result.error is not None:
        return result.error.errors[0].reason
    if result.embedding is None or result.embedding.shape != (dimensions,):
        return f"the model returned no vector of {dimensions} numbers"
    return None if has_direction(result.embedding) else NO_DIRECTION
