"""What a served model promises, and whether what came keeps the promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitriton._errors import ContractMismatch
from vitriton._transport import InferReply, ModelConfig, ModelStatus

INPUT = "image"
_POOLED, _UNPOOLED = "_pooled", "_unpooled"
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}
_MAX_LISTED = 20


def ensemble_name(model: str, pool: bool) -> str:
    """The model that Triton knows, of the name that the user gave."""
    return model + (_POOLED if pool else _UNPOOLED)


def output_name(pool: bool) -> str:
    """The tensor that the ensemble returns."""
    return "embedding" if pool else "last_hidden_state"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What one ensemble takes and returns.

    Attributes:
        model: the ensemble.
        output: its tensor.
        shape: of one image's output, -1 where it is open.
        max_batch_size: images in a request.
        fingerprint: names the embedding space; None where the config has none.
    """

    model: str
    output: str
    shape: tuple[int, ...]
    max_batch_size: int
    fingerprint: str | None

    def empty(self) -> NDArray[np.float32]:
        """The result of no images: (0, D) or (0, T, D) float32; an open dimension is 0."""
        return np.empty((0, *(max(0, size) for size in self.shape)), np.float32)


def read_contract(config: ModelConfig, pool: bool) -> Contract:
    """The contract in a model's configuration.

    Raises:
        ContractMismatch: the model is not one that `vitriton export` makes.
    """
    name = output_name(pool)
    given, promised = config.inputs.get(INPUT), config.outputs.get(name)
    problem = None
    if given is None or given.datatype != "BYTES" or given.shape != (1,):
        problem = f"it has no input {INPUT!r} of type BYTES and shape [1]"
    elif promised is None:
        problem = f"it has no output {name!r}, only {', '.join(sorted(config.outputs)) or 'none'}"
    elif promised.datatype not in _DTYPES:
        problem = f"its output {name!r} is {promised.datatype}; this client takes {' and '.join(_DTYPES)}"
    elif config.max_batch_size < 1:
        problem = f"its max_batch_size is {config.max_batch_size}; it must be at least 1"
    if problem or promised is None:
        raise ContractMismatch(f"model {config.name} was not made by `vitriton export`: {problem}", model=config.name)
    return Contract(
        model=config.name,
        output=name,
        shape=promised.shape,
        max_batch_size=config.max_batch_size,
        fingerprint=config.parameters.get("fingerprint"),
    )


def read_reply(reply: InferReply, contract: Contract, batch_size: int) -> NDArray[np.float32]:
    """The reply as an array of its own.

    Returns:
        (batch_size, D) or (batch_size, T, D) float32; FP16 is widened.

    Raises:
        ContractMismatch: the reply is another tensor than the model's configuration says.
    """
    wanted = (batch_size, *contract.shape)
    dtype = _DTYPES.get(reply.datatype)
    fits = len(reply.shape) == len(wanted) and all(
        got == size or (size < 0 <= got) for got, size in zip(reply.shape, wanted, strict=True)
    )
    if reply.name != contract.output or dtype is None or not fits:
        raise ContractMismatch(
            f"model {contract.model} returned {reply.name} {reply.datatype} {list(reply.shape)}, and its configuration "
            f"says {contract.output} {list(wanted)}; was it exported again? The next call reads its configuration anew",
            model=contract.model,
        )
    needed = math.prod(reply.shape) * dtype.itemsize
    if len(reply.data) != needed:
        raise ContractMismatch(
            f"model {contract.model} returned {len(reply.data)} bytes for {reply.datatype} {list(reply.shape)}, which "
            f"needs {needed}; is there a numpy 2 in an embedded server's environment? It must be below 2",
            model=contract.model,
        )
    # astype copies, so the result is writable and does not keep the message alive
    result: NDArray[np.float32] = np.frombuffer(reply.data, dtype).reshape(reply.shape).astype(np.float32)
    return result


def served_models(index: Sequence[ModelStatus]) -> tuple[str, ...]:
    """The names that `Client(model=...)` takes, of all that a server has, sorted."""
    names = set()
    for status in index:
        for suffix in (_UNPOOLED, _POOLED):
            if status.name.endswith(suffix) and len(status.name) > len(suffix):
                names.add(status.name[: -len(suffix)])
                break
    return tuple(sorted(names))


def explain_not_ready(model: str, pool: bool, index: Sequence[ModelStatus] | None, address: str) -> str:
    """Why `model` cannot be used, and what to do.

    Args:
        model: as the user gave it.
        pool: which of its two ensembles was asked for.
        index: what the server has; None where it does not tell.
        address: of the server.
    """
    wanted = ensemble_name(model, pool)
    if index is None:
        return f"the server at {address} has no model {wanted} that is ready, and does not list what it has"
    states = {status.name: status for status in index}
    if wanted in states:
        reason = f" ({states[wanted].reason})" if states[wanted].reason else ""
        return f"model {wanted} is on the server at {address} and not ready: {states[wanted].state}{reason}"
    if ensemble_name(model, not pool) in states:
        kind, other = ("pooled", "unpooled") if pool else ("unpooled", "pooled")
        return (
            f"model {model} was exported without its {kind} output: the server at {address} has only the {other} one. "
            f"Call embed(pool={not pool}), or export it again with --outputs both"
        )
    models = served_models(index)
    more = f" and {len(models) - _MAX_LISTED} more" if len(models) > _MAX_LISTED else ""
    listed = ", ".join(models[:_MAX_LISTED]) + more if models else "no model that `vitriton export` made"
    return f"the server at {address} does not have model {model}; it has: {listed}"


def is_ready(model: str, ready: Sequence[bool], index: Sequence[ModelStatus] | None) -> bool:
    """Whether a model can be used: what the server has of its two ensembles is loaded, or has failed for good.

    Args:
        model: as the user gave it.
        ready: of the pooled and the unpooled ensemble.
        index: what the server has; None where it does not tell.
    """
    if not any(ready) or all(ready):
        return any(ready)
    loading = {status.name for status in index or () if status.state == "LOADING"}
    return not any(ensemble_name(model, pool) in loading for pool in (True, False))
