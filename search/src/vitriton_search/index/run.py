"""A run of `vitriton search index`, from the options to the exit code."""

from __future__ import annotations

import json
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from vitriton import Client, ClientError, Options, list_models
from vitriton._console.failure import CommandFailed, reason
from vitriton._console.inputs import Inputs, find_inputs
from vitriton._console.progress import count, duration, progress, step
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import InvalidOption

from vitriton_search.index.embedding import Indexing, IndexTally, gone_rows
from vitriton_search.index.films import is_film, plan_films
from vitriton_search.index.outputs import SUFFIX, Output, Taking, find_rows, has_content, open_output
from vitriton_search.index.own import OwnColumns, read_columns
from vitriton_search.index.plan import make_plan
from vitriton_search.index.rows import Batches
from vitriton_search.index.scan import Found, folders_among, inside, look_at
from vitriton_search.sources import is_url, source_of
from vitriton_search.stores import open_store
from vitriton_search.stores.address import shown
from vitriton_search.stores.store import Space, Store, StoreError, StoreNotFound

if TYPE_CHECKING:
    from vitriton_search.index.options import IndexOptions
    from vitriton_search.options import ModelOptions

EXIT_SOME_FAILED = 3  # the store is up to date, and some images could not be embedded


@dataclass(kw_only=True)
class IndexSummary:
    """The result of a run, which grows while it runs.

    Attributes:
        unchanged: the number of images whose rows were as they should be.
        bad: the number of unchanged images that could not be embedded in an earlier run.
        outdated: the number of files that changed after their vectors were written to a .parquet file.
        repeated: the number of rows of .parquet files that were left out because an earlier row has their id.
        gone: the number of rows whose files do not exist any more.
        unassigned: the number of lines of the user's columns that belong to no row.
        tally: what the run did.
    """

    unchanged: int = 0
    bad: int = 0
    outdated: int = 0
    repeated: int = 0
    gone: int = 0
    unassigned: int = 0
    tally: IndexTally = field(default_factory=IndexTally)

    @property
    def images(self) -> int:
        """The number of images and frames that are there."""
        return self.unchanged + self.tally.embedded + self.tally.reused + self.tally.failed + self.outdated

    @property
    def failed(self) -> int:
        """The number of images without a vector."""
        return self.bad + self.tally.failed


def run(options: IndexOptions) -> int:
    """Runs the command, and returns its exit code.

    Raises:
        CommandFailed: the run failed.
        ClientError: the server failed before anything was written.
        StoreError: the store failed.
        InvalidOption: an option is wrong.
    """
    started_s = time.monotonic()
    with Signals() as signals, ExitStack() as opened, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # the oddities of files
        index = _Index(options, signals, opened)
        try:
            index.update()
        except Stopped as exc:
            exc.args = (index.safe(),)
            raise
        except (ClientError, StoreError, OSError, ImportError) as exc:  # videos need a library
            text = reason(exc) if isinstance(exc, ClientError) else str(exc)
            raise CommandFailed(text + index.safe()) from exc
        summary, space = index.summary, index.space
        rows = index.rows()
    _tell(options, summary, space, rows, time.monotonic() - started_s)
    return EXIT_SOME_FAILED if summary.failed else 0


