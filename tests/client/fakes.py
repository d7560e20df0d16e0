"""The public fake transport with what the client's own tests need beside it."""

from collections.abc import Callable, Sequence

import numpy as np
from vitriton._wire.transport import ModelConfig, ModelStatus, TensorSpec
from vitriton.testing import CallError, Code, FakePending, InferReply, InferRequest
from vitriton.testing import FakeTransport as PublicFakeTransport

FAKE_ADDRESS = "grpc://fake:8001"


def first_bytes(request: InferRequest) -> InferReply:
    """Two numbers an image: its first byte, and its length."""
    rows = np.array([[image[0], len(image)] for image in request.images], "<f4")
    return InferReply(name=request.output_name, datatype="FP32", shape=rows.shape, data=rows.tobytes())


class FakeTransport(PublicFakeTransport):
    """Answers with `answer`; `after_send` says when (at once, unless it is given)."""

    def __init__(
        self,
        answer: Callable[[InferRequest], InferReply] = first_bytes,
        *,
        max_batch_size: int = 4,
        index: Sequence[ModelStatus] = (),
        fingerprint: str | None = None,
        after_send: Callable[[list[FakePending]], None] = lambda sent: sent[-1].finish(),
    ) -> None:
        super().__init__(dim=2, max_batch_size=max_batch_size, answers_at_once=False)
        self._answer_with = answer
        self._index = index
        self._after_send = after_send
        self.fingerprint = fingerprint
        self.configs_read = 0

    def respond(self, request: InferRequest) -> InferReply:
        return self._answer_with(request)

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        return any(status.name == model and status.ready for status in self._index)

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        self.configs_read += 1
        self.parameters = {} if self.fingerprint is None else {"fingerprint": self.fingerprint}
        self._tokens = 1
        config = super().model_config(model, timeout_s)
        output, *beside = config.outputs
        return ModelConfig(
            name=model,
            max_batch_size=config.max_batch_size,
            inputs=config.inputs,
            outputs={
                output: TensorSpec(datatype="FP32", shape=(2,)),
                **{name: config.outputs[name] for name in beside},
            },
            parameters=config.parameters,
        )

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        return self._index

    def send(self, request: InferRequest, timeout_s: float | None) -> FakePending:
        pending = super().send(request, timeout_s)
        self._after_send(self.sent)
        return pending


def unknown(model: str) -> CallError:
    """Triton's error for a model that it does not have."""
    return CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
