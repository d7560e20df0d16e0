"""What embeds, in each worker: a client of served Tritons, or a Triton of the worker's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vitriton import Client, ContractMismatch, Options
from vitriton._console.failure import CommandFailed
from vitriton._errors import InvalidOption
from vitriton._repository.disk import fingerprint, parse_config
from vitriton._repository.names import Tower, ensemble_name, kind_of, read_ensemble_name
from vitriton._storage import Storage

from vitriton_ray._job import BulkJob

# Requests of a worker on their way: a shard has enough rows for more than the client's default.
_IN_FLIGHT = 8


class Opened(Protocol):
    """What embeds, ready to use."""

    def stream(self, inputs: Iterator[Any]) -> Any:
        """Embeds inputs; a generator of `vitriton.Result`, in order."""

    def check(self) -> None:
        """Checks that all vectors so far are of the job's embedding space.

        Raises:
            ClientError: they need not be, or no server says.
        """


class Engine(Protocol):
    """What embeds, as the driver describes it to the workers."""

    def open(self, job: BulkJob) -> AbstractContextManager[Opened]:
        """Opens it in a worker, for a `with` block.

        Raises:
            VitritonError: it cannot be opened.
        """


@dataclass(frozen=True, kw_only=True)
class ServedEngine:
    """Tritons that run somewhere. Requests take turns, and a server that fails gets none until it answers again.

    Attributes:
        address: their addresses, separated by commas.
        connection: the arguments `tls`, `token` and `headers` of the client.
        timeout_s: the longest wait for an answer of any of them, in seconds.
    """

    address: str
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout_s: float = 600.0

    @contextmanager
    def open(self, job: BulkJob) -> Iterator[Opened]:
        """See `Engine`."""
        with Client(
            self.address,
            model=job.model,
            timeout_s=self.timeout_s,
            options=Options(max_in_flight=_IN_FLIGHT),
            preprocess=job.preprocess,
            expect_fingerprint=job.fingerprint,
            **self.connection,
        ) as client:
            yield _Calls(client, job)


@dataclass(frozen=True, kw_only=True)
class EmbeddedEngine:
    """A Triton in each worker, on a repository that is fetched once for each node.

    Attributes:
        repository: the URI of the repository, or its path on every node.
        timeout_s: the longest wait for an answer, in seconds.
    """

    repository: str
    timeout_s: float = 600.0

    @contextmanager
    def open(self, job: BulkJob) -> Iterator[Opened]:
        """See `Engine`."""
        from vitriton_server import TritonServer, WatchPolicy

        folder = fetch_repository(self.repository)
        with (
            TritonServer(folder, watch=WatchPolicy(restart=True)) as server,
            ServedEngine(address=server.grpc_address, timeout_s=self.timeout_s).open(job) as opened,
        ):
            yield opened


class _Calls:
    """The calls of a worker to a client."""

    def __init__(self, client: Client, job: BulkJob) -> None:
        self._client = client
        self._job = job

    def stream(self, inputs: Iterator[Any]) -> Any:
        """See `Opened`."""
        if self._job.kind == "text":
            return self._client.stream_texts(inputs, prompt=self._job.prompt or "")
        return self._client.stream(inputs)

    def check(self) -> None:
        """See `Opened`."""
        if self._client.describe().fingerprint != self._job.fingerprint:
            raise ContractMismatch(
                f"the export of {self._job.model} on a server has changed during the run, and vectors of two exports "
                "must not be mixed",
                model=self._job.model,
            )


def fetch_repository(uri: str) -> Path:
    """The folder of a repository on this machine: itself, or a copy that all workers of this machine share.

    The copy is known by the names, sizes and times of the files.

    Raises:
        OSError: the store failed, or the disk is full.
        InvalidOption: the store cannot be opened.
    """
    from filelock import FileLock  # of ray

    place = Storage().place(uri)
    if place.files.type_name == "local":
        return Path(place.path)
    found = (info for info in place.entries(recursive=True) if info.is_file)
    files = sorted((info.path, info.size, info.mtime_ns) for info in found)
    key = hashlib.sha256(repr((uri, files)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"vitriton-{os.getuid()}" / key
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            draft = folder.with_name(f"{key}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            for path, _, _ in files:
                target = draft / place.below(path).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with place.files.open_input_stream(path) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            draft.rename(folder)
    return folder


class ReadModel(NamedTuple):
    """A model of a repository that no server has loaded yet.

    Attributes:
        name: the name of the export.
        fingerprint: the fingerprint of its embedding space; None if it has none.
        dimension: the number of floats of a vector; -1 if that is open.
    """

    name: str
    fingerprint: str | None
    dimension: int


def read_model(storage: Storage, repository: str, name: str | None, tower: Tower) -> ReadModel:
    """Reads what a repository says of a model.

    Args:
        storage: the stores.
        repository: the URI of the repository.
        name: the name of the export; None: the only one with that tower.
        tower: the tower that is needed.

    Raises:
        CommandFailed: there is no such model, or there are several.
        InvalidOption: the repository cannot be read.
    """
    place, kind = storage.place(repository), kind_of(True, tower)
    try:
        inside = place.entries()
    except OSError as exc:
        raise InvalidOption("repository", f"{repository} cannot be read: {' '.join(str(exc).split())}") from exc
    found = (read_ensemble_name(info.base_name) for info in inside)
    names = sorted(each[0] for each in found if each is not None and each[1] == kind)
    if name is None and len(names) != 1:
        has = (
            f"several models for {tower}s; choose one with --model: {', '.join(names)}"
            if names
            else f"no model for {tower}s"
        )
        raise CommandFailed(f"the repository {repository} has {has}")
    if name is not None and name not in names:
        raise CommandFailed(
            f"the repository {repository} has no model {name} for {tower}s; it has {', '.join(names) or 'none'}"
        )
    name = name or names[0]
    folder = place / ensemble_name(name, kind)
    with folder.files.open_input_stream((folder / "config.pbtxt").path) as file:
        config = parse_config(file.read().decode())
    if config is None:
        raise CommandFailed(f"the configuration of {ensemble_name(name, kind)} in {repository} cannot be read")
    dims = list(config.output[0].dims)
    return ReadModel(name, fingerprint(config), dims[0] if len(dims) == 1 else -1)
