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
from vitriton._wire.transport import InferReply, ModelConfig

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}


def ensemble_name(model: str, pool: bool) -> str:
    """The ensemble's name on Triton, for the model name that the user gave."""
    return names.ensemble_name(model, names.kind_of(pool))


def output_name(pool: bool) -> str:
    """The name of the tensor that the ensemble returns."""
    return names.OUTPUT[names.kind_of(pool)]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The input and output of one ensemble.

    Attributes:
        model: the name of the ensemble.
        output: the name of the output tensor.
        shape: the shape of one image's output; -1 is an open dimension.
        max_batch_size: the largest number of images in a request.
        dtype: the dtype of the output.
        parameters: the parameters that the export wrote into the configuration.
        input: the name of the input tensor.
        datatype: the Triton datatype of the input: BYTES, UINT8 or FP32.
        item_shape: the shape of one image's input.
    """

    model: str
    output: str
    shape: tuple[int, ...]
    max_batch_size: int
    dtype: np.dtype[Any]
    parameters: Mapping[str, str]
    input: str = names.IMAGE
    datatype: str = "BYTES"
    item_shape: tuple[int, ...] = (1,)

    @property
    def fingerprint(self) -> str | None:
        """The name of the embedding space; None if the configuration has none."""
        return self.parameters.get("fingerprint")

    def empty(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The result for no images: (0, D) or (0, T, D); an open dimension is 0."""
        return np.empty((0, *(max(0, size) for size in self.shape)), dtype)

    def accepts(self, other: Contract) -> bool:
        """Whether a server with the contract `other` may answer requests that were made for this one."""
        return other is self or (
            self.fingerprint == other.fingerprint
            and (self.output, self.shape, self.dtype) == (other.output, other.shape, other.dtype)
            and (self.input, self.datatype, self.item_shape) == (other.input, other.datatype, other.item_shape)
            and self.max_batch_size <= other.max_batch_size
        )

    def mismatch(self, problem: str) -> ContractMismatch:
        """The error for a server that breaks the contract."""
        return ContractMismatch(f"model {names.given_name(self.model)} {problem}", model=self.model)


def read_contract(config: ModelConfig, pool: bool) -> Contract:
    """Reads the contract in a model's configuration.

    Raises:
        ContractMismatch: the model was not made by `vitriton export`.
    """
    name = output_name(pool)
    given, output = config.inputs.get(names.IMAGE), config.outputs.get(name)
    problem = None
    if given is None or given.datatype != "BYTES" or given.shape != (1,):
        problem = f"it has no input {names.IMAGE!r} of type BYTES and shape [1]"
    elif output is None:
        problem = f"it has no output {name!r}, only {', '.join(sorted(config.outputs)) or 'none'}"
    elif output.datatype not in DTYPES:
        problem = f"its output {name!r} is {output.datatype}; this client takes {' and '.join(DTYPES)}"
    elif config.max_batch_size < 1:
        problem = f"its max_batch_size is {config.max_batch_size}; it must be at least 1"
    if problem or output is None:
        name = names.given_name(config.name)
        raise ContractMismatch(f"model {name} was not made by `vitriton export`: {problem}", model=config.name)
    return Contract(
        model=config.name,
        output=name,
        shape=output.shape,
        max_batch_size=config.max_batch_size,
        dtype=DTYPES[output.datatype],
        parameters=dict(config.parameters),
    )


def read_reply(reply: InferReply, contract: Contract, batch_size: int) -> NDArray[Any]:
    """The reply as an array, without a copy.

    Args:
        reply: the server's reply.
        contract: the model's contract.
        batch_size: the number of images in the request.

    Returns:
        The rows, (batch_size, D), (batch_size, T, D) or (batch_size, C, h, w), in the model's dtype, read-only.

    Raises:
        ContractMismatch: the reply differs from the model's configuration.
    """
    wanted = (batch_size, *contract.shape)
    dtype = DTYPES.get(reply.datatype)
    fits = reply.shape == wanted or (
        len(reply.shape) == len(wanted)
        and all(got == size or (size < 0 <= got) for got, size in zip(reply.shape, wanted, strict=True))
    )
    if reply.name != contract.output or dtype != contract.dtype or not fits:
        raise contract.mismatch(
            f"returned {reply.name} {reply.datatype} {list(reply.shape)}, and its configuration says {contract.output} "
            f"{list(wanted)}; was it exported again? The next call reads its configuration again"
        )
    needed = math.prod(reply.shape) * contract.dtype.itemsize
    if len(reply.data) != needed:
        raise contract.mismatch(
            f"returned {len(reply.data)} bytes for {reply.datatype} {list(reply.shape)}, which needs {needed}; is "
            "there a numpy 2 in an embedded server's environment? It must be below 2"
        )
    return np.frombuffer(reply.data, contract.dtype).reshape(reply.shape)