class _Index:
    """A store and what brings it up to date, opened when they are needed.

    Args:
        options: the options of the command.
        signals: the signals that may end the run.
        opened: what the run opens, for the end of it.

    Attributes:
        summary: the result so far.
    """

    def __init__(self, options: IndexOptions, signals: Signals, opened: ExitStack) -> None:
        self.summary = IndexSummary()
        self._options = options
        self._signals = signals
        self._opened = opened
        self._own: OwnColumns | None = None
        self._store: Store | None = None
        self._client: Client | None = None

    def update(self) -> None:
        """Does all that the options ask for."""
        options = self._options
        outputs = [open_output(Path(text)) for text in options.images if _is_output(text)]
        images = [text for text in options.images if not _is_output(text)]
        if options.columns is not None:
            self._own = read_columns(options.columns)
        if not options.rebuild:
            self._open()
        found: list[Found] = []
        if images or options.list_file is not None:
            with step("Looking for images", quiet=options.quiet):
                inputs = find_inputs(
                    images,
                    options.list_file,
                    recursive=True,
                    videos=options.every is not None,
                    may_be_empty=self._store is not None or bool(outputs),
                )
                found = self._look_at(inputs)
        for output in outputs:
            self._take(output)
        self._embed(found, folders_among(images))
        self._finish()

    @property
    def space(self) -> Space | None:
        """The space of the store; None if there is no store."""
        return None if self._store is None else self._store.space

    def rows(self) -> int:
        """The number of rows in the store."""
        return 0 if self._store is None else len(self._store)

    def safe(self) -> str:
        """What is kept of a run that ends early; empty if it has done nothing."""
        tally = self.summary.tally
        if not (tally.embedded or tally.reused or tally.failed):
            return ""
        return f"; what was done before is in {shown(self._options.store)}; repeat the command to continue"

    def _open(self, space: Space | None = None) -> None:
        """Opens the store; with a space, makes it if it is not there, and checks it otherwise."""
        own = {} if self._own is None else self._own.types
        replace = self._options.rebuild and self._store is None
        if self._store is not None:
            self._store.close()  # some can be open once
        try:
            store = open_store(self._options.store, space, own, replace=replace)
        except StoreNotFound:
            if space is not None:
                raise
            return
        self._store = self._opened.enter_context(store)

    def _look_at(self, inputs: Inputs) -> list[Found]:
        """The images that are there, without the store's own files."""
        if any(source[:5].lower() == "data:" for source in inputs.sources):
            raise InvalidOption("", "a data: URI has no name that a row could have; save the image to a file")
        if (note := inputs.describe_passed_over()) and not self._options.quiet:
            typer.echo(f"note: {note}{inputs.describe_videos()}", err=True)
        is_own = inside([] if "://" in self._options.store else [source_of(self._options.store)])
        return [image for image in look_at(inputs.sources) if not is_own(image.id)]

    def _take(self, output: Output) -> None:
        """Takes the vectors of a .parquet file."""
        self._open(output.space)
        assert self._store is not None
        with step(f"Taking the vectors of {output.path}", quiet=self._options.quiet):
            rows = find_rows(output)
            images = {image.id: image for image in rows.images.values() if has_content(image)}
            plan = make_plan(list(images.values()), self._store.known(), ())
            unchanged = images.keys() - {image.id for image in (*plan.alike, *plan.new)}
            wanted = {text: image for text, image in {**rows.images, **rows.films}.items() if image.id not in unchanged}
            batches = Batches(self._store, self._signals)
            taking = Taking(output, self._store, batches, self.summary.tally, Options().max_image_bytes)
            taking.take(wanted)
        self.summary.unchanged += plan.unchanged + taking.unchanged
        self.summary.bad += plan.bad
        self.summary.outdated += taking.outdated
        self.summary.repeated += taking.repeated

    def _embed(self, found: list[Found], folders: tuple[str, ...]) -> None:
        """Copies or embeds what is new or changed, and removes what is gone."""
        options, summary = self._options, self.summary
        if self._store is None or options.served.model not in (None, self._store.space.model):
            if not found:
                return
            self._connect()
        store = self._store
        assert store is not None
        with step(f"Comparing with {shown(options.store)}", quiet=options.quiet):
            known, retry_errors = store.known(), options.retry_errors
            plan = make_plan([each for each in found if not is_film(each)], known, folders, retry_errors=retry_errors)
            films = [each for each in found if is_film(each)]
            film_plan = plan_films(films, known, options.every_s or 0.0, retry_errors=retry_errors)
        summary.unchanged += plan.unchanged + film_plan.unchanged
        summary.bad += plan.bad + film_plan.bad
        if plan.alike or plan.new or film_plan.films:
            done, bad = plan.unchanged + film_plan.unchanged, plan.bad + film_plan.bad
            # how many frames a video has is known when it is read
            total = None if film_plan.films else len(found) - len(films) + film_plan.unchanged
            with progress(total, done, bad, quiet=options.quiet) as advance:
                indexing = Indexing(store, summary.tally, self._signals, advance, Options().max_image_bytes)
                images = [*indexing.copy(plan), *plan.new, *indexing.copy_films(film_plan)]
                if images:
                    indexing.embed(self._connect(), images, film_plan)
        gone = gone_rows(plan)
        summary.gone = len(gone)
        if gone and options.prune:
            with self._signals.held():
                store.delete(gone)

    def _finish(self) -> None:
        store, tally = self._store, self.summary.tally
        if store is None:
            return
        if self._own is not None:
            self.summary.unassigned = self._own.write(store, self._signals)
        if tally.embedded or tally.reused or tally.failed or (self.summary.gone and self._options.prune):
            with step(f"Bringing the index of {shown(self._options.store)} up to date", quiet=self._options.quiet):
                store.build_index()

    def _connect(self) -> Client:
        """A client of the model, whose space is that of the store."""
        if self._client is None:
            served = self._options.served
            with step(f"Asking {served.url}", quiet=self._options.quiet):
                model = served.model or (_only_model(served) if self._store is None else self._store.space.model)
                client = served.server.client(model=model, timeout_s=served.timeout_s)
                self._client = self._opened.enter_context(client)
                space = _space(client, model)
            if self._store is None or self._store.space.fingerprint != space.fingerprint:
                self._open(space)
        return self._client


