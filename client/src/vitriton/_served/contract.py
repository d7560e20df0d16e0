"""The contract of a served model, and the check of a reply against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitriton._errors import ContractMismatch
from vitriton._repository import names
from vitriton._served.texts import TextRules, read_text_rules
from vitriton._wire.transport import InferReply, ModelConfig, TensorSpec

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}
_IN_REPLIES = {**DTYPES, "INT32": np.dtype("<i4")}
_COUNTS = TensorSpec(datatype="INT32", shape=(2,))  # of `names.TOKEN_COUNTS`


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The input and output of one ensemble.

    Attributes:
        model: the name of the ensemble.
        kind: the kind of the ensemble.
        shape: the shape of the output for one input; -1 is an open dimension.
        max_batch_size: the largest number of inputs in a request.
        dtype: the dtype of the output.
        parameters: the parameters that the export wrote into the configuration.
        input: the name of the input tensor.
        datatype: the Triton datatype of the input: BYTES, UINT8 or FP32.
        item_shape: the shape of one input.
        texts: the rules for texts; None for images.
    """

    model: str
    kind: names.Kind
    shape: tuple[int, ...]
    max_batch_size: int
    dtype: np.dtype[Any]
    parameters: Mapping[str, str]
    input: str = names.IMAGE
    datatype: str = "BYTES"
    item_shape: tuple[int, ...] = (1,)
    texts: TextRules | None = None

    @property
    def tower(self) -> names.Tower:
        """The tower of the model, which is also the noun for its inputs."""
        return names.ENSEMBLES[self.kind].tower

    @property
    def output(self) -> str:
        """The name of the output tensor."""
        return names.OUTPUT[self.kind]

    @property
    def beside(self) -> tuple[str, ...]:
        """The names of the tensors that are returned beside it."""
        return names.ENSEMBLES[self.kind].beside

    @property
    def fingerprint(self) -> str | None:
        """The name of the embedding space; None if the configuration has none."""
        return self.parameters.get("fingerprint")

    def empty(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The result for no inputs: (0, D) or (0, T, D); an open dimension is 0."""
        return np.empty((0, *(max(0, size) for size in self.shape)), dtype)

    def accepts(self, other: Contract) -> bool:
        """Whether a server with the contract `other` may answer requests that were made for this one."""
        return other is self or (
            self.fingerprint == other.fingerprint
            and (self.kind, self.shape, self.dtype) == (other.kind, other.shape, other.dtype)
            and (self.input, self.datatype, self.item_shape) == (other.input, other.datatype, other.item_shape)
            and self.max_batch_size <= other.max_batch_size
        )

    def mismatch(self, problem: str) -> ContractMismatch:
        """The error for a server that breaks the contract."""
        return ContractMismatch(f"model {names.given_name(self.model)} {problem}", model=self.model)


def read_contract(config: ModelConfig, kind: names.Kind) -> Contract:
    """Reads the contract in a model's configuration.

    Raises:
        ContractMismatch: the model was not made by `vitriton export`.
    """
    ensemble = names.ENSEMBLES[kind]
    try:
        output = _checked_output(config, ensemble)
        texts = read_text_rules(config.parameters) if ensemble.tower == "text" else None
    except ValueError as exc:
        text = f"model {names.given_name(config.name)} was not made by `vitriton export`: {exc}"
        raise ContractMismatch(text, model=config.name) from exc
    return Contract(
        model=config.name,
        kind=kind,
        shape=output.shape,
        max_batch_size=config.max_batch_size,
        dtype=DTYPES[output.datatype],
        parameters=dict(config.parameters),
        input=ensemble.input,
        texts=texts,
    )


def _checked_output(config: ModelConfig, ensemble: names.Ensemble) -> TensorSpec:
    """The output of a configuration; a ValueError says what in it differs from an ensemble's."""
    given, output = config.inputs.get(ensemble.input), config.outputs.get(ensemble.output)
    if given is None or given.datatype != "BYTES" or given.shape != (1,):
        raise ValueError(f"it has no input {ensemble.input!r} of type BYTES and shape [1]")
    if output is None:
        raise ValueError(f"it has no output {ensemble.output!r}, only {', '.join(sorted(config.outputs)) or 'none'}")
    if output.datatype not in DTYPES:
        raise ValueError(
            f"its output {ensemble.output!r} is {output.datatype}; this client takes {' and '.join(DTYPES)}"
        )
    missing = [name for name in ensemble.beside if config.outputs.get(name) != _COUNTS]
    if missing:
        raise ValueError(f"it has no output {missing[0]!r} of type {_COUNTS.datatype} and shape {list(_COUNTS.shape)}")
    if config.max_batch_size < 1:
        raise ValueError(f"its max_batch_size is {config.max_batch_size}; it must be at least 1")
    return output


def read_reply(reply: InferReply, contract: Contract, batch_size: int) -> NDArray[Any]:
    """The output of a reply as an array, without a copy.

    Args:
        reply: the server's reply.
        contract: the model's contract.
        batch_size: the number of inputs in the request.

    Returns:
        The rows, (batch_size, D), (batch_size, T, D) or (batch_size, C, h, w), in the model's dtype, read-only.

    Raises:
        ContractMismatch: the reply differs from the model's configuration.
    """
    return _read(reply, contract, contract.output, contract.dtype, (batch_size, *contract.shape))


def read_token_counts(reply: InferReply, contract: Contract, batch_size: int) -> NDArray[Any]:
    """The numbers of tokens in a reply for texts: for each, those that the model used, and those of the whole text.

    Returns:
        The numbers, (batch_size, 2), int32.

    Raises:
        ContractMismatch: the reply differs from the model's configuration.
    """
    if len(reply.beside) != 1:
        raise contract.mismatch(f"returned {reply.name} without {names.TOKEN_COUNTS}")
    return _read(reply.beside[0], contract, names.TOKEN_COUNTS, np.dtype("<i4"), (batch_size, *_COUNTS.shape))


def _read(
    reply: InferReply, contract: Contract, name: str, dtype: np.dtype[Any], wanted: tuple[int, ...]
) -> NDArray[Any]:
    """A tensor of a reply; -1 in the wanted shape is an open dimension."""
    fits = reply.shape == wanted or (
        len(reply.shape) == len(wanted)
        and all(got == size or (size < 0 <= got) for got, size in zip(reply.shape, wanted, strict=True))
    )
    if reply.name != name or _IN_REPLIES.get(reply.datatype) != dtype or not fits:
        raise contract.mismatch(
            f"returned {reply.name} {reply.datatype} {list(reply.shape)}, and its configuration says {name} "
            f"{list(wanted)}; was it exported again? The next call reads its configuration again"
        )
    needed = math.prod(reply.shape) * dtype.itemsize
    if len(reply.data) != needed:
        raise contract.mismatch(
            f"returned {len(reply.data)} bytes for {reply.datatype} {list(reply.shape)}, which needs {needed}; is "
            "there a numpy 2 in an embedded server's environment? It must be below 2"
        )
    return np.frombuffer(reply.data, dtype).reshape(reply.shape)
