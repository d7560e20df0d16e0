"""`--dry-run`: how much there is to do, and how long it takes by a measured rate."""

from __future__ import annotations

import json
import tempfile
import time

import typer
from vitriton._console.progress import count, duration, step
from vitriton._storage import Storage

from vitriton_ray._engines import Engine
from vitriton_ray._inputs import JobInputs
from vitriton_ray._job import BulkJob
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._plan import make_plan
from vitriton_ray._worker import Work, embed_rows

_SAMPLE = 512  # rows; of several tables, of the first


def estimate(options: RayOptions, storage: Storage, inputs: JobInputs, job: BulkJob, engine: Engine) -> None:
    """Says how many rows there are, how large inputs and output are, how long one worker would take, and what it costs.

    Nothing is written to the output. A sample of the rows is embedded, twice: the first time warms the servers.

    Raises:
        VitritonError, OSError: the job could not begin either.
    """
    with tempfile.TemporaryDirectory(prefix="vitriton-dry-run-") as folder:
        with step("Listing the rows", quiet=options.quiet):
            _, plan, shards = make_plan(storage, inputs, BulkOutput(storage, folder), options.shard_rows)
        work = Work(job=job, plan=plan, output_uri=folder, engine=engine)
        with step("Embedding a sample", quiet=options.quiet), engine.open(job) as opened:
            sample = shards[0]._replace(rows=min(shards[0].rows, _SAMPLE))
            embed_rows(storage, work, sample, opened)
            began_s = time.monotonic()
            done, reading = embed_rows(storage, work, sample, opened)
            rate = len(done) / (time.monotonic() - began_s)
    rows, hours = plan.rows, plan.rows / rate / 3600
    document = {
        f"{job.noun}s": rows,
        "files": len(shards),
        "input_bytes": round(reading.read_bytes / len(done) * rows),
        "output_bytes": rows * job.dimension * (4 if job.dtype == "float32" else 2),
        "sample": len(done),
        "sample_failed": sum(row.error is not None for row in done),
        f"{job.noun}s_per_s": round(rate, 1),
        "worker_hours": round(hours, 3),
    }
    if options.price_per_hour is not None:
        document["cost"] = round(hours * options.price_per_hour, 2)
    if options.as_json:
        typer.echo(json.dumps(document))
        return
    typer.echo(
        f"{count(rows, job.noun)} in {count(len(shards), 'file')}: some {_size(document['input_bytes'])} to read and "
        f"{_size(document['output_bytes'])} to write.\n"
        f"One worker, on this machine, embeds {rate:.1f} {job.noun}s/s (a sample of {len(done)}, "
        f"{document['sample_failed']} with an error). All would take it {duration(hours * 3600)}. More workers take as "
        "many times less, until the servers, the store or the network cannot do more."
    )
    if options.price_per_hour is not None:
        typer.echo(
            f"At {options.price_per_hour:.2f} an hour, the workers cost {document['cost']:.2f}, however many there are."
        )


def _size(size: float) -> str:
    """A number of bytes as text, like 3.1 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
