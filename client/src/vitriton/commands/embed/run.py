"""A run of `vitriton embed`, from the options to the exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vitriton._console.failure import CommandFailed, reason
from vitriton._console.inputs import find_inputs
from vitriton._console.progress import count, duration, progress, step
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import ClientError, InvalidOption
from vitriton._options import Options
from vitriton._storage import Storage, is_remote
from vitriton.commands.embed.append import AppendedImages, open_output
from vitriton.commands.embed.embedding import Embedding
from vitriton.commands.embed.inputs import BulkImages, BulkInputs
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import WorkFolder
from vitriton.commands.embed.lists import read_list
from vitriton.commands.embed.model import only_model
from vitriton.commands.embed.options import EmbedOptions
from vitriton.commands.embed.outputs import Paths, draft, publish
from vitriton.commands.embed.texts import open_texts
from vitriton.commands.embed.videos import BulkFrames

if TYPE_CHECKING:
    from vitriton._client import Client

_RESCUE_TIMEOUT_S = 1.0
EXIT_SOME_FAILED = 3  # all is done, and some inputs could not be embedded


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a finished run.

    Attributes:
        job: the job of the run.
        paths: the paths of the run's files.
        failed: the number of inputs that could not be embedded.
        before: the number of inputs done by an earlier part of the run, without those of the output that it adds to.
        truncated: the number of texts that were cut.
        details: what only images or only texts have, by its name for programs.
        seconds: the duration of this part of the run, in seconds.
    """

    job: Job
    paths: Paths
    failed: int
    before: int
    truncated: int
    details: Mapping[str, object]
    seconds: float

    def to_json(self) -> str:
        """The summary for programs, on one line."""
        document = {
            "output": str(self.paths.output),
            "sources": None if self.paths.sources is None else str(self.paths.sources),
            "errors": str(self.paths.errors) if self.failed else None,
            f"{self.job.tower}s": self.job.inputs,
            "embedded": self.job.inputs - self.failed,
            "failed": self.failed,
            "done_before": self.before,
            **self.details,
            "model": self.job.model,
            "fingerprint": self.job.fingerprint,
            "pool": self.job.pool,
            "shape": self.job.shape,
            "seconds": round(self.seconds, 3),
            f"{self.job.tower}s_per_second": round(self._rate(), 3),
        }
        return json.dumps(document)

    def to_text(self) -> str:
        """The summary for people, on one line."""
        noun, truncated, kept = self.job.tower, self.truncated, self.job.kept or 0
        cut = f"; {count(truncated, noun)} longer than the model takes, and cut" if truncated else ""
        before = f", {self.before} of them in earlier runs" if self.before else ""
        beside = f", beside {count(kept, noun)} that it had" if kept else ""
        failed = f"; {count(self.failed, noun)} could not be: see {self.paths.errors}" if self.failed else ""
        return (
            f"{count(self.job.inputs - kept - self.failed, noun)} embedded into {self.paths.output} in "
            f"{duration(self.seconds)}, {self._rate():.1f} {noun}s/s{beside}{before}{failed}{cut}"
        )

    def _rate(self) -> float:
        return (self.job.inputs - (self.job.kept or 0) - self.before) / self.seconds


def run(options: EmbedOptions) -> int:
    """Runs the command, and returns its exit code.

    Raises:
        CommandFailed: the run failed.
        ClientError: the server failed before the run had any results.
        InvalidOption: an option is invalid.
    """
    try:
        with Signals() as signals:
            summary = _run(options, signals)
    except OSError as exc:
        raise CommandFailed(_describe(exc)) from exc
    if options.as_json:
        typer.echo(summary.to_json())
    elif not options.quiet:
        typer.echo(summary.to_text())
    return EXIT_SOME_FAILED if summary.failed else 0


def _run(options: EmbedOptions, signals: Signals) -> Summary:
    started_s = time.monotonic()
    paths = options.paths
    read = options.texts or options.list_file
    paths.check(None if read is None else Path(read))
    if options.append:
        _finish(options, signals)
    with _open_inputs(options) as inputs, WorkFolder(paths.work, resume=options.resume) as work:
        if inputs.note and not options.quiet:
            typer.echo(f"note: {inputs.note}", err=True)
        if not (options.overwrite or work.is_publishing or inputs.kept is not None):
            paths.check_free(can_append=options.can_append)
        before = work.done
        try:
            job = _embed(options, inputs, work, signals)
            if work.job is not None:  # else there is nothing to add
                _write(options, work, signals)
        except Stopped as exc:
            exc.args = (_safe(work),)
            raise
        except (ClientError, OSError) as exc:
            text = _describe(exc) if isinstance(exc, OSError) else reason(exc)
            raise CommandFailed(text + _safe(work)) from exc
        return Summary(
            job=job,
            paths=paths,
            failed=work.failed,
            before=max(0, before - (job.kept or 0)),
            truncated=work.truncated,
            details=inputs.details(job, work.truncated),
            seconds=time.monotonic() - started_s,
        )


