"""Triton with one ensemble of an export. All servers run all the time, so that rounds can alternate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from vitriton import Client
from vitriton._repository.names import Kind
from vitriton_bench._load.point import Protocol
from vitriton_bench._load.target import Target
from vitriton_bench._sweep.server import serve
from vitriton_server import TritonServer

from report.rounds.speed import Sample, drive

_CALL_S = 600.0


class Served:
    """A Triton with one ensemble of an export.

    Args:
        server: the running Triton.
        client: a client of that server.
        name: the name of the export.
        kind: the ensemble.
        images: the encoded images.
        graph_bytes: the bytes of the graphs that the server has loaded.
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
        """Embeds images, (N, D)."""
        return self._client.embed(list(images), pool=self.kind == "pooled")

    def sample(self, callers: int, seconds: float) -> Sample:
        """Measures the speed for this number of callers, over gRPC."""
        pool = self.kind == "pooled"
        return drive(lambda image: self._client.embed(image, pool=pool), self._images, callers, seconds)

    def target(self, payload: Path) -> Target:
        """The server and its input, for perf_analyzer."""
        addresses: dict[Protocol, str] = {"grpc": self._server.grpc_address, "http": self._server.http_address}
        return Target.of(addresses, payload, self.name, [self.kind])

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid


@contextlib.contextmanager
def served(repository: Path, name: str, kind: Kind, images: Sequence[bytes], scratch: Path) -> Iterator[Served]:
    """Serves only one ensemble of an export and its two steps, so that its memory can be measured.

    Args:
        repository: the model repository.
        name: the name of the export.
        kind: the ensemble.
        images: the encoded images.
        scratch: the folder for links.
    """
    shown = scratch / f"{name}-{kind}"
    with (
        serve(repository, name, [kind], shown) as server,
        Client(server.grpc_address, model=name, timeout_s=_CALL_S) as client,
    ):
        graph_bytes = sum(path.stat().st_size for path in shown.glob("*/*/model.onnx*"))
        yield Served(server, client, name, kind, images, graph_bytes)
