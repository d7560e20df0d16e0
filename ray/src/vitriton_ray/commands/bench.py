"""`vitriton bench --bulk`: what a job on Ray costs beside the work itself, and how it scales.

Nodes are raylets of this machine with one core each, and the encoder sleeps: so the work of all nodes together is more
than the machine could do, and all that is left is the job's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from vitriton import Result
from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.paths import target_fault
from vitriton._errors import InvalidOption
from vitriton._storage import Storage
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._cluster import Cluster, quiet_ray
from vitriton_ray._engines import Opened
from vitriton_ray._job import BulkJob, ShardPlan
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._plan import cut
from vitriton_ray._worker import Report, Work

DIMENSION = 768
_OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MiB
_HELP = (
    "Measure what a job on Ray costs beside the work itself, with simulated nodes.\n\n"
    "Each node is a Ray node of this machine with one core, and its encoder sleeps. The efficiency is the rate of all "
    "nodes, divided by their number and by the rate of one. It counts from the moment at which every node has written "
    "a file, as the nodes of one machine cannot start at once."
)
_EXAMPLES = """
vitriton bench --bulk
vitriton bench --bulk --nodes 1,4 --json bulk.json
"""


@dataclass(frozen=True, kw_only=True)
class BulkBench:
    """The options of `vitriton bench --bulk`.

    Attributes:
        nodes: the numbers of nodes, separated by commas.
        row_ms: the time for which the encoder sleeps for each row, in milliseconds.
        shard_rows: the number of rows of a file.
        shards_per_node: the number of files for each node.
        json_file: the JSON file to write all measurements to.
    """

    nodes: Annotated[str, typer.Option(metavar="N,...")] = "1,2,4,8,16"
    row_ms: Annotated[float, typer.Option(metavar="MS")] = 20.0
    shard_rows: Annotated[int, typer.Option(min=1)] = 256
    shards_per_node: Annotated[int, typer.Option(min=2)] = 10
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None

    def numbers(self) -> list[int]:
        """The numbers of nodes.

        Raises:
            InvalidOption: an option is wrong.
        """
        if self.json_file is not None and (fault := target_fault(self.json_file)) is not None:
            raise InvalidOption("json_file", fault)
        if not self.row_ms >= 0:
            raise InvalidOption("row_ms", f"is {self.row_ms:g}; it must be 0 or more")
        parts = self.nodes.split(",")
        if not all(part.isdecimal() and int(part) for part in parts):
            raise InvalidOption("nodes", f"is {self.nodes!r}; give numbers above 0, such as 1,2,4")
        return [int(part) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Sleeping:
    """An encoder that sleeps, and returns zeros.

    Attributes:
        row_s: the time for each row, in seconds.
    """

    row_s: float

    @contextmanager
    def open(self, job: BulkJob) -> Iterator[Opened]:
        """See `Engine`."""
        yield _Asleep(self.row_s)


class _Asleep:
    def __init__(self, row_s: float) -> None:
        self._row_s = row_s
        self._zeros = np.zeros(DIMENSION, np.float32)

    def stream(self, inputs: Iterator[Any]) -> Iterator[Result]:
        """See `Opened`."""
        due_s = time.monotonic()
        for index, _ in enumerate(inputs):
            due_s += self._row_s
            if (left_s := due_s - time.monotonic()) > 0.005:
                time.sleep(left_s)
            yield Result(index, "", self._zeros)

    def check(self) -> None:
        """See `Opened`."""


def register(app: typer.Typer) -> None:
    """Adds the command to an application, for `vitriton bench` to call."""
    app.command("bench", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(bench))


def bench(options: BulkBench) -> None:
    """Measures; the help text is _HELP."""
    points: list[dict[str, float]] = []
    for nodes in options.numbers():
        with _nodes(nodes) as address:
            points.append(_measure(options, nodes, address))
        first = points[0]
        point = points[-1]
        point["efficiency"] = point["rows_per_s"] / nodes / (first["rows_per_s"] / first["nodes"])
        typer.echo(
            f"{nodes:3} nodes: {point['rows_per_s']:8.1f} rows/s, efficiency {point['efficiency']:.2f}, "
            f"first rows after {point['first_s']:.1f} s"
        )
    if options.json_file is not None:
        asked = {name: getattr(options, name) for name in ("row_ms", "shard_rows", "shards_per_node")}
        options.json_file.write_text(f"{json.dumps({**asked, 'points': points}, indent=2)}\n")


def _measure(options: BulkBench, nodes: int, address: str) -> dict[str, float]:
    """The rate of one number of nodes."""
    with tempfile.TemporaryDirectory(prefix="vitriton-bench-") as folder:
        rows = nodes * options.shards_per_node * options.shard_rows
        _write_table(Path(folder) / "rows.parquet", rows)
        job = BulkJob(
            sources=(folder,),
            kind="text",
            value_column="text",
            id_column="id",
            manifest_sha256=None,
            model="asleep",
            fingerprint="asleep",
            dimension=DIMENSION,
        )
        shards = cut([f"{folder}/rows.parquet"], [rows], options.shard_rows)
        plan = ShardPlan(
            rows=rows,
            shards=len(shards),
            shard_rows=options.shard_rows,
            value_column="text",
            id_column="id",
            id_type="int64",
        )
        output = BulkOutput(Storage(), f"{folder}/out")
        output.write_job(job, plan, shards)
        work = Work(job=job, plan=plan, output_uri=output.uri, engine=Sleeping(row_s=options.row_ms / 1000))
        began_s = time.monotonic()
        with Cluster(RayOptions(output=output.uri, ray_address=address), len(shards)) as cluster:
            times = [(time.monotonic(), report) for report in cluster.run(work, output.read_shards())]
    return {"nodes": nodes, "first_s": times[0][0] - began_s, "rows_per_s": _rate(times, nodes)}


def _rate(times: list[tuple[float, Report]], nodes: int) -> float:
    """The rows per second from when every node has written a file."""
    seen: set[str] = set()
    for index, (start_s, report) in enumerate(times):
        seen.add(report.worker)
        if len(seen) == nodes:
            rest = times[index + 1 :]
            return sum(report.rows for _, report in rest) / (rest[-1][0] - start_s)
    return float("nan")


def _write_table(path: Path, rows: int) -> None:
    pa, pq = import_pyarrow("writing", "measure on another machine")
    table = pa.table({"id": pa.array(range(rows)), "text": pa.array(["a row"] * rows)})
    pq.write_table(table, path, row_group_size=65_536)


@contextmanager
def _nodes(number: int) -> Iterator[str]:
    """A cluster of this machine; its head has no core."""
    quiet_ray()
    folder = tempfile.mkdtemp(prefix="vr-", dir="/tmp")  # names of sockets are short
    (Path(folder) / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = folder  # else it would be the cluster that other programs of this machine find
    from ray.cluster_utils import Cluster as Nodes

    own = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, **own})
    try:
        for _ in range(number):
            nodes.add_node(num_cpus=1, **own)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        with contextlib.suppress(Exception):  # its processes may be gone already
            nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
