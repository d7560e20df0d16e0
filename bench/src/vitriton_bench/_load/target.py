"""The server under load, and the input for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitriton._repository.names import Kind, ensemble_name
from vitriton._served.texts import read_text_rules

from vitriton_bench._load.point import Protocol
from vitriton_bench._statistics.source import StatisticsSource

_ELEMENT_BYTES = {"FP16": 2, "FP32": 4}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, and the input to send to it.

    Attributes:
        addresses: the server's `host:port`, by protocol.
        payload: the input file of perf_analyzer.
        output_bytes: the bytes of the largest response for one input, by kind; 0 if they have no bound.
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
    config = source.config(model)
    longest = _most_tokens(config.parameters)
    shapes = [
        ([longest if size < 0 else size for size in output.shape], output.datatype)
        for output in config.outputs.values()
    ]
    return sum(math.prod(shape) * _ELEMENT_BYTES.get(datatype, 4) for shape, datatype in shapes)


def _most_tokens(parameters: Mapping[str, str]) -> int:
    """The most tokens of a text; 0 for a model of images."""
    try:
        return read_text_rules(parameters).max_length
    except ValueError:
        return 0
