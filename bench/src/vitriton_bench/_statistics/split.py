"""Where the time of a request went, by the counters of an ensemble and its two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitriton._wire.statistics import ModelStatistics

SPLIT = ("client", "queue", "preprocess", "encode", "copies", "other")
BUSY = 0.85  # of the time: a step that computes more than that has no room left


@dataclass(frozen=True, kw_only=True)
class EnsembleSteps:
    """What an ensemble is made of.

    Attributes:
        ensemble: what clients call.
        preprocess: the step that takes the image.
        encoder: the last step.
        instances: step → how many of it work at the same time.
    """

    ensemble: str
    preprocess: str
    encoder: str
    instances: Mapping[str, int]

    @property
    def names(self) -> tuple[str, str, str]:
        """All of them."""
        return (self.ensemble, self.preprocess, self.encoder)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the time of a request went, on average, in seconds.

    Attributes:
        client_s: what callers waited longer than the server took: the client, the network, the decoding of messages.
        queue_s: waiting for a step that is busy.
        preprocess_s: decoding and resizing.
        encode_s: the encoder.
        copies_s: tensors on their way into and out of the steps.
        other_s: the rest, between the steps.
        images_per_batch: how many images the encoder had in a batch.
        preprocess_busy: part of the time in which the step worked, of all its instances.
        encode_busy: part of the time in which the encoder worked, of all its instances.
    """

    client_s: float
    queue_s: float
    preprocess_s: float
    encode_s: float
    copies_s: float
    other_s: float
    images_per_batch: float
    preprocess_busy: float
    encode_busy: float


def split(
    before: Mapping[str, ModelStatistics],
    after: Mapping[str, ModelStatistics],
    steps: EnsembleSteps,
    *,
    client_s: float,
    images_per_s: float,
) -> Split | None:
    """The difference of two looks.

    Args:
        before: the counters before the measurement.
        after: those after it.
        steps: the ensemble's.
        client_s: mean latency that the client saw.
        images_per_s: throughput that the client saw; times a step's time for an image it is the step's share,
            whatever else happened between the two looks.

    Returns:
        None where no request was answered between the two.
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
        images_per_batch=enc.images / enc.executions,
        preprocess_busy=_busy(pre, images_per_s, steps.instances.get(steps.preprocess, 1)),
        encode_busy=_busy(enc, images_per_s, steps.instances.get(steps.encoder, 1)),
    )


def _busy(step: ModelStatistics, images_per_s: float, instances: int) -> float:
    return min(step.busy_ns * 1e-9 / step.images * images_per_s / instances, 1.0)


def bottleneck(parts: Split) -> str:
    """What would have to be faster, or more."""
    if parts.encode_busy >= BUSY and parts.encode_busy >= parts.preprocess_busy:
        return "encoder"
    if parts.preprocess_busy >= BUSY:
        return "preprocessing"
    if parts.client_s > max(parts.encode_s, parts.preprocess_s):
        return "client and wire"
    return "too few callers"
