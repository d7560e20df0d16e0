"""The plan of one call: pure data, made from the caller's arguments before anything happens."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from vitriton._call.modality import Modality
from vitriton._call.results import ArraySink, ListSink, ResultSink
from vitriton._deadline import Deadline
from vitriton._options import Unset, check_time_limit
from vitriton._repository.names import ENSEMBLES, Kind, kind_of
from vitriton._served.contract import Contract

OnError = Literal["raise", "return"]
DType = Literal["float32", "served"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one call has to do.

    Attributes:
        modality: the kind of the inputs.
        kind: the kind of the ensemble to call.
        prompt: the name of the prompt for texts; None means the model's default one, and "" none.
        timeout_s: the time limit of the call or of each request, in seconds; None means no limit.
        renews: whether each answer renews the time limit, so that each request has its own.
        ends: whether the call as a whole has a deadline.
        returns_errors: whether an invalid input becomes a result with an error instead of ending the call.
        served_dtype: whether embeddings keep the model's dtype instead of float32.
        array: whether the result is one array, or a list of arrays, instead of a `Result` for each input.
        ordered: whether results come in input order instead of as soon as they are ready.
        eager: whether inputs are sent at once while no request is running, for a source that may block the caller.
        awaited: whether inputs arrive at their own pace: those that are ready wait for others only `max_linger_s`.
    """

    modality: Modality
    kind: Kind
    prompt: str | None
    timeout_s: float | None
    renews: bool
    ends: bool
    returns_errors: bool
    served_dtype: bool
    array: bool
    ordered: bool
    eager: bool
    awaited: bool

    def make_sink(self, contract: Contract, total: int | None) -> ArraySink | ResultSink:
        """The sink for the results of `total` inputs; None if their number is unknown."""
        dtype = contract.dtype if self.served_dtype else np.dtype(np.float32)
        if not self.array:
            return ResultSink(dtype, ordered=self.ordered, raises=not self.returns_errors)
        if self.modality.ragged and not ENSEMBLES[self.kind].pooled:
            return ListSink(dtype)
        return ArraySink(contract, dtype, total)


class Given(NamedTuple):
    """The caller's inputs.

    Attributes:
        modality: the kind of the inputs.
        items: the inputs: an iterable, or for `AsyncClient` perhaps an async iterable.
        total: the number of inputs; None if it is unknown.
        awaited: whether `items` is an async iterable.
    """

    modality: Modality
    items: Any
    total: int | None
    awaited: bool = False


def plan_embed(
    given: Given,
    pool: bool,
    timeout_s: float | Unset | None,
    on_error: OnError,
    dtype: DType,
    default_s: float | None,
    prompt: str | None = None,
) -> Plan:
    """The plan of `Client.embed` and `Client.embed_texts`.

    Args:
        given: the caller's inputs.
        pool: the argument of `Client.embed`.
        timeout_s: the total time of the call, in seconds; if it is not given, each answer renews `default_s`.
        on_error: the argument of `Client.embed`.
        dtype: the argument of `Client.embed`.
        default_s: the client's `timeout_s`, in seconds; None means no limit.
        prompt: the argument of `Client.embed_texts`.

    Raises:
        TypeError, ValueError: an argument is invalid; the text names it.
    """
    _check_choices(pool, on_error, dtype, prompt)
    renews = isinstance(timeout_s, Unset)
    limit_s = default_s if isinstance(timeout_s, Unset) else checked_timeout(timeout_s)
    return _plan_embed(
        given.modality, pool, prompt, limit_s, renews, on_error, dtype, given.total is None, given.awaited
    )


def plan_stream(
    given: Given,
    pool: bool,
    timeout_s: float | Unset | None,
    on_error: OnError,
    dtype: DType,
    default_s: float | None,
    *,
    ordered: bool,
    threaded: bool,
    prompt: str | None = None,
) -> Plan:
    """The plan of `Client.stream` and `Client.stream_texts`.

    Args:
        given: the caller's inputs.
        pool: the argument of `Client.stream`.
        timeout_s: the time of each request, in seconds; if it is not given, `default_s`.
        on_error: the argument of `Client.stream`.
        dtype: the argument of `Client.stream`.
        default_s: the client's `timeout_s`, in seconds; None means no limit.
        ordered: whether results come in input order.
        threaded: whether a thread reads an iterable that may block, so that its inputs arrive at their own pace.
        prompt: the argument of `Client.stream_texts`.

    Raises:
        TypeError, ValueError: an argument is invalid; the text names it.
    """
    _check_choices(pool, on_error, dtype, prompt)
    may_block = given.total is None
    return Plan(
        modality=given.modality,
        kind=kind_of(pool, given.modality.tower),
        prompt=prompt,
        timeout_s=default_s if isinstance(timeout_s, Unset) else checked_timeout(timeout_s),
        renews=True,
        ends=False,
        returns_errors=on_error == "return",
        served_dtype=dtype == "served",
        array=False,
        ordered=ordered,
        eager=may_block,
        awaited=given.awaited or (threaded and may_block),
    )


def deadline_of(timeout_s: float | Unset | None, default_s: float | None) -> Deadline:
    """The deadline of a call that asks the servers once.

    Args:
        timeout_s: the total time of the call, in seconds; if it is not given, `default_s`.
        default_s: the client's `timeout_s`, in seconds; None means no limit.

    Raises:
        ValueError: `timeout_s` is invalid.
    """
    return Deadline.after(default_s if isinstance(timeout_s, Unset) else checked_timeout(timeout_s))


def checked_timeout(timeout_s: float | None) -> float | None:
    """Returns `timeout_s` if it is valid; raises ValueError otherwise."""
    check_time_limit("timeout_s", timeout_s)
    return timeout_s


def take_inputs(inputs: Any, modality: Modality, *, asynchronous: bool = False) -> Given:
    """The inputs of a call; with `asynchronous` they may be an async iterable.

    Raises:
        TypeError: `inputs` is neither an input nor an iterable.
    """
    # A list, the usual case, skips the slow check for an async iterable.
    if not asynchronous or isinstance(inputs, list) or not isinstance(inputs, AsyncIterable) or modality.is_one(inputs):
        return Given(modality, *modality.listed(inputs))
    # An asynchronous file is one image, although it can be iterated over: that yields its lines.
    return Given(modality, inputs, None, True)


@lru_cache(maxsize=64)  # most calls of a program have the same plan, and making one takes some microseconds
def _plan_embed(
    modality: Modality,
    pool: bool,
    prompt: str | None,
    timeout_s: float | None,
    renews: bool,
    on_error: OnError,
    dtype: DType,
    eager: bool,
    awaited: bool,
) -> Plan:
    return Plan(
        modality=modality,
        kind=kind_of(pool, modality.tower),
        prompt=prompt,
        timeout_s=timeout_s,
        renews=renews,
        ends=True,
        returns_errors=on_error == "return",
        served_dtype=dtype == "served",
        array=on_error == "raise",
        ordered=True,
        eager=eager,
        awaited=awaited,
    )


def _check_choices(pool: object, on_error: str, dtype: str, prompt: object) -> None:
    if not isinstance(pool, bool):
        raise TypeError(f"pool is {pool!r}; it must be True or False (how to pool is chosen when a model is exported)")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")
    if dtype not in ("float32", "served"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'float32' or 'served'")
    if not (prompt is None or isinstance(prompt, str)):
        raise TypeError(f"prompt is {prompt!r}; it must be the name of a prompt, or None")
