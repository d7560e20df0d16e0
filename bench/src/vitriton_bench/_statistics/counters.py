"""What Triton has counted of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a model has counted since it was loaded.

    Attributes:
        requests: answered.
        images: in them.
        executions: batches that were computed.
        request_ns: from the arrival of a request to its answer, all requests together.
        queue_ns: of that, in the queue.
        input_ns: of that, copying inputs.
        infer_ns: of that, computing.
        output_ns: of that, copying outputs.
        busy_ns: time in which a batch was copied in, computed and copied out, each batch counted once.
        inside_ns: of that, computing.
    """

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

    def since(self, before: Counters) -> Counters:
        """What came after an earlier look."""
        return Counters(
            **{entry.name: getattr(self, entry.name) - getattr(before, entry.name) for entry in fields(self)}
        )


def parse(document: Mapping[str, Any]) -> dict[str, Counters]:
    """Triton's answer, as HTTP gives it or as gRPC's converted to a dict → model → its counters.

    Versions of a model are added up.
    """
    totals: dict[str, Counters] = {}
    for entry in document.get("model_stats", []):
        stats = entry.get("inference_stats", {})
        batches = entry.get("batch_stats", [])
        inside = sum(_ns(batch, "compute_infer") for batch in batches)
        own = Counters(
            requests=_count(stats, "success"),
            images=int(entry.get("inference_count", 0)),
            executions=int(entry.get("execution_count", 0)),
            request_ns=_ns(stats, "success"),
            queue_ns=_ns(stats, "queue"),
            input_ns=_ns(stats, "compute_input"),
            infer_ns=_ns(stats, "compute_infer"),
            output_ns=_ns(stats, "compute_output"),
            busy_ns=inside + sum(_ns(batch, "compute_input") + _ns(batch, "compute_output") for batch in batches),
            inside_ns=inside,
        )
        known = totals.get(entry["name"], Counters())
        totals[entry["name"]] = Counters(
            **{part.name: getattr(own, part.name) + getattr(known, part.name) for part in fields(own)}
        )
    return totals


def _ns(stats: Mapping[str, Any], name: str) -> int:
    return int(stats.get(name, {}).get("ns", 0))  # gRPC's dict has 64-bit numbers as text


def _count(stats: Mapping[str, Any], name: str) -> int:
    return int(stats.get(name, {}).get("count", 0))
