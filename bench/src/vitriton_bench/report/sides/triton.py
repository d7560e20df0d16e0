"""The servers of a report, Triton and peers; all of them run throughout, so that rounds can alternate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from vitriton import Client
from vitriton._names import Kind, model_names
from vitriton_server import TritonServer, WatchPolicy

from vitriton_bench._errors import BenchError
from vitriton_bench._load.point import Target
from vitriton_bench._machine import resident_bytes
from vitriton_bench._statistics.statistics import Source
from vitriton_bench.report.rounds.speed import Sample, drive
from vitriton_bench.report.sides.litserve import LitServe

_CALL_S = 600.0
_ELEMENT_BYTES = {"TYPE_FP16": 2, "TYPE_FP32": 4}


class Served:
    """A Triton with one ensemble of an export.

    Args:
        server: it.
        client: of it.
        name: of the export.
        kind: of the ensemble.
        images: encoded.
        graph_bytes: of the graphs that it has loaded.
    """

    def __init__(
        self, server: TritonServer, client: Client, name: str, kind: Kind, images: Sequence[bytes], graph_bytes: int
    ) -> None:
        self._server = server
        self._client = client
        self._images = images
        self.name = name
        self.kind = kind
        self.graph_bytes = graph_bytes

    def embed(self, images: Sequence[bytes]) -> npt.NDArray[Any]:
        """(N, D)."""
        return self._client.embed(list(images), pool=self.kind == "pooled")

    def sample(self, callers: int, seconds: float) -> Sample:
        """The speed that so many callers get, over gRPC."""
        pool = self.kind == "pooled"
        return drive(lambda image: self._client.embed(image, pool=pool), self._images, callers, seconds)

    def target(self, payload: Path) -> Target:
        """For perf_analyzer."""
        addresses = {"grpc": self._server.grpc_address, "http": self._server.http_address}
        return target(addresses, payload, self.name, [self.kind])

    def resident_bytes(self) -> dict[str, int]:
        """Memory of all its processes."""
        return resident_bytes(self._server.pid)


def target(addresses: Any, payload: Path, name: str, kinds: Sequence[Kind]) -> Target:
    """What perf_analyzer needs to know of a server; asks it how large its answers are.

    Raises:
        BenchError: the server does not answer, or has no such model.
    """
    known = Target(addresses=addresses, payload=payload, output_bytes={})
    source = known.source()
    return Target(
        addresses=addresses,
        payload=payload,
        output_bytes={kind: output_bytes(source, f"{name}_{kind}") for kind in kinds},
    )


def output_bytes(source: Source, model: str) -> int:
    """Of a model's answer for one image; 0 where that depends on the image."""
    total = 0
    for output in source.config(model).get("output", []):
        elements = int(np.prod([int(size) for size in output["dims"]]))
        total += max(elements, 0) * _ELEMENT_BYTES.get(output["data_type"], 4)
    return total


def view(repository: Path, name: str, kinds: Sequence[Kind], folder: Path) -> Path:
    """A folder with links to some ensembles of an export and their steps, so that nothing else is served.

    Raises:
        BenchError: the repository has no such export.
    """
    folder.mkdir(parents=True)
    for model in model_names(name, kinds):
        source = repository / model
        if not (source / "config.pbtxt").is_file():
            raise BenchError(f"{repository} has no model {model}; export it, or name another --repository")
        (folder / model).symlink_to(source.resolve())
    return folder


@contextlib.contextmanager
def served(repository: Path, name: str, kind: Kind, images: Sequence[bytes], scratch: Path) -> Iterator[Served]:
    """Serves one ensemble of an export and its two steps, and nothing else, so that its memory can be told.

    Args:
        repository: of the export.
        name: of it.
        kind: of the ensemble.
        images: encoded.
        scratch: a folder for links.
    """
    shown = view(repository, name, [kind], scratch / f"{name}-{kind}")
    graph_bytes = sum(path.stat().st_size for path in shown.glob("*/*/model.onnx*"))
    # Without the watch's own questions, which would compute while others are measured.
    with (
        TritonServer(shown, watch=WatchPolicy(canary_interval_s=0)) as server,
        Client(server.grpc_address, model=name, timeout_s=_CALL_S) as client,
    ):
        yield Served(server, client, name, kind, images, graph_bytes)


class Peer:
    """A LitServe that is stopped while it is not asked.

    Args:
        server: it, started.
        images: encoded.
    """

    def __init__(self, server: LitServe, images: Sequence[bytes]) -> None:
        self._server = server
        self._images = images
        server.wait()
        server.pause()

    def embed(self, images: Sequence[bytes]) -> npt.NDArray[Any]:
        """(N, D)."""
        with self._awake():
            return np.stack([self._server.embed(image) for image in images])

    def sample(self, callers: int, seconds: float) -> Sample:
        """The speed that so many callers get, over HTTP."""
        with self._awake():
            return drive(self._server.embed, self._images, callers, seconds)

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._server.resume()
        try:
            yield
        finally:
            self._server.pause()
