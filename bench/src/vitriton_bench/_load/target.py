"""The server under load, and the input for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitriton._repository.names import Kind, ensemble_name

from vitriton_bench._load.point import Protocol
from vitriton_bench._statistics.source import StatisticsSource

_ELEMENT_BYTES = {"FP16": 2, "FP32": 4}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, and the input to send to it.

    Attributes:
        addresses: the server's `host:port`, by protocol.
        payload: the input file of perf_analyzer.
        output_bytes: the bytes of a response for one image, by kind; 0 if they depend on the image.
    """

    addresses: dict[Protocol, str]
    payload: Path
    output_bytes: dict[Kind, int]

    @classmethod
    def of(cls, addresses: dict[Protocol, str], payload: Path, name: str, kinds: Sequence[Kind]) -> Target:
        """Asks the server for the sizes of an export's outputs.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        source = _source(addresses)
        sizes = {kind: _output_bytes(source, ensemble_name(name, kind)) for kind in kinds}
        return cls(addresses=addresses, payload=payload, output_bytes=sizes)

    def source(self) -> StatisticsSource:
        """The source of the server's statistics."""
        return _source(self.addresses)


def _source(addresses: dict[Protocol, str]) -> StatisticsSource:
    scheme: Protocol = "grpc" if "grpc" in addresses else "http"
    return StatisticsSource(f"{scheme}://{addresses[scheme]}")


def _output_bytes(source: StatisticsSource, model: str) -> int:
    outputs = source.config(model).outputs.values()
    return sum(max(math.prod(output.shape), 0) * _ELEMENT_BYTES.get(output.datatype, 4) for output in outputs)
