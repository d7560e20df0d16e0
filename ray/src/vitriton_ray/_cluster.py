"""Ray: the cluster of a job, and the job as a Ray Data pipeline of one stage."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import typer
from vitriton._console.diagnosis import how_to_install
from vitriton._console.failure import CommandFailed
from vitriton._console.progress import count

from vitriton_ray._options import RayOptions
from vitriton_ray._worker import EmbedShards, Report, Work

# A task of Ray for each shard; of more shards than this, a task takes several, as the driver holds all tasks.
_MOST_TASKS = 4096
# Images never pass through Ray's object store: reports do.
_OBJECT_STORE_BYTES = 200_000_000


def quiet_ray() -> None:
    """Has Ray report to nobody, and keep its log to itself: the command says what fails. Before Ray is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


class Cluster:
    """The cluster of a job: one that runs, or one on this machine that lasts as long as a `with` block.

    Args:
        options: the options of the command.
        shards: the number of shards to embed.

    Raises:
        CommandFailed: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, options: RayOptions, shards: int) -> None:
        self._options = options
        self._shards = shards
        self._own = False

    def __enter__(self) -> Cluster:
        quiet_ray()
        try:
            import ray
            import ray.data
        except ImportError as exc:
            raise CommandFailed(
                f"Ray Data cannot be used: {exc}; install it with {how_to_install('vitriton-ray')}"
            ) from exc
        if not ray.is_initialized():
            address = self._options.ray_address or os.environ.get("RAY_ADDRESS")
            more = (
                {"address": address}
                if address
                else {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            )
            try:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **more)
            except (ConnectionError, RuntimeError, ValueError) as exc:
                raise CommandFailed(f"the Ray cluster at {address or 'this machine'} does not answer: {exc}") from exc
            self._own = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._own:
            import ray

            ray.shutdown()

    def run(self, work: Work, shards: Any) -> Iterator[Report]:
        """Has workers embed shards; yields a report for each that is done or cannot be embedded, in any order.

        A worker that dies is started again, and its shards are embedded by the others. The rest of Ray's own failures
        are the errors here.

        Args:
            work: what all workers are told.
            shards: the table of the shards.

        Raises:
            CommandFailed: Ray failed.
        """
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        cpus, gpus = self._share()
        room = self._room(cpus, gpus)
        most = min(self._options.workers or math.inf, self._shards)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        size = math.ceil(shards.num_rows / _MOST_TASKS)
        blocks = [shards.slice(first, size) for first in range(0, shards.num_rows, size)]
        reports = ray.data.from_arrow(blocks).map_batches(
            EmbedShards,
            fn_constructor_args=(work,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=int(most),
                initial_size=int(max(1, min(most, room))),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        try:
            for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    yield Report(**row)
        except ray.exceptions.RayError as exc:
            raise CommandFailed(f"Ray failed: {' '.join(str(exc).split())}") from exc

    def _share(self) -> tuple[float, float]:
        """The cores and GPUs of a worker."""
        import ray

        cpus = self._options.worker_cpus
        if cpus is None:
            of_nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
            whole = min((cores for cores in of_nodes if cores), default=1.0)
            cpus = 1.0 if self._options.repository is None else whole
        return cpus, self._options.worker_gpus

    def _room(self, cpus: float, gpus: float) -> int:
        """The number of workers for which the cluster has room; says it if there is none."""
        import ray

        room = 0
        for node in (node["Resources"] for node in ray.nodes() if node["Alive"]):
            fits = [node.get(name, 0.0) // share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
            room += int(min(fits, default=1.0))
        if not room:
            needs = [count(int(share), name) for name, share in (("core", cpus), ("GPU", gpus)) if share]
            typer.echo(
                f"warning: no node of the cluster has the {' and '.join(needs)} of a worker; the job waits for one "
                "that has (--worker-cpus, --worker-gpus)",
                err=True,
            )
        return room
