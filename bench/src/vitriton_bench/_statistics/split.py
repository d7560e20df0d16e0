"""The split of a request's time, by the counters of an ensemble and its two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitriton._repository.names import Tower
from vitriton._wire.statistics import ModelStatistics

SPLIT = ("client", "queue", "preprocess", "encode", "copies", "other")
FIRST_STEP: Mapping[Tower, str] = {"image": "preprocessing", "text": "tokenizing"}
BUSY = 0.85  # part of the time; a step that is busy for longer has no capacity left


@dataclass(frozen=True, kw_only=True)
class EnsembleSteps:
    """The models of an ensemble.

    Attributes:
        ensemble: the name of the model that clients call.
        preprocess: the name of the step that takes the image or the text.
        encoder: the name of the last step.
        instances: the number of instances that run in parallel, by step.
    """

    ensemble: str
    preprocess: str
    encoder: str
    instances: Mapping[str, int]

    @property
    def names(self) -> tuple[str, str, str]:
        """The names of the ensemble and its steps."""
        return (self.ensemble, self.preprocess, self.encoder)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The average split of a request's time, in seconds.

    Attributes:
        client_s: the callers' wait beyond the server's time: the client, the network, decoding messages.
        queue_s: the time waiting for a busy step.
        preprocess_s: the time in the first step: decoding and resizing, or tokenizing.
        encode_s: the time in the encoder.
        copies_s: the time copying tensors into and out of the steps.
        other_s: the remaining time, between the steps.
        inputs_per_batch: the average number of images or texts in a batch of the encoder.
        preprocess_busy: the part of the time in which the first step worked, over all its instances.
        encode_busy: the part of the time in which the encoder worked, over all its instances.
    """

    client_s: float
    queue_s: float
    preprocess_s: float
    encode_s: float
    copies_s: float
    other_s: float
    inputs_per_batch: float
    preprocess_busy: float
    encode_busy: float


def split(
    before: Mapping[str, ModelStatistics],
    after: Mapping[str, ModelStatistics],
    steps: EnsembleSteps,
    *,
    client_s: float,
    inputs_per_s: float,
) -> Split | None:
    """The split between two readings of the counters.

    Args:
        before: the counters before the measurement.
        after: the counters after the measurement.
        steps: the models of the ensemble.
        client_s: the client's mean latency.
        inputs_per_s: the client's throughput; multiplied by a step's time for an input, it gives the step's busy part,
            whatever else happened between the readings.

    Returns:
        The split; None if no request was answered between the readings.
    """
    ensemble, pre, enc = (after[name].since(before.get(name, ModelStatistics(name=name))) for name in steps.names)
    if not (ensemble.requests and pre.requests and pre.images and enc.requests and enc.executions and enc.images):
        return None
    request_s = ensemble.request_ns / ensemble.requests * 1e-9
    queue_s = sum(step.queue_ns / step.requests for step in (pre, enc)) * 1e-9
    copies_s = sum((step.input_ns + step.output_ns) / step.requests for step in (pre, enc)) * 1e-9
    preprocess_s, encode_s = (step.infer_ns / step.requests * 1e-9 for step in (pre, enc))
    return Split(
        client_s=max(client_s - request_s, 0.0),
        queue_s=queue_s,
        preprocess_s=preprocess_s,
        encode_s=encode_s,
        copies_s=copies_s,
        other_s=max(request_s - queue_s - copies_s - preprocess_s - encode_s, 0.0),
        inputs_per_batch=enc.images / enc.executions,
        preprocess_busy=_busy(pre, inputs_per_s, steps.instances.get(steps.preprocess, 1)),
        encode_busy=_busy(enc, inputs_per_s, steps.instances.get(steps.encoder, 1)),
    )


def bottleneck(parts: Split, tower: Tower) -> str:
    """The part that would have to be faster, or more."""
    if parts.encode_busy >= BUSY and parts.encode_busy >= parts.preprocess_busy:
        return "encoder"
    if parts.preprocess_busy >= BUSY:
        return FIRST_STEP[tower]
    if parts.client_s > max(parts.encode_s, parts.preprocess_s):
        return "client and wire"
    return "too few callers"


def _busy(step: ModelStatistics, inputs_per_s: float, instances: int) -> float:
    return min(step.busy_ns * 1e-9 / step.images * inputs_per_s / instances, 1.0)
