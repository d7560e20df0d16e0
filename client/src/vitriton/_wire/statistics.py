"""The statistics of Triton's models. Source: docs/protocol/extension_statistics.md of the Triton server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """The counters of a model version since it was loaded. Times are sums, in nanoseconds.

    Attributes:
        name: the name of the model.
        version: the version of the model; empty for the sum of several.
        requests: the number of answered requests.
        images: the number of images in these requests.
        executions: the number of executed batches.
        request_ns: the time from a request's arrival to its response.
        queue_ns: the part of request_ns spent in the queue.
        input_ns: the part of request_ns spent copying inputs.
        infer_ns: the part of request_ns spent computing outputs.
        output_ns: the part of request_ns spent copying outputs.
        busy_ns: the time spent copying in, computing and copying out a batch; each batch counts once.
        inside_ns: the part of busy_ns spent computing.
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
        """The sum of two counters of one model."""
        counts = (entry.name for entry in fields(self) if entry.name not in ("name", "version"))
        return ModelStatistics(
            name=self.name, **{count: getattr(self, count) + sign * getattr(other, count) for count in counts}
        )

    def since(self, before: ModelStatistics) -> ModelStatistics:
        """The difference to an earlier reading."""
        return self.plus(before, -1)


def by_model(statistics: Iterable[ModelStatistics]) -> dict[str, ModelStatistics]:
    """The sum over the versions of each model."""
    totals: dict[str, ModelStatistics] = {}
    for entry in statistics:
        totals[entry.name] = totals.get(entry.name, ModelStatistics(name=entry.name)).plus(entry)
    return totals


def read_statistics(document: Mapping[str, Any]) -> list[ModelStatistics]:
    """Reads Triton's response: the JSON of HTTP, or gRPC's message as a dict, where numbers are strings.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: the document has another structure.
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
