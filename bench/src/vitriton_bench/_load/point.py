"""One load on a server, and the server that it is put on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from vitriton._repository.names import Kind

from vitriton_bench._load import names

Protocol = Literal["grpc", "http"]
SharedMemory = Literal["none", "system"]
Arrivals = Literal["constant", "poisson"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A way to load a server.

    Attributes:
        kind: the ensemble.
        protocol: the protocol of the requests.
        batch: images in a request.
        concurrency: callers that never pause; 0 where requests come at a rate.
        rate: requests a second, whether the others are answered or not; None for callers.
        arrivals: how requests at a rate follow each other.
        shared_memory: how images and answers travel.
    """

    kind: Kind = "pooled"
    protocol: Protocol = "grpc"
    batch: int = 1
    concurrency: int = 1
    rate: float | None = None
    arrivals: Arrivals = "constant"
    shared_memory: SharedMemory = "none"

    def __str__(self) -> str:
        """As the tables name it."""
        return names.load(asdict(self))


def grid(
    kinds: Sequence[Kind],
    protocols: Sequence[Protocol],
    batches: Sequence[int],
    concurrencies: Sequence[int],
    shared_memories: Sequence[SharedMemory],
) -> list[Point]:
    """A point for every combination."""
    return [
        Point(kind=kind, protocol=protocol, batch=batch, concurrency=concurrency, shared_memory=shared)
        for kind, protocol, shared, batch, concurrency in itertools.product(
            kinds, protocols, shared_memories, batches, concurrencies
        )
    ]


def at_rate(point: Point, rate: float, arrivals: Arrivals) -> Point:
    """The same load, with requests that come at a rate."""
    return replace(point, concurrency=0, rate=rate, arrivals=arrivals)
