"""Triton with one ensemble of an export. All servers run all the time, so that rounds can alternate."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from vitriton import Client
from vitriton._repository.names import ENSEMBLES, Kind
from vitriton_bench._load.point import Protocol
from vitriton_bench._load.target import Target
from vitriton_bench._statistics.source import StatisticsSource, TokenCounts
from vitriton_bench._sweep.server import serve
from vitriton_server import TritonServer

from report.rounds.speed import Sample, drive, pace

Inputs = Sequence[bytes] | Sequence[str]

_CALL_S = 600.0


class Served:
    """A Triton with one ensemble of an export.

    Args:
        server: the running Triton.
        client: a client of that server.
        name: the name of the export.
        kind: the ensemble.
        inputs: the encoded images, or the texts.
        graph_bytes: the bytes of the graphs that the server has loaded.
    """

    def __init__(
        self, server: TritonServer, client: Client, name: str, kind: Kind, inputs: Inputs, graph_bytes: int
    ) -> None:
        self._server = server
        self._inputs = inputs
        embed: Any = client.embed if ENSEMBLES[kind].tower == "image" else client.embed_texts
        self._embed = functools.partial(embed, pool=ENSEMBLES[kind].pooled)
        self.name = name
        self.kind = kind
        self.graph_bytes = graph_bytes

    def embed(self, inputs: Inputs) -> npt.NDArray[Any]:
        """Embeds images or texts, (N, D)."""
        made: npt.NDArray[Any] = self._embed(list(inputs))
        return made

    def sample(self, callers: int, seconds: float) -> Sample:
        """Measures the speed for this number of callers, over gRPC."""
        return drive(self._embed, self._inputs, callers, seconds)

    def paced(self, rate: float, seconds: float) -> Sample:
        """Measures the times of requests that come at a rate, over gRPC."""
        return pace(self._embed, self._inputs, rate, seconds)

    def tokens(self, texts: Sequence[str]) -> TokenCounts:
        """Counts the tokens that the server makes of texts, each in a request of its own."""
        return StatisticsSource(f"grpc://{self._server.grpc_address}").tokens(self.name, texts, 1)

    def target(self, payload: Path) -> Target:
        """The server and its input, for perf_analyzer."""
        addresses: dict[Protocol, str] = {"grpc": self._server.grpc_address, "http": self._server.http_address}
        return Target.of(addresses, payload, self.name, [self.kind])

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid


@contextlib.contextmanager
def served(repository: Path, name: str, kind: Kind, inputs: Inputs, scratch: Path) -> Iterator[Served]:
    """Serves only one ensemble of an export and its two steps, so that its memory can be measured.

    Args:
        repository: the model repository.
        name: the name of the export.
        kind: the ensemble.
        inputs: the encoded images, or the texts.
        scratch: the folder for links.
    """
    shown = scratch / f"{name}-{kind}"
    with (
        serve(repository, name, [kind], shown) as server,
        Client(server.grpc_address, model=name, timeout_s=_CALL_S) as client,
    ):
        graph_bytes = sum(path.stat().st_size for path in shown.glob("*/*/model.onnx*"))
        yield Served(server, client, name, kind, inputs, graph_bytes)