def _is_output(text: str) -> bool:
    return text.lower().endswith(SUFFIX) and not is_url(text)


def _space(client: Client, model: str) -> Space:
    """The space of a model's vectors.

    Raises:
        CommandFailed: the model does not name its space, or its vectors have no fixed length.
        ClientError: the server failed, or the model does not embed images.
    """
    fingerprint = client.describe().fingerprint
    if fingerprint is None:
        raise CommandFailed(f"the configuration of model {model} has no fingerprint; export it with `vitriton export`")
    dimensions = client.embed([]).shape[1:]
    if len(dimensions) != 1 or not dimensions[0]:
        raise CommandFailed(f"model {model} has vectors of shape {list(dimensions)}, and a store has one fixed length")
    return Space(model=model, fingerprint=fingerprint, dimensions=dimensions[0])


def _only_model(served: ModelOptions) -> str:
    """The name of the only model on the server that embeds images.

    Raises:
        CommandFailed: there is none, or several.
        ClientError: the server failed.
    """
    models = list_models(served.url, timeout_s=served.timeout_s, **served.server.connection())
    names = [model.name for model in models if model.is_ready_for("image")]
    if len(names) == 1:
        return names[0]
    if names:
        raise CommandFailed(
            f"the server at {served.url} has several models for images; choose one with --model: {', '.join(names)}"
        )
    raise CommandFailed(
        f"the server at {served.url} has no model of `vitriton export` for images that is ready; see `vitriton models`"
    )


def _tell(options: IndexOptions, summary: IndexSummary, space: Space | None, rows: int, seconds: float) -> None:
    """Says what a run has done: the summary on standard output, and the bad images on standard error."""
    tally = summary.tally
    if not options.quiet:
        for source, why in tally.reasons:
            typer.echo(f"{source if source.isprintable() else json.dumps(source)}: {why}", err=True)
        if (more := tally.failed - len(tally.reasons)) > 0:
            typer.echo(f"... and {more} more: the rows of the store with an `error`", err=True)
    if options.as_json:
        document = {
            "store": shown(options.store),
            "rows": rows,
            "images": summary.images,
            "unchanged": summary.unchanged,
            "embedded": tally.embedded,
            "reused": tally.reused,
            "failed": summary.failed,
            "outdated": summary.outdated,
            "repeated": summary.repeated,
            "gone": summary.gone,
            "pruned": options.prune,
            "unassigned": summary.unassigned,
            "model": None if space is None else space.model,
            "fingerprint": None if space is None else space.fingerprint,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(document))
    elif not options.quiet:
        typer.echo("; ".join(_sentence(options, summary, seconds)))


def _sentence(options: IndexOptions, summary: IndexSummary, seconds: float) -> list[str]:
    """The summary for people, in parts."""
    tally = summary.tally
    parts = [
        f"{count(tally.embedded, 'image')} embedded into {shown(options.store)} in {duration(seconds)}, "
        f"{tally.reused} with vectors that were there, {summary.unchanged - summary.bad} unchanged"
    ]
    if summary.failed:
        parts.append(f"{count(summary.failed, 'image')} could not be embedded")
    if summary.outdated:
        parts.append(f"{count(summary.outdated, 'file')} changed after the vectors were made: index the files")
    if summary.repeated:
        parts.append(f"{count(summary.repeated, 'row')} with the id of an earlier row left out")
    if summary.gone:
        done = "removed" if options.prune else "kept (--prune removes them)"
        parts.append(f"{count(summary.gone, 'row')} of files that are gone {done}")
    if summary.unassigned:
        parts.append(f"{count(summary.unassigned, 'line')} of {options.columns} belong to no image in the store")
    return parts
