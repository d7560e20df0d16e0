"""The client that users hold: state and lifetime; the decisions are in the modules beside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Union

import numpy as np
from numpy.typing import NDArray

from vitriton._address import parse_address
from vitriton._contract import (
    Contract,
    ensemble_name,
    explain_not_ready,
    is_ready,
    read_contract,
    served_models,
)
from vitriton._deadline import Deadline
from vitriton._embed import EmbedCall, Floats
from vitriton._errors import ContractMismatch, InvalidImage, ModelNotReady, Unavailable, VitritonError
from vitriton._failures import Call, to_error
from vitriton._fetch import UrlFetcher
from vitriton._options import UNSET, Options, Unset, check_seconds
from vitriton._sources import as_images
from vitriton._status import Failure, classify
from vitriton._transport import CallError, Code, ModelStatus, Transport

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, "Image", NDArray[np.uint8]]

_POLL_S = 0.1  # between two looks at a server that is starting


class Client:
    """Embeds images with a model on a Triton server.

    Safe to share between threads. Not usable in a process that was forked after it was made: it says so.

    Args:
        address: `host`, `host:port` or `grpc://host:port`; without a port 8001.
        model: the name that the model was exported under, without `_pooled` or `_unpooled`.
        timeout_s: total time of each call that is not given its own, in seconds; None is no limit.
        options: what the client may spend.
        transport: in place of the one that `address` says, which then is not read; the client closes it.

    Raises:
        ValueError: the address cannot be read or its scheme is not supported, or timeout_s is not above 0.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str,
        timeout_s: float | None = 60.0,
        options: Options | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not model or not isinstance(model, str):
            raise ValueError(f"model is {model!r}; give the name that the model was exported under")
        self._model = model
        self._timeout_s = _checked(timeout_s)
        self._options = options or Options()
        self._transport = transport or _connect(address)
        self._fetcher = UrlFetcher(self._options)
        self._contracts: dict[
            bool, Contract
        ] = {}  # by pool; each item is set and read in one step, so it needs no lock
        self._pid = os.getpid()
        self._closed = threading.Event()

    def wait_ready(self, *, timeout_s: float | None = 60.0) -> None:
        """Waits until the server answers and has loaded the model, both of its outputs where it has both.

        Args:
            timeout_s: the longest wait, in seconds; None is no limit.

        Raises:
            Unavailable: the server did not answer in that time.
            ModelNotReady: the server does not have the model (raised at once), or did not load it in that time.
        """
        deadline = Deadline.after(_checked(timeout_s))
        self._contracts.clear()
        problem: VitritonError | None = None
        while True:
            self._check_usable()
            latest = self._look(deadline)
            if latest is None:
                return
            # the last look has hardly any time, and so less to tell than the one before it
            if problem is None or not deadline.expired:
                problem = latest
            if deadline.expired:
                raise problem
            self._closed.wait(deadline.bounded_s(_POLL_S))

    def embed(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
    ) -> Floats:
        """Embeds images.

        Args:
            images: an iterable of, mixed freely: path (str or Path), http(s) URL, `data:` URI, bytes, binary file
                object, PIL image, uint8 array (H, W, 3) RGB. One of these alone is a list of one. Paths, URLs, bytes
                and file objects hold an encoded file (JPEG, PNG, WebP, ...), which the server decodes.
            pool: one vector an image, or all its tokens.
            timeout_s: total time of this call, in seconds, all included; None is no limit; not given, the client's.

        Returns:
            float32, in input order: (N, D), or with pool=False (N, T, D), or (N, C, h, w) for convolutional models.
            No images give N = 0.

        Raises:
            InvalidImage: an image cannot be used; names it by its index from 0. Ends the call.
            DeadlineExceeded: the time is over.
            Unavailable: no server answers.
            ServerBusy, ModelNotReady, InferenceFailed: the server did not do it.
            ContractMismatch: what the server has under this name is not a model of `vitriton export`.
            TypeError: images is neither an image nor an iterable, or pool is not a bool.
            RuntimeError: the client is closed, or was made before a fork.
        """
        self._check_usable()
        if not isinstance(pool, bool):
            raise TypeError(
                f"pool is {pool!r}; it must be True or False (how to pool is chosen when a model is exported)"
            )
        deadline = Deadline.after(self._timeout_s if isinstance(timeout_s, Unset) else _checked(timeout_s))
        items, total = as_images(images)
        contract = self._contract(pool, deadline)
        call = EmbedCall(
            transport=self._transport,
            fetcher=self._fetcher,
            contract=contract,
            options=self._options,
            deadline=deadline,
            total=total,
        )
        try:
            return call.run(items)
        except VitritonError as exc:
            self._check_usable()  # closed by another thread: that is what happened, and the error is its result
            if not isinstance(exc, InvalidImage):
                self._contracts.clear()  # the server may come back with another export
            raise

    @property
    def fingerprint(self) -> str:
        """Names the embedding space: vectors of one fingerprint may be compared, those of two may not.

        Read from the server each time: another export may be served under the same name by now.

        Raises:
            ContractMismatch: the model has none.
            TransportError, ServerError: as `embed`.
        """
        self._check_usable()
        self._contracts.clear()
        contract = self._any_contract(Deadline.after(self._timeout_s))
        if not contract.fingerprint:
            raise ContractMismatch(
                f"the configuration of model {contract.model} on the server at {self._transport.address} has no "
                "fingerprint; export it with `vitriton export`",
                address=self._transport.address,
                model=contract.model,
            )
        return contract.fingerprint

    def close(self) -> None:
        """Ends what is running and closes the connections. May be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        if os.getpid() == self._pid:  # the connections belong to the process that made them
            self._fetcher.close()
            self._transport.close()

    def __enter__(self) -> Client:
        self._check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = ", closed" if self._closed.is_set() else ""
        return f"Client({self._transport.address!r}, model={self._model!r}{closed})"

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this Client was made in process {self._pid}, and this is its fork {os.getpid()}: gRPC does not "
                "survive a fork. Make the Client after the fork, in the process that uses it"
            )
        if self._closed.is_set():
            raise RuntimeError("this Client is closed; make a new one")

    def _look(self, deadline: Deadline) -> VitritonError | None:
        """What still stands between the caller and a model that is ready."""
        call = self._call(ensemble_name(self._model, True), deadline)
        try:
            ready = [
                self._transport.is_model_ready(ensemble_name(self._model, pool), deadline.remaining_s())
                for pool in (True, False)
            ]
            index = None if all(ready) else self._index(deadline)
        except CallError as exc:
            self._check_usable()
            error = _unanswered(call) if exc.code is Code.DEADLINE_EXCEEDED else to_error(exc, call)
            if not isinstance(error, Unavailable):
                raise error from exc
            error.__cause__ = exc
            return error
        if is_ready(self._model, ready, index):
            return None
        problem = self._model_not_ready(True, index)
        if index is not None and self._model not in served_models(index):
            raise problem
        return problem

    def _contract(self, pool: bool, deadline: Deadline) -> Contract:
        known = self._contracts.get(pool)
        if known is not None:
            return known
        name = ensemble_name(self._model, pool)
        try:
            config = self._transport.model_config(name, deadline.remaining_s())
        except CallError as exc:
            self._check_usable()
            if classify(exc.code, exc.message) in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):
                raise self._model_not_ready(pool, self._index(deadline), exc.code.value) from exc
            raise to_error(exc, self._call(name, deadline)) from exc
        self._contracts[pool] = contract = read_contract(config, pool)
        return contract

    def _any_contract(self, deadline: Deadline) -> Contract:
        try:
            return self._contract(True, deadline)
        except ModelNotReady as pooled:
            try:
                return self._contract(False, deadline)
            except ModelNotReady:
                raise pooled from pooled.__cause__

    def _index(self, deadline: Deadline) -> Sequence[ModelStatus] | None:
        """What the server has; None where it does not tell (a restricted server)."""
        try:
            return self._transport.repository_index(deadline.remaining_s())
        except CallError as exc:
            if classify(exc.code, exc.message) is Failure.RESTRICTED:
                return None
            raise to_error(exc, self._call(ensemble_name(self._model, True), deadline)) from exc

    def _model_not_ready(
        self, pool: bool, index: Sequence[ModelStatus] | None, status: str | None = None
    ) -> ModelNotReady:
        return ModelNotReady(
            explain_not_ready(self._model, pool, index, self._transport.address),
            available=served_models(index or ()),
            address=self._transport.address,
            model=ensemble_name(self._model, pool),
            status=status,
        )

    def _call(self, model: str, deadline: Deadline) -> Call:
        return Call(
            address=self._transport.address,
            model=model,
            timeout_s=deadline.timeout_s,
            expired=deadline.expired,
        )


def _checked(timeout_s: float | None) -> float | None:
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    return timeout_s


def _connect(address: str) -> Transport:
    where = parse_address(address)
    # Here, and not at the top: it takes most of the import time, and code that only catches our errors need not pay it.
    from vitriton._grpc import GrpcTransport

    return GrpcTransport(where)


def _unanswered(call: Call) -> Unavailable:
    return Unavailable(
        f"the server at {call.address} did not answer in {call.timeout_s:g} s; check that it runs, that this is its "
        "gRPC port (8001 unless it was told otherwise), and that no firewall is between",
        address=call.address,
        model=call.model,
    )
