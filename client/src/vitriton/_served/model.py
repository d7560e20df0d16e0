"""The description of a served model that `vitriton export` made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitriton._repository.names import ENSEMBLES, Kind, Tower
from vitriton._served.contract import DTYPES
from vitriton._served.texts import TextRules, read_text_rules

if TYPE_CHECKING:
    from vitriton.preprocessing import Limits

READY = "READY"  # Triton's word for a model that answers requests


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """One output of a model. Fields that only a loaded model has are None if it is not loaded.

    Attributes:
        kind: the kind of the output: "pooled", one vector for each image, or "unpooled", all its tokens; for texts
            "text_pooled" and "text_unpooled".
        model: the name of the output's ensemble on Triton.
        state: the ensemble's state, by Triton's name; READY if it answers requests.
        reason: the reason why the ensemble is not ready; empty if it is, or if the server does not say.
        tensor: the name of the tensor.
        datatype: the type of the tensor, by Triton's name: FP32 or FP16.
        shape: the shape of the output for one input, (D,), (T, D), or (C, h, w); -1 is an open dimension.
        max_batch_size: the largest number of inputs in a request.
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
        """Whether the output's ensemble answers requests."""
        return self.state == READY

    @property
    def tower(self) -> Tower:
        """The tower of the model that returns it: "image" or "text"."""
        return ENSEMBLES[self.kind].tower

    @property
    def dtype(self) -> str | None:
        """The type of the tensor, by numpy's name: float32 or float16."""
        return None if self.datatype is None else DTYPES[self.datatype].name


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model, as its server describes it. Fields that only a loaded model has are None if it is not loaded.

    Attributes:
        name: the name of the export, as `Client(model=...)` takes it.
        addresses: the addresses of the servers.
        outputs: the model's outputs, those for images first, and of these the pooled one.
        fingerprint: the name of the embedding space. Only vectors with the same fingerprint may be compared.
        source: the checkpoint that was exported: a hub id, or the name of a folder.
        revision: the checkpoint's commit on the hub; None for a folder.
        precision: the precision of the encoder: fp32, fp16, int8 or int8-fast.
        pooling: the pooling method: pooler, cls, mean, projection, max, last or weighted-mean; methods whose vectors
            are joined have a + between them.
        l2_normalize: whether the vectors of the pooled outputs have length 1.
        logit_scale: the factor that turns the cosine of an image and a text into the logit of the pair; None for a
            model whose images and texts are not compared. It is the exponential of transformers' parameter of that
            name: multiply by it, as it is.
        logit_bias: the number to add after that, for models trained with a sigmoid (SigLIP), whose probabilities are
            the sigmoid of each logit. None for models without one (CLIP), whose probabilities are the softmax of an
            image's logits over all texts.
        max_batch_size: the largest number of inputs in a request that all outputs take.
        parameters: the parameters that the export wrote into the configuration, as text.
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
    logit_scale: float | None = None
    logit_bias: float | None = None
    max_batch_size: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    @property
    def ready(self) -> bool:
        """Whether all outputs are ready."""
        return all(output.ready for output in self.outputs)

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The towers of the model, which say what it embeds: "image", "text", or both."""
        return tuple(dict.fromkeys(output.tower for output in self.outputs))

    def is_ready_for(self, tower: Tower) -> bool:
        """Whether an output of a tower is ready."""
        return any(output.ready for output in self._outputs(tower))

    @property
    def pooled(self) -> ModelOutput | None:
        """The pooled output for images; None if the model was exported without it."""
        return self._output("pooled")

    @property
    def unpooled(self) -> ModelOutput | None:
        """The output with all tokens of images; None if the model was exported without it."""
        return self._output("unpooled")

    @property
    def text_pooled(self) -> ModelOutput | None:
        """The pooled output for texts; None if the model was exported without it."""
        return self._output("text_pooled")

    @property
    def text_unpooled(self) -> ModelOutput | None:
        """The output with all tokens of texts; None if the model was exported without it."""
        return self._output("text_unpooled")

    @property
    def texts(self) -> TextRules | None:
        """The longest text and the prompts; None if the model has no texts, or they are not loaded."""
        try:
            return read_text_rules(self.parameters)
        except ValueError:
            return None

    @property
    def limits(self) -> Limits | None:
        """The preprocessing's limits for images; None if this version cannot read them from the export."""
        from vitriton.preprocessing import Limits  # imports PIL

        try:
            return Limits.from_dict(json.loads(self.parameters["preprocess"])["limits"])
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    def __str__(self) -> str:
        """The model for people: servers, checkpoint, outputs, precision, pooling and fingerprint, on a line each."""
        commit = f", commit {self.revision}" if self.revision else ""
        length = ", scaled to length 1" if self.l2_normalize else ""
        lines = {
            "model": self.name,
            "server": ", ".join(self.addresses),
            "checkpoint": self.source and self.source + commit,
            **{f"{tower}s": "; ".join(map(_summary, self._outputs(tower))) for tower in self.towers},
            "precision": self.precision,
            "pooling": self.pooling and self.pooling + length,
            "fingerprint": self.fingerprint,
        }
        return "\n".join(f"{name:<11}  {text}" for name, text in lines.items() if text)

    def _outputs(self, tower: Tower) -> list[ModelOutput]:
        return [output for output in self.outputs if output.tower == tower]

    def _output(self, kind: Kind) -> ModelOutput | None:
        return next((output for output in self.outputs if output.kind == kind), None)


def model_info(
    name: str, addresses: Sequence[str], outputs: Sequence[ModelOutput], parameters: Mapping[str, str]
) -> ModelInfo:
    """Describes a model from its outputs and the parameters in its configuration."""
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
        logit_scale=_number(parameters, "logit_scale"),
        logit_bias=_number(parameters, "logit_bias"),
        max_batch_size=min((output.max_batch_size for output in outputs if output.max_batch_size), default=None),
        parameters=dict(parameters),
    )


def _summary(output: ModelOutput) -> str:
    """An output in a few words, such as: unpooled 257 × 384 float32."""
    kind = "pooled" if ENSEMBLES[output.kind].pooled else "unpooled"
    if not output.ready:
        return f"{kind} {output.state}{output.reason and f' ({output.reason})'}"
    shape = " × ".join("tokens" if size < 0 else str(size) for size in output.shape or ())
    return f"{kind} {shape} {output.dtype}"


def _number(parameters: Mapping[str, str], name: str) -> float | None:
    try:
        return float(parameters[name])
    except (KeyError, ValueError):
        return None
