"""A fake server for the tests of applications.

```python
from vitriton import Client, Unavailable
from vitriton.testing import FakeTransport, unavailable

transport = FakeTransport(faults=[unavailable()])  # the first request fails, and the client retries it
with Client("fake", model="any", transport=transport) as client:
    assert client.embed([b"one", b"two"]).shape == (2, 8)
    assert len(transport.requests) == 2
```

Everything above the transport is the real client: batches, retries, deadlines, errors, streams.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._keywords import suggests_keywords
from vitriton._repository import names
from vitriton._wire.statistics import ModelStatistics
from vitriton._wire.transport import (
    CallError,
    Code,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatus,
    ServerMetadata,
    TensorSpec,
)

if TYPE_CHECKING:
    from vitriton.preprocessing import Refusal

__all__ = [
    "CallError",
    "Code",
    "FakePending",
    "FakeTransport",
    "InferReply",
    "InferRequest",
    "busy",
    "invalid_images",
    "invalid_texts",
    "model_died",
    "unavailable",
]


class FakePending:
    """A request to a FakeTransport; it stays open until `finish` or `cancel` is called."""

    def __init__(self, respond: Callable[[], InferReply]) -> None:
        self._respond = respond
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.cancelled = False

    @property
    def is_done(self) -> bool:
        """Whether the request was answered or canceled."""
        return self._done.is_set()

    def finish(self) -> None:
        """Answers the request."""
        with self._lock:
            if self._done.is_set():
                return
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: float | None) -> bool:
        """Waits at most `timeout_s` seconds; returns whether the request is done."""
        return self._done.wait(timeout_s)

    def result(self) -> InferReply:
        """See `vitriton._wire.transport.Pending`."""
        self._done.wait()
        if self.cancelled:
            raise CallError(Code.CANCELLED, "canceled by this client")
        return self._respond()

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """See `vitriton._wire.transport.Pending`."""
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def cancel(self) -> None:
        """See `vitriton._wire.transport.Pending`."""
        if not self._done.is_set():
            self.cancelled = True
            self.finish()


@suggests_keywords
class FakeTransport:
    """Serves a model of any name, from memory. Safe to share between threads.

    It computes an embedding of length 1 from the hash of the input's bytes: equal inputs have equal embeddings, and
    different inputs have different ones. The bytes need not be an image, but no bytes are refused, as by the server.

    Args:
        embed: the function that computes an embedding, (dim,), from the bytes that were sent: an encoded file, raw
            pixels, or a text in UTF-8; None means the hash.
        dim: the length D of an embedding.
        tokens: the number T of tokens of an image for pool=False; each token is the embedding. The tokens of a text are
            its words.
        max_length: the largest number of tokens of a text; a longer one is cut.
        prompts: the model's prompts for texts, by name.
        towers: the towers of the models: "image", "text", or both.
        max_batch_size: the largest number of inputs in a request.
        parameters: the parameters in the models' configuration; the default of `fingerprint` is "fake".
        faults: the outcomes of the requests, one after another: None answers the request, a CallError fails it. All
            later requests are answered.
        answers_at_once: whether each request is answered when it is sent; otherwise the test calls `finish()` of the
            items of `sent`.

    Attributes:
        requests: the requests so far, oldest first.
        timeouts_s: the time limits of these requests, in seconds.
        sent: the pending answers to these requests.
        parameters: the parameters in the models' configuration; a test may change them, as if the server was replaced.
        closed: the number of times that the transport was closed.
    """

    def __init__(
        self,
        *,
        embed: Callable[[bytes], Any] | None = None,
        dim: int = 8,
        tokens: int = 4,
        max_length: int = 256,
        prompts: Mapping[str, str] | None = None,
        towers: Collection[names.Tower] = ("image", "text"),
        max_batch_size: int = 8,
        parameters: Mapping[str, str] | None = None,
        faults: Iterable[CallError | None] = (),
        answers_at_once: bool = True,
    ) -> None:
        self.address = "grpc://fake:8001"
        self.requests: list[InferRequest] = []
        self.timeouts_s: list[float | None] = []
        self.sent: list[FakePending] = []
        self.closed = 0
        self._embed = embed or self._hashed
        self._dim = dim
        self._tokens = tokens
        self._max_length = max_length
        self._prompts = dict(prompts or {})
        self._towers = towers
        self._max_batch_size = max_batch_size
        self.parameters = {"fingerprint": "fake", **(parameters or {})}
        self._faults: Iterator[CallError | None] = iter(faults)
        self._answers_at_once = answers_at_once
        self._lock = threading.Lock()

    def respond(self, request: InferRequest) -> InferReply:
        """Answers a request; a subclass may override it. May raise CallError."""
        rows = np.array([self._embed(bytes(given)) for given in request.images], np.float32)
        counts = self._token_counts(request)
        if request.output_name == names.OUTPUT["unpooled"]:
            rows = np.repeat(rows[:, None], self._tokens if counts is None else counts[:, 0].max(), axis=1)
        reply = InferReply(name=request.output_name, datatype="FP32", shape=rows.shape, data=rows.tobytes())
        if counts is not None:
            reply.beside = (
                InferReply(name=names.TOKEN_COUNTS, datatype="INT32", shape=counts.shape, data=counts.tobytes()),
            )
        return reply

    def server_metadata(self, timeout_s: float | None) -> ServerMetadata:
        """The metadata of the fake server."""
        return ServerMetadata(name="triton", version="0.0.0")

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """Whether the model has the tower."""
        return self._ensemble(model).tower in self._towers

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """The configuration of an ensemble of `vitriton export`, for any name."""
        ensemble = self._ensemble(model)
        if ensemble.tower not in self._towers:
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
        counts = TensorSpec(datatype="INT32", shape=(2,))
        return ModelConfig(
            name=model,
            max_batch_size=self._max_batch_size,
            inputs={ensemble.input: TensorSpec(datatype="BYTES", shape=(1,))},
            outputs={
                ensemble.output: TensorSpec(datatype="FP32", shape=self._shape(ensemble)),
                **dict.fromkeys(ensemble.beside, counts),
            },
            parameters={**(self._text_parameters() if ensemble.tower == "text" else {}), **self.parameters},
        )

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """An empty index, as the fake server serves any model."""
        return []

    def statistics(self, timeout_s: float | None) -> Sequence[ModelStatistics]:
        """An empty list, as the fake server counts nothing."""
        return []

    def send(self, request: InferRequest, timeout_s: float | None) -> FakePending:
        """Takes a request; returns its pending answer."""
        with self._lock:
            fault = next(self._faults, None)
            pending = FakePending(lambda: self._answer(request, fault))
            self.requests.append(request)
            self.timeouts_s.append(timeout_s)
            self.sent.append(pending)
        if self._answers_at_once:
            pending.finish()
        return pending

    def infer(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """Takes a request and waits for its answer."""
        pending = self.send(request, timeout_s)
        if not pending.wait(timeout_s):
            pending.cancel()
            raise CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return pending.result()

    def close(self) -> None:
        """Cancels the open requests."""
        self.closed += 1
        for pending in self.sent:
            pending.cancel()

    def _answer(self, request: InferRequest, fault: CallError | None) -> InferReply:
        if fault is not None:
            raise fault
        empty = [index for index, image in enumerate(request.images) if not len(image)]
        if empty:
            from vitriton.preprocessing import Refusal

            raise invalid_images({index: Refusal("empty (0 bytes)", "empty") for index in empty}, len(request.images))
        return self.respond(request)

    def _ensemble(self, model: str) -> names.Ensemble:
        _, kind = names.read_ensemble_name(model) or (model, names.KINDS[0])
        return names.ENSEMBLES[kind]

    def _shape(self, ensemble: names.Ensemble) -> tuple[int, ...]:
        if ensemble.pooled:
            return (self._dim,)
        return (self._tokens if ensemble.tower == "image" else -1, self._dim)

    def _text_parameters(self) -> dict[str, str]:
        tokenize = {"max_length": self._max_length, "max_text_bytes": 2**20, "truncation_side": "right"}
        return {"tokenize": json.dumps(tokenize), "prompts": json.dumps(self._prompts)}

    def _token_counts(self, request: InferRequest) -> NDArray[np.int32] | None:
        """The numbers of tokens, (B, 2); None if they were not requested."""
        if names.TOKEN_COUNTS not in request.beside:
            return None
        whole = [len(bytes(text).split()) for text in request.images]
        return np.array([[min(count, self._max_length), count] for count in whole], np.int32)

    def _hashed(self, given: bytes) -> Any:
        seed = int.from_bytes(hashlib.sha256(given).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self._dim)
        return vector / np.linalg.norm(vector)


def unavailable() -> CallError:
    """The error when no server answers: the client retries, then raises `Unavailable`."""
    return CallError(Code.UNAVAILABLE, "failed to connect to all addresses")


def busy() -> CallError:
    """The error when the queue is full: the client retries, then raises `ServerBusy`."""
    return CallError(Code.UNAVAILABLE, "Exceeds maximum queue size")


def model_died() -> CallError:
    """The error when the model's process has died: the client retries, then raises `Unavailable`."""
    return CallError(Code.INTERNAL, "Failed to process the request: the stub process is not healthy")


