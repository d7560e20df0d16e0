"""The loads that can be put on a server."""

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
        batch: the number of images or texts in a request.
        concurrency: the number of callers that never pause; 0 for requests at a rate.
        rate: the requests a second, whether earlier ones are answered or not; None for callers.
        arrivals: the distribution of the intervals between requests at a rate.
        shared_memory: the kind of shared memory for inputs and outputs, or none.
    """

    kind: Kind = "pooled"
    protocol: Protocol = "grpc"
    batch: int = 1
    concurrency: int = 1
    rate: float | None = None
    arrivals: Arrivals = "constant"
    shared_memory: SharedMemory = "none"

    def __str__(self) -> str:
        """The name of the load in tables."""
        return names.load(asdict(self))


def grid(
    kinds: Sequence[Kind],
    protocols: Sequence[Protocol],
    batches: Sequence[int],
    concurrencies: Sequence[int],
    shared_memories: Sequence[SharedMemory],
) -> list[Point]:
    """The points for every combination."""
    return [
        Point(kind=kind, protocol=protocol, batch=batch, concurrency=concurrency, shared_memory=shared)
        for kind, protocol, shared, batch, concurrency in itertools.product(
            kinds, protocols, shared_memories, batches, concurrencies
        )
    ]


def at_rate(point: Point, rate: float, arrivals: Arrivals) -> Point:
    """The same load, with requests at a rate."""
    return replace(point, concurrency=0, rate=rate, arrivals=arrivals)
