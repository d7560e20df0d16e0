"""A run of `vitriton embed --engine ray`, from the options to the exit code."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import typer
from vitriton import Client, ClientError, list_models
from vitriton._console.failure import CommandFailed, reason
from vitriton._console.progress import count, duration, step
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import InvalidOption
from vitriton._repository.names import Tower
from vitriton._storage import Storage

from vitriton_ray._cluster import Cluster
from vitriton_ray._dedupe import Hashing, cut_by_content, hashing_job, sort_rows
from vitriton_ray._engines import EmbeddedEngine, Engine, ServedEngine, read_model
from vitriton_ray._estimate import estimate
from vitriton_ray._ids import check_ids
from vitriton_ray._inputs import JobInputs, find_inputs
from vitriton_ray._job import BulkJob, ShardPlan
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._plan import make_plan
from vitriton_ray._progress import Progress
from vitriton_ray._worker import Work

EXIT_SOME_FAILED = 3


@dataclass(frozen=True, kw_only=True)
class BulkSummary:
    """The result of a finished run.

    Attributes:
        job: the job.
        plan: its plan.
        output_uri: the folder of the output.
        before: the number of rows that an earlier run has done.
        failed: the number of all rows with an error.
        truncated: the number of texts that this run cut.
        seconds: the duration of this run, in seconds.
    """

    job: BulkJob
    plan: ShardPlan
    output_uri: str
    before: int
    failed: int
    truncated: int
    seconds: float

    def to_json(self) -> str:
        """The summary for programs, on one line."""
        document = {
            "output": self.output_uri,
            "files": self.plan.shards,
            f"{self.job.noun}s": self.plan.rows,
            "embedded": self.plan.rows - self.failed,
            "failed": self.failed,
            "done_before": self.before,
            "truncated": self.truncated,
            "model": self.job.model,
            "fingerprint": self.job.fingerprint,
            "seconds": round(self.seconds, 3),
        }
        return json.dumps(document, ensure_ascii=False)

    def __str__(self) -> str:
        before = f", {self.before} of them in an earlier run" if self.before else ""
        errors = f"; {count(self.failed, 'row')} with an error" if self.failed else ""
        rows, files = count(self.plan.rows, self.job.noun), count(self.plan.shards, "file")
        return f"{rows}{before}, in {files} of {self.output_uri} after {duration(self.seconds)}{errors}"


def run(options: RayOptions) -> int:
    """Embeds all rows that are not in the output; returns the exit code.

    Raises:
        InvalidOption, VitritonError: the run cannot begin, or fails.
    """
    began_s = time.monotonic()
    storage = Storage()
    output = BulkOutput(storage, options.output)
    try:
        summary = _run(options, storage, output, began_s)
    except (ClientError, OSError) as exc:
        text = " ".join(str(exc).split()) if isinstance(exc, OSError) else reason(exc)
        raise CommandFailed(text) from exc
    if summary is None:
        return 0
    if options.as_json:
        typer.echo(summary.to_json())
    elif not options.quiet:
        typer.echo(str(summary), err=True)
    return EXIT_SOME_FAILED if summary.failed else 0


def _run(options: RayOptions, storage: Storage, output: BulkOutput, began_s: float) -> BulkSummary | None:
    with step("Looking at the inputs", quiet=options.quiet):
        inputs = find_inputs(storage, options)
    with step(f"Asking {options.repository or options.url}", quiet=options.quiet):
        job, engine = _job(options, storage, inputs)
    if options.dry_run:
        estimate(options, storage, inputs, job, engine)
        return None
    plan = _plan_of(options, output, job)
    if plan is None and options.dedupe:
        plan = _plan_after_hashing(options, storage, inputs, job, output)
    elif plan is None:
        plan = _plan(options, storage, inputs, job, output)
    before, truncated = _carry_out(options, job, plan, engine, output)
    return BulkSummary(
        job=job,
        plan=plan,
        output_uri=output.uri,
        before=before,
        failed=output.count_errors(),
        truncated=truncated,
        seconds=time.monotonic() - began_s,
    )


def _carry_out(
    options: RayOptions, job: BulkJob, plan: ShardPlan, engine: Engine, output: BulkOutput
) -> tuple[int, int]:
    """Has all shards embedded that are not in the output; returns the rows that were there, and the texts cut now."""
    shards, done = output.read_shards(), output.done()
    missing = shards.filter([number not in done for number in shards.column("number").to_pylist()])
    before = plan.rows - sum(missing.column("rows").to_pylist())
    truncated = 0
    if missing.num_rows:
        work = Work(job=job, plan=plan, output_uri=output.uri, engine=engine)
        with Cluster(options, missing.num_rows) as cluster:
            truncated = _embed(options, cluster, work, missing, before)
    output.clean_up()
    return before, truncated


def _embed(options: RayOptions, cluster: Cluster, work: Work, shards: Any, before: int) -> int:
    """Has the shards embedded; returns the number of texts that were cut."""
    errors = truncated = 0
    with Signals(), Progress(work.job.noun, work.plan.rows, before, quiet=options.quiet) as progress:
        try:
            for report in cluster.run(work, shards):
                if report.failure:
                    raise CommandFailed(report.failure + _safe(progress, work))
                errors += report.errors
                truncated += report.truncated
                progress.add(report)
                if options.max_errors is not None and errors > options.max_errors:
                    raise CommandFailed(
                        f"{count(errors, 'row')} of this run have an error, more than --max-errors "
                        f"{options.max_errors}" + _safe(progress, work)
                    )
        except Stopped as exc:
            exc.args = (_safe(progress, work),)
            raise
    return truncated


def _safe(progress: Progress, work: Work) -> str:
    return (
        f"; {progress.done} of {count(work.plan.rows, work.job.noun)} are done and safe in {work.output_uri}; repeat "
        "the command to continue"
    )


def _plan_of(options: RayOptions, output: BulkOutput, job: BulkJob) -> ShardPlan | None:
    """The plan of an output that this job has begun; None if it has not begun.

    Raises:
        InvalidOption: another job has begun it.
    """
    earlier = output.read_job()
    if earlier is None:
        return None
    then, plan = earlier
    change = then.change(job)
    if change is None and options.shard_rows not in (None, plan.shard_rows):
        change = f"{plan.shard_rows} rows in a file, and not {options.shard_rows}"
    if change is not None:
        raise InvalidOption("output", f"{output.uri} belongs to another job, with {change}; name another output")
    return plan


def _plan(options: RayOptions, storage: Storage, inputs: JobInputs, job: BulkJob, output: BulkOutput) -> ShardPlan:
    """Plans a job and writes the plan."""
    with step("Listing the rows", quiet=options.quiet):
        inputs, plan, shards = make_plan(storage, inputs, output, options.shard_rows)
    with step("Checking that the ids differ", quiet=options.quiet):
        plan = replace(plan, id_type=check_ids(storage, inputs))
    output.write_job(job, plan, shards)
    return plan


def _plan_after_hashing(
    options: RayOptions, storage: Storage, inputs: JobInputs, job: BulkJob, output: BulkOutput
) -> ShardPlan:
    """Plans a job whose rows with the same content are to be together."""
    hashes, hashing = BulkOutput(storage, f"{output.own_uri}/hashes"), hashing_job(job)
    before = _plan_of(options, hashes, hashing) or _plan(options, storage, inputs, hashing, hashes)
    _carry_out(options, hashing, before, Hashing(), hashes)
    with step("Sorting the rows by their content", quiet=options.quiet):
        sort_rows(hashes, job.kept_columns, output)
        shards = cut_by_content(output, before.shard_rows)
    plan = replace(before, shards=len(shards), value_column="uri", id_column="id")
    output.write_job(job, plan, shards)
    hashes.remove()
    return plan


def _job(options: RayOptions, storage: Storage, inputs: JobInputs) -> tuple[BulkJob, Engine]:
    tower: Tower = "text" if inputs.kind == "text" else "image"
    engine: Engine
    if options.repository is not None:
        model = read_model(storage, options.repository, options.model, tower)
        engine = EmbeddedEngine(repository=options.repository, timeout_s=options.timeout_s)
        name, fingerprint, dimension, prompt = model.name, model.fingerprint, model.dimension, options.prompt
    else:
        connection = options.server.connection()
        engine = ServedEngine(address=options.url, connection=connection, timeout_s=options.timeout_s)
        name = options.model or _only_model(options, connection, tower)
        with Client(options.url, model=name, timeout_s=60.0, **connection) as client:
            shape = (client.embed_texts([]) if tower == "text" else client.embed([])).shape
            described = client.describe()
            fingerprint, dimension, prompt = described.fingerprint, shape[1] if len(shape) == 2 else 0, options.prompt
            if tower == "text" and described.texts is not None:
                try:
                    described.texts.prefix(prompt)
                except ValueError as exc:
                    raise InvalidOption("prompt", str(exc).removeprefix("prompt ")) from exc
                prompt = described.texts.default_prompt if prompt is None else prompt
    if options.no_prompt:
        prompt = None
    if fingerprint is None:
        raise CommandFailed(f"the configuration of model {name} has no fingerprint; export it with `vitriton export`")
    if dimension < 1:
        raise CommandFailed(f"the vectors of model {name} have no fixed size, so they do not fit in one column")
    if options.expect_fingerprint not in (None, fingerprint):
        raise CommandFailed(
            f"model {name} has the fingerprint {fingerprint}, and {options.expect_fingerprint} is expected "
            "(--expect-fingerprint)"
        )
    job = BulkJob(
        sources=inputs.sources,
        kind=inputs.kind,
        value_column=inputs.value_column,
        id_column=inputs.id_column,
        kept_columns=inputs.kept_columns,
        manifest_sha256=inputs.sha256,
        model=name,
        fingerprint=fingerprint,
        dimension=dimension,
        dtype=options.dtype,
        prompt=prompt,
        preprocess=options.preprocess,
        dedupe=options.dedupe,
    )
    return job, engine


def _only_model(options: RayOptions, connection: dict[str, Any], tower: Tower) -> str:
    names = [model.name for model in list_models(options.url, **connection) if model.is_ready_for(tower)]
    if len(names) != 1:
        has = f"several models for {tower}s: {', '.join(names)}" if names else f"no model for {tower}s that is ready"
        raise CommandFailed(f"the server at {options.url} has {has}; choose one with --model")
    return names[0]
