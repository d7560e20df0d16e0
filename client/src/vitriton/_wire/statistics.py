"""What the models of a Triton have counted. Source: docs/protocol/extension_statistics.md of the Triton server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What a version of a model has counted since it was loaded. Times are sums, in nanoseconds.

    Attributes:
        name: the name of the model.
        version: its version; empty for the sum of several.
        requests: the requests that it has answered.
        images: the images in them.
        executions: the batches that it has computed.
        request_ns: the time from the arrival of a request to its answer.
        queue_ns: the part of it in the queue.
        input_ns: the part of it in which inputs are copied.
        infer_ns: the part of it in which outputs are computed.
        output_ns: the part of it in which outputs are copied.
        busy_ns: the time in which a batch is copied in, computed and copied out; each batch counts once.
        inside_ns: the part of that in which it is computed.
    """

    name: str
    version: str = ""
    requests: int = 0
    images: int = 0
    executions: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    busy_ns: int = 0
    inside_ns: int = 0

    def plus(self, other: ModelStatistics, sign: int = 1) -> ModelStatistics:
        """The sum of two, of one model."""
        counts = (entry.name for entry in fields(self) if entry.name not in ("name", "version"))
        return ModelStatistics(
            name=self.name, **{count: getattr(self, count) + sign * getattr(other, count) for count in counts}
        )

    def since(self, before: ModelStatistics) -> ModelStatistics:
        """What came after an earlier look."""
        return self.plus(before, -1)


def by_model(statistics: Iterable[ModelStatistics]) -> dict[str, ModelStatistics]:
    """The sum of the versions of each model."""
    totals: dict[str, ModelStatistics] = {}
    for entry in statistics:
        totals[entry.name] = totals.get(entry.name, ModelStatistics(name=entry.name)).plus(entry)
    return totals


def read_statistics(document: Mapping[str, Any]) -> list[ModelStatistics]:
    """Reads Triton's answer: the JSON of HTTP, or the message of gRPC as a dict, in which numbers are texts.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: it is something else.
    """
    return [_read(entry) for entry in document.get("model_stats", [])]


def _read(entry: Mapping[str, Any]) -> ModelStatistics:
    stats = entry.get("inference_stats", {})
    batches = entry.get("batch_stats", [])
    inside_ns = sum(_ns(batch, "compute_infer") for batch in batches)
    return ModelStatistics(
        name=str(entry["name"]),
        version=str(entry.get("version", "")),
        requests=int(stats.get("success", {}).get("count", 0)),
        images=int(entry.get("inference_count", 0)),
        executions=int(entry.get("execution_count", 0)),
        request_ns=_ns(stats, "success"),
        queue_ns=_ns(stats, "queue"),
        input_ns=_ns(stats, "compute_input"),
        infer_ns=_ns(stats, "compute_infer"),
        output_ns=_ns(stats, "compute_output"),
        busy_ns=inside_ns + sum(_ns(batch, "compute_input") + _ns(batch, "compute_output") for batch in batches),
        inside_ns=inside_ns,
    )


def _ns(stats: Mapping[str, Any], name: str) -> int:
    return int(stats.get(name, {}).get("ns", 0))