def _finish(options: EmbedOptions, signals: Signals) -> None:
    """Moves the files of a run to their places that a crash kept from it: the rows to add to may be among them."""
    if options.paths.work.is_dir():
        with WorkFolder(options.paths.work) as work:
            if work.is_publishing:
                _write(options, work, signals)


@contextmanager
def _open_inputs(options: EmbedOptions) -> Iterator[BulkInputs]:
    """The images, the frames of videos, or the texts of the command, for a `with` block."""
    if options.texts is None:
        listed, every_s = None, options.every_s
        if options.list_file is not None:
            listed = read_list(options.list_file, options.path_column, options.id_column)
        found = find_inputs(
            options.images, listed, recursive=options.recursive, videos=every_s is not None, storage=Storage()
        )
        if every_s is not None:
            if any(map(is_remote, found.sources)):
                raise InvalidOption("every", "is for files of this machine and URLs; copy what is in a store first")
            yield BulkFrames(found, every_s, quiet=options.quiet)
        elif options.append and options.output.exists():
            yield AppendedImages(open_output(options.paths), found)
        else:
            yield BulkImages(found)
        return
    prompt = "" if options.no_prompt else options.prompt
    with open_texts(options.texts, options.text_column, options.id_column, prompt, quiet=options.quiet) as texts:
        yield texts


def _embed(options: EmbedOptions, inputs: BulkInputs, work: WorkFolder, signals: Signals) -> Job:
    """Embeds the remaining inputs."""
    with step(f"Asking {options.server.address}", quiet=options.quiet):
        model = options.model or only_model(options.server, options.timeout_s, inputs.tower)

    def make_client(timeout_s: float, max_attempts: int | None = None) -> Client:
        return options.server.client(
            model=model,
            timeout_s=timeout_s,
            options=Options(max_attempts=max_attempts),
            preprocess=options.preprocess,
            expect_fingerprint=options.expect_fingerprint,
        )

    with make_client(options.timeout_s) as client:
        with step(f"Asking {options.server.address}", quiet=options.quiet):
            job = _job(client, model, options, inputs)
        if job.kept == job.inputs and work.job is None:  # the output has all images
            return job
        work.begin(job, inputs.names())
        if work.done < job.inputs:
            with progress(job.inputs, work.done, work.failed, noun=job.tower, quiet=options.quiet) as advance:
                rescuer = partial(make_client, _RESCUE_TIMEOUT_S, max_attempts=1)
                Embedding(work, job, inputs, rescuer, signals, advance).run(client)
    return job


def _job(client: Client, model: str, options: EmbedOptions, inputs: BulkInputs) -> Job:
    shape = inputs.shape(client, pool=options.pool)
    if 0 in shape:
        raise CommandFailed(f"the outputs of model {model} have no fixed shape, so they do not fit in one file")
    fingerprint = client.describe().fingerprint
    if fingerprint is None:
        raise CommandFailed(f"the configuration of model {model} has no fingerprint; export it with `vitriton export`")
    job = Job(
        model=model,
        fingerprint=fingerprint,
        pool=options.pool,
        shape=shape,
        inputs=inputs.total,
        inputs_sha256=inputs.sha256(),
        tower=inputs.tower,
        prompt=inputs.prompt(client),
        kept=inputs.kept,
        every_s=inputs.every_s,
        id_column=options.id_column,
    )
    inputs.check(job)
    return job


def _write(options: EmbedOptions, work: WorkFolder, signals: Signals) -> None:
    with step(f"Writing {options.paths.output}", quiet=options.quiet):
        drafts = draft(work, options.paths)
    with signals.held():
        publish(work, options.paths, drafts)


def _safe(work: WorkFolder) -> str:
    """What is kept of an interrupted run, and how to continue; empty if none has begun."""
    if work.job is None:
        return ""
    return (
        f"; {work.done} of {count(work.job.inputs, work.job.tower)} are done and saved in {work.path}; repeat the "
        "command to continue"
    )


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else "the results cannot be written: "
    return where + (error.strerror or str(error))
