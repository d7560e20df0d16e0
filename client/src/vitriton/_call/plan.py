"""What one call is to do: pure data, made from the caller's arguments before anything happens."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from vitriton._call.results import ArraySink, ResultSink
from vitriton._images.reading import Encode
from vitriton._images.sources import as_images, is_one
from vitriton._options import Unset, check_seconds
from vitriton._served.contract import Contract

OnError = Literal["raise", "return"]
DType = Literal["float32", "served"]


@dataclass(frozen=True)
class Service:
    """A model as it is used: what is called, and what is done on this side before.

    Attributes:
        contract: what the model that is called promises.
        encode: makes the pixels of an encoded image; None where the server does.
    """

    contract: Contract
    encode: Encode | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One call.

    Attributes:
        pool: one vector an image, or all its tokens.
        timeout_s: the time of the call, or of each request, in seconds; None is no limit.
        renews: whether that time starts anew with each answer: a request has it for itself.
        ends: whether the call as a whole has a deadline.
        returns_errors: whether an image that cannot be used costs only itself.
        served_dtype: whether embeddings have the dtype of the model, and not float32.
        array: whether the result is one array, and not a result for each image.
        ordered: whether results come in input order, or as they are ready.
        eager: whether images are sent without waiting for others while no request is running: for a source that may
            block the caller.
        awaited: whether images come when they like: those that are there wait for others only so long.
    """

    pool: bool
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
        """Where the results of so many images go."""
        dtype = contract.dtype if self.served_dtype else np.dtype(np.float32)
        if self.array:
            return ArraySink(contract, dtype, total)
        return ResultSink(dtype, ordered=self.ordered, raises=not self.returns_errors)


class Images(NamedTuple):
    """What the caller gave.

    Attributes:
        items: an iterable, or where the client can await an async iterable.
        total: the number of images, None where it is not known.
        awaited: whether `items` is an async iterable.
    """

    items: Any
    total: int | None
    awaited: bool = False


def plan_embed(
    images: Images,
    pool: bool,
    timeout_s: float | Unset | None,
    on_error: OnError,
    dtype: DType,
    default_s: float | None,
) -> Plan:
    """The plan of `Client.embed`.

    Args:
        images: what the caller gave.
        pool: the caller's choice, as those that follow.
        timeout_s: the total time of the call, in seconds; not given, `default_s` starts anew with each answer.
        on_error: ...
        dtype: ...
        default_s: the client's `timeout_s`.

    Raises:
        TypeError, ValueError: an argument cannot be used; names it.
    """
    _check_choices(pool, on_error, dtype)
    renews = isinstance(timeout_s, Unset)
    limit_s = default_s if isinstance(timeout_s, Unset) else checked_timeout(timeout_s)
    return _plan_embed(pool, limit_s, renews, on_error, dtype, images.total is None, images.awaited)


@lru_cache(maxsize=64)  # as a rule all calls of a program have the same, and to make one takes some microseconds
def _plan_embed(
    pool: bool, timeout_s: float | None, renews: bool, on_error: OnError, dtype: DType, eager: bool, awaited: bool
) -> Plan:
    return Plan(
        pool=pool,
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


def plan_stream(
    images: Images,
    pool: bool,
    timeout_s: float | Unset | None,
    on_error: OnError,
    dtype: DType,
    default_s: float | None,
    *,
    ordered: bool,
    threaded: bool,
) -> Plan:
    """The plan of `Client.stream`; see `plan_embed`.

    Args:
        images: ...
        pool: ...
        timeout_s: the time of each request, in seconds.
        on_error: ...
        dtype: ...
        default_s: ...
        ordered: whether results come in input order.
        threaded: whether an iterable that may block is run through by a thread, and its images so come when they like.

    Raises:
        TypeError, ValueError: an argument cannot be used; names it.
    """
    _check_choices(pool, on_error, dtype)
    may_block = images.total is None
    return Plan(
        pool=pool,
        timeout_s=default_s if isinstance(timeout_s, Unset) else checked_timeout(timeout_s),
        renews=True,
        ends=False,
        returns_errors=on_error == "return",
        served_dtype=dtype == "served",
        array=False,
        ordered=ordered,
        eager=may_block,
        awaited=images.awaited or (threaded and may_block),
    )


def checked_timeout(timeout_s: float | None) -> float | None:
    """`timeout_s`, if it can be one; else ValueError."""
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    return timeout_s


def take_images(images: Any, *, asynchronous: bool = False) -> Images:
    """The images of a call; with `asynchronous` they may be an async iterable.

    Raises:
        TypeError: they are neither an image nor an iterable.
    """
    # A list, the usual case, is not asked: that takes time.
    if not asynchronous or isinstance(images, list) or not isinstance(images, AsyncIterable) or is_one(images):
        return Images(*as_images(images))
    # A file that is to be awaited gives its lines to who iterates over it, and so is one image.
    return Images(images, None, True)


def _check_choices(pool: object, on_error: str, dtype: str) -> None:
    if not isinstance(pool, bool):
        raise TypeError(f"pool is {pool!r}; it must be True or False (how to pool is chosen when a model is exported)")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")
    if dtype not in ("float32", "served"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'float32' or 'served'")
