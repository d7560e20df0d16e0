"""Triton's own statistics: what each model of a server has counted, and where the time of a request went."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from vitriton._wire.channel import CHANNEL_OPTIONS

from vitriton_bench._errors import BenchError

_CALL_S = 30.0
# Without the proxies of the environment: the server is near, and the loads do not use them either.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
BUSY = 0.85  # of the time: a step that computes more than that has no room left


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


@dataclass(frozen=True, kw_only=True)
class Steps:
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
        encode_busy: the same of the encoder.
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
    before: Mapping[str, Counters], after: Mapping[str, Counters], steps: Steps, *, client_s: float, images_per_s: float
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
    ensemble, pre, enc = (after[name].since(before.get(name, Counters())) for name in steps.names)
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


def _busy(step: Counters, images_per_s: float, instances: int) -> float:
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


class Source:
    """Asks one server, over HTTP or gRPC.

    Args:
        scheme: "http" or "grpc".
        target: `host:port`.
    """

    def __init__(self, scheme: str, target: str) -> None:
        self._scheme = scheme
        self._target = target

    def look(self, models: Iterable[str]) -> dict[str, Counters]:
        """The counters of these models, now.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        answers = [self._ask(f"v2/models/{name}/stats", "get_inference_statistics", name) for name in models]
        return {name: counters for answer in answers for name, counters in parse(answer).items()}

    def steps(self, ensemble: str) -> Steps:
        """What an ensemble is made of.

        Raises:
            BenchError: the server does not answer, has no such model, or it is not an ensemble of two steps.
        """
        config = self.config(ensemble)
        names = [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])]
        if len(names) != 2:
            raise BenchError(
                f"{ensemble} is not an ensemble of two steps, as `vitriton export` makes them, but has {len(names)}"
            )
        return Steps(
            ensemble=ensemble,
            preprocess=names[0],
            encoder=names[1],
            instances={name: _instances(self.config(name)) for name in names},
        )

    def config(self, model: str) -> dict[str, Any]:
        """A model's configuration, as Triton completed it.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        answer = self._ask(f"v2/models/{model}/config", "get_model_config", model)
        found: dict[str, Any] = answer.get("config", answer)  # gRPC's is inside of a message
        return found

    def _ask(self, path: str, method: str, model: str) -> dict[str, Any]:
        try:
            if self._scheme == "http":
                with _DIRECT.open(f"http://{self._target}/{path}", timeout=_CALL_S) as response:
                    answer: dict[str, Any] = json.load(response)
                    return answer
            import tritonclient.grpc

            with tritonclient.grpc.InferenceServerClient(self._target, channel_args=list(CHANNEL_OPTIONS)) as client:
                return dict(getattr(client, method)(model, as_json=True, client_timeout=_CALL_S))
        except Exception as exc:  # urllib's, tritonclient's and gRPC's own have no base in common
            raise BenchError(
                f"{self._scheme}://{self._target} does not tell about the model {model}: {exc}; is a Triton running "
                "there, and does it serve that model (`vitriton models` lists them)?"
            ) from exc


def _instances(config: Mapping[str, Any]) -> int:
    return sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
