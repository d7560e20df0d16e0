"""A transport without a server, for the client's own logic."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from vitriton._transport import CallError, Code, InferReply, InferRequest, ModelConfig, ModelStatus, TensorSpec

FAKE_ADDRESS = "grpc://fake:8001"


def first_bytes(request: InferRequest) -> InferReply:
    """Two numbers an image: its first byte, and its length."""
    rows = np.array([[image[0], len(image)] for image in request.images], "<f4")
    return InferReply(name=request.output_name, datatype="FP32", shape=rows.shape, data=rows.tobytes())


class FakePending:
    def __init__(self, answer: Callable[[], InferReply]) -> None:
        self._answer = answer
        self.done = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self.cancelled = False

    def finish(self) -> None:
        self.done.set()
        for callback in self._callbacks:
            callback()

    def result(self) -> InferReply:
        assert self.done.wait(10), "the test never finished this request"
        if self.cancelled:
            raise CallError(Code.CANCELLED, "cancelled")
        return self._answer()

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        if self.done.is_set():
            callback()

    def cancel(self) -> None:
        self.cancelled = True
        self.finish()


class FakeTransport:
    """Answers with `answer`; `after_send` says when (at once, unless it is given)."""

    address = FAKE_ADDRESS

    def __init__(
        self,
        answer: Callable[[InferRequest], InferReply] = first_bytes,
        *,
        max_batch_size: int = 4,
        index: Sequence[ModelStatus] = (),
        fingerprint: str | None = None,
        after_send: Callable[[list[FakePending]], None] = lambda sent: sent[-1].finish(),
    ) -> None:
        self._answer = answer
        self._max_batch_size = max_batch_size
        self._index = index
        self._after_send = after_send
        self.fingerprint = fingerprint
        self.requests: list[InferRequest] = []
        self.timeouts_s: list[float | None] = []
        self.sent: list[FakePending] = []
        self.configs_read = 0
        self.closed = 0

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        return any(status.name == model and status.ready for status in self._index)

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        self.configs_read += 1
        output = "last_hidden_state" if model.endswith("_unpooled") else "embedding"
        return ModelConfig(
            name=model,
            max_batch_size=self._max_batch_size,
            inputs={"image": TensorSpec(datatype="BYTES", shape=(1,))},
            outputs={output: TensorSpec(datatype="FP32", shape=(2,))},
            parameters={} if self.fingerprint is None else {"fingerprint": self.fingerprint},
        )

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        return self._index

    def send(self, request: InferRequest, timeout_s: float | None) -> FakePending:
        self.requests.append(request)
        self.timeouts_s.append(timeout_s)
        pending = FakePending(lambda: self._answer(request))
        self.sent.append(pending)
        self._after_send(self.sent)
        return pending

    def close(self) -> None:
        self.closed += 1
