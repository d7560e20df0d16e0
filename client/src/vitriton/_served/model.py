"""What a server tells of a model that `vitriton export` made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitriton._repository.names import Kind
from vitriton._served.contract import DTYPES

if TYPE_CHECKING:
    from vitriton.preprocessing import Limits

READY = "READY"  # Triton's word for a model that answers requests


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """One of the outputs of a model. What only a loaded model tells is None where it is not loaded.

    Attributes:
        kind: "pooled", one vector for each image, or "unpooled", all its tokens.
        model: the name under which Triton has it.
        state: Triton's word for its state, READY where it answers requests.
        reason: the reason why it is not ready; empty if it is, or if the server does not say.
        tensor: the name of the tensor.
        datatype: the type of the tensor, by Triton's name: FP32 or FP16.
        shape: the shape of one image's output, -1 where it is open: (D,), (T, D), or (C, h, w).
        max_batch_size: the most images in a request.
    """

    kind: Kind
    model: str
    state: str = READY
    reason: str = ""
    tensor: str | None = None
    datatype: str | None = None
    shape: tuple[int, ...] | None = None
    max_batch_size: int | None = None

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == READY

    @property
    def dtype(self) -> str | None:
        """The type of the tensor, by numpy's name: float32 or float16."""
        return None if self.datatype is None else DTYPES[self.datatype].name


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model, as its server describes it. What only a loaded model tells is None where it is not loaded.

    Attributes:
        name: the name that it was exported under, as `Client(model=...)` takes it.
        addresses: the addresses of the servers.
        outputs: what it returns, the pooled output first.
        fingerprint: the name of the embedding space. Vectors of one fingerprint may be compared, those of two may not.
        source: the model that it was exported from: a hub id, or the name of a folder.
        revision: the commit on the hub; None for a folder.
        precision: what the encoder computes in: fp32, fp16, int8 or int8-fast.
        pooling: how the pooled output is made: pooler, cls, mean or projection.
        l2_normalize: whether the vectors of the pooled output have the length 1.
        max_batch_size: the most images in a request, for any of the outputs.
        parameters: all that the export wrote into the configuration, as text.
    """

    name: str
    addresses: tuple[str, ...]
    outputs: tuple[ModelOutput, ...]
    fingerprint: str | None = None
    source: str | None = None
    revision: str | None = None
    precision: str | None = None
    pooling: str | None = None
    l2_normalize: bool | None = None
    max_batch_size: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    @property
    def ready(self) -> bool:
        """Whether all of its outputs are ready."""
        return all(output.ready for output in self.outputs)

    @property
    def pooled(self) -> ModelOutput | None:
        """The pooled output; None where the model was exported without it."""
        return self._output("pooled")

    @property
    def unpooled(self) -> ModelOutput | None:
        """The output with all tokens; None where the model was exported without it."""
        return self._output("unpooled")

    @property
    def limits(self) -> Limits | None:
        """What the preprocessing refuses of an image; None where the export does not tell that in a way known here."""
        from vitriton.preprocessing import Limits  # imports PIL

        try:
            return Limits.from_dict(json.loads(self.parameters["preprocess"])["limits"])
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    def _output(self, kind: Kind) -> ModelOutput | None:
        return next((output for output in self.outputs if output.kind == kind), None)


def model_info(
    name: str, addresses: Sequence[str], outputs: Sequence[ModelOutput], parameters: Mapping[str, str]
) -> ModelInfo:
    """The description of a model with these outputs and these parameters in its configuration."""
    l2_normalize = parameters.get("l2_normalize")
    return ModelInfo(
        name=name,
        addresses=tuple(addresses),
        outputs=tuple(outputs),
        fingerprint=parameters.get("fingerprint"),
        source=parameters.get("model"),
        revision=parameters.get("revision"),
        precision=parameters.get("precision"),
        pooling=parameters.get("pooling"),
        l2_normalize=None if l2_normalize is None else l2_normalize == "true",
        max_batch_size=min((output.max_batch_size for output in outputs if output.max_batch_size), default=None),
        parameters=dict(parameters),
    )