@suggests_keywords
def invalid_images(errors: Mapping[int, str | Refusal], batch_size: int) -> CallError:
    """The error when the server cannot use some images of the request: the client raises `InvalidImage`.

    For the second of two images it is `invalid_images({1: "not an image"}, batch_size=2)`. With on_error="return" the
    client sends the other images again, which is a request more.

    Args:
        errors: the reasons by position in the request, from 0: a text, or a `vitriton.preprocessing.Refusal` with text
            and code.
        batch_size: the number of images in the request.
    """
    return _refused(errors, batch_size, "images")


@suggests_keywords
def invalid_texts(errors: Mapping[int, str | Refusal], batch_size: int) -> CallError:
    """The error when the server cannot use some texts of the request: the client raises `InvalidText`.

    Args:
        errors: the reasons by position in the request; see `invalid_images`.
        batch_size: the number of texts in the request.
    """
    return _refused(errors, batch_size, "texts")


def _refused(errors: Mapping[int, str | Refusal], batch_size: int, noun: str) -> CallError:
    from vitriton.preprocessing import Refusal, format_errors

    refusals = {index: Refusal(error) if isinstance(error, str) else error for index, error in errors.items()}
    return CallError(Code.INVALID_ARGUMENT, format_errors(refusals, batch_size, noun))
