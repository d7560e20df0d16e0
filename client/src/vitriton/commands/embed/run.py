"""A run of `vitriton embed`, from the options to the exit code."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import typer

from vitriton._console.failure import CommandFailed, reason
from vitriton._console.inputs import Inputs, find_inputs
from vitriton._console.progress import count, duration, progress, step
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import ClientError
from vitriton._options import Options
from vitriton.commands.embed.embedding import Embedding
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import WorkFolder
from vitriton.commands.embed.model import only_model
from vitriton.commands.embed.options import EmbedOptions
from vitriton.commands.embed.outputs import Paths, draft, publish

if TYPE_CHECKING:
    from vitriton._client import Client

_RESCUE_TIMEOUT_S = 1.0
EXIT_SOME_FAILED = 3  # all is done, and some images could not be embedded


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a finished run.

    Attributes:
        job: the job of the run.
        paths: the paths of the run's files.
        failed: the number of images that could not be embedded.
        before: the number of images done by an earlier part of the run.
        passed_over: the number of files in folders without an image's suffix.
        seconds: the duration of this part of the run, in seconds.
    """

    job: Job
    paths: Paths
    failed: int
    before: int
    passed_over: int
    seconds: float

    def to_json(self) -> str:
        """The summary for programs, on one line."""
        document = {
            "output": str(self.paths.output),
            "sources": None if self.paths.sources is None else str(self.paths.sources),
            "errors": str(self.paths.errors) if self.failed else None,
            "images": self.job.images,
            "embedded": self.job.images - self.failed,
            "failed": self.failed,
            "done_before": self.before,
            "passed_over": self.passed_over,
            "model": self.job.model,
            "fingerprint": self.job.fingerprint,
            "pool": self.job.pool,
            "shape": self.job.shape,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self._rate(), 3),
        }
        return json.dumps(document)

    def to_text(self) -> str:
        """The summary for people, on one line."""
        before = f", {self.before} of them in earlier runs" if self.before else ""
        failed = f"; {count(self.failed, 'image')} could not be: see {self.paths.errors}" if self.failed else ""
        return (
            f"{count(self.job.images - self.failed, 'image')} embedded into {self.paths.output} in "
            f"{duration(self.seconds)}, {self._rate():.1f} images/s{before}{failed}"
        )

    def _rate(self) -> float:
        return (self.job.images - self.before) / self.seconds


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
    paths.check()
    inputs = find_inputs(options.images, options.list_file, recursive=options.recursive)
    if inputs.passed_over and not options.quiet:
        typer.echo(f"note: {inputs.describe_passed_over()}", err=True)
    with WorkFolder(paths.work, resume=options.resume) as work:
        if not (options.overwrite or work.is_publishing):
            paths.check_free()
        before = work.done
        try:
            job = _embed(options, inputs, work, signals)
            _write(options, inputs, work, signals)
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
            before=before,
            passed_over=inputs.passed_over.total(),
            seconds=time.monotonic() - started_s,
        )


def _embed(options: EmbedOptions, inputs: Inputs, work: WorkFolder, signals: Signals) -> Job:
    """Embeds the remaining images."""
    with step(f"Asking {options.server.address}", quiet=options.quiet):
        model = options.model or only_model(options.server, options.timeout_s)

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
            job = _job(client, model, options.pool, inputs)
        work.begin(job, inputs.sources)
        if work.done < job.images:
            with progress(job.images, work.done, work.failed, quiet=options.quiet) as advance:
                rescuer = partial(make_client, _RESCUE_TIMEOUT_S, max_attempts=1)
                Embedding(work, job, inputs.sources, rescuer, signals, advance).run(client)
    return job


def _job(client: Client, model: str, pool: bool, inputs: Inputs) -> Job:
    shape = client.embed([], pool=pool).shape[1:]
    if 0 in shape:
        raise CommandFailed(f"the outputs of model {model} have no fixed shape, so they do not fit in one file")
    fingerprint = client.describe().fingerprint
    if fingerprint is None:
        raise CommandFailed(f"the configuration of model {model} has no fingerprint; export it with `vitriton export`")
    return Job(
        model=model,
        fingerprint=fingerprint,
        pool=pool,
        shape=shape,
        images=len(inputs.sources),
        images_sha256=inputs.sha256(),
    )


def _write(options: EmbedOptions, inputs: Inputs, work: WorkFolder, signals: Signals) -> None:
    with step(f"Writing {options.paths.output}", quiet=options.quiet):
        drafts = draft(work, options.paths, inputs.sources)
    with signals.held():
        publish(work, options.paths, drafts)


def _safe(work: WorkFolder) -> str:
    """What is kept of an interrupted run, and how to continue; empty if none has begun."""
    if work.job is None:
        return ""
    return (
        f"; {work.done} of {count(work.job.images, 'image')} are done and saved in {work.path}; repeat the command to "
        "continue"
    )


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else "the results cannot be written: "
    return where + (error.strerror or str(error))
