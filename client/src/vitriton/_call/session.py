"""What the calls of a client share, blocking or asynchronous ones. Safe to share between threads."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, TypeVar

from vitriton._call.balance import Balancer, Server
from vitriton._call.retry import SERVER_DOWN, Backoff
from vitriton._call.stats import Counters
from vitriton._call.tracing import OpenTelemetryTracer
from vitriton._deadline import Deadline
from vitriton._errors import (
    ClientClosed,
    ClientError,
    ContractMismatch,
    ModelNotFound,
    ModelNotReady,
    Unavailable,
    without_frames,
)
from vitriton._images.reading import Encode, Reader
from vitriton._names import OUTPUT, encoder_name
from vitriton._options import Options, check_seconds
from vitriton._served.contract import (
    Contract,
    ensemble_name,
    is_ready,
    read_contract,
)
from vitriton._served.failures import Call, after_attempts, not_served, port_hint, to_error
from vitriton._wire.connect import connect
from vitriton._wire.connection import TLS, Token
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code, ModelStatus, Transport

T = TypeVar("T")

_LOG = logging.getLogger("vitriton")

_POLL_S = 0.1  # between two looks at a server that is starting
_CONTROL_THREADS = 4
_ENDING = "the program is ending: its main thread has returned; join the threads that use a client before that"

Preprocess = Literal["server", "client"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a client was made with; see `Client`."""

    model: str
    timeout_s: float | None
    options: Options
    tls: TLS | None
    token: Token | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    preprocess: Preprocess
    expect_fingerprint: str | None
    tracing: bool

    def __post_init__(self) -> None:
        """Checks what `Options` does not.

        Raises:
            ValueError, TypeError: names the parameter.
        """
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model is {self.model!r}; give the name that the model was exported under")
        if self.preprocess not in ("server", "client"):
            raise ValueError(f"preprocess is {self.preprocess!r}; it must be 'server' or 'client'")
        if self.timeout_s is not None:
            check_seconds("timeout_s", self.timeout_s)
        if self.expect_fingerprint is not None and not (
            isinstance(self.expect_fingerprint, str) and self.expect_fingerprint
        ):
            raise ValueError(f"expect_fingerprint is {self.expect_fingerprint!r}; it must be a fingerprint, or None")
        if not isinstance(self.options, Options):
            raise TypeError(f"options is a {type(self.options).__name__}; it must be vitriton.Options")


@dataclass(frozen=True)
class Service:
    """A model as it is used: what is called, and what is done on this side before.

    Attributes:
        contract: of the model that is called.
        encode: makes the pixels of an encoded image; None where the server does.
    """

    contract: Contract
    encode: Encode | None = None


class Waker(Protocol):
    """Somebody who waits."""

    def wake(self) -> None:
        """Ends the wait; may be called from any thread."""


class Core:
    """See the module.

    Args:
        address: of the servers; not read where there is a transport.
        settings: of the client.
        transport: in place of those for `address`.
        kind: of the client, for messages.
        asynchronous: whether requests are sent in an event loop.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        settings: Settings,
        transport: Transport | None,
        kind: str,
        *,
        asynchronous: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.options = settings.options
        self.clock = clock
        self.counters = Counters()
        self.tracer = OpenTelemetryTracer() if settings.tracing else None
        self.backoff = Backoff(
            initial_s=self.options.initial_backoff_s,
            max_s=self.options.max_backoff_s,
            max_attempts=self.options.max_attempts,
        )
        transports = (
            [transport]
            if transport is not None
            else connect(
                address,
                tls=settings.tls,
                token=settings.token,
                headers=settings.headers,
                options=settings.options,
                asynchronous=asynchronous,
            )
        )
        self.balancer = Balancer(transports, self.backoff)
        self.reader = Reader(self.options)
        self._control = ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="vitriton-control")
        self._services: dict[bool, Service] = {}  # by pool; each item is set and read in one step, so it needs no lock
        self._lock = threading.Lock()
        self._kind = kind
        self._pid = os.getpid()
        self._is_closed = False
        self._closing = threading.Event()
        self._wakers: weakref.WeakSet[Waker] = weakref.WeakSet()

    @property
    def address(self) -> str:
        """Of all servers, for messages."""
        return ", ".join(server.transport.address for server in self.balancer.servers)

    def __repr__(self) -> str:
        closed = ", closed" if self._is_closed else ""
        return f"{self._kind}({self.address!r}, model={self.settings.model!r}{closed})"

    # Lifetime

    def check_usable(self) -> None:
        """Raises ClientClosed where the client can no longer be used."""
        if os.getpid() != self._pid:
            raise self._closed(
                f"this {self._kind} was made in process {self._pid}, and this is its fork {os.getpid()}: connections "
                f"do not survive a fork. Make the {self._kind} after the fork, in the process that uses it"
            )
        if self._is_closed:
            raise self._closed(f"this {self._kind} is closed; make a new one")

    def _closed(self, text: str) -> ClientClosed:
        return ClientClosed(text, address=self.address, model=self.settings.model)

    def close(self) -> None:
        """Ends what is running and closes the connections. May be called again."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._closing.set()
        if os.getpid() != self._pid:  # the connections belong to the process that made them
            return
        for server in self.balancer.servers:
            server.transport.close()
        for waker in list(self._wakers):
            waker.wake()
        self._control.shutdown(wait=True, cancel_futures=True)
        self.reader.close()

    def wake_on_close(self, waker: Waker) -> None:
        """Wakes `waker` when the client is closed, from any thread, as long as its owner keeps it."""
        self._wakers.add(waker)

    def submit_control(self, work: Callable[[], object]) -> None:
        """As `run_control`, for work that must not raise."""
        self.run_control(work)

    def run_control(self, work: Callable[[], T]) -> Future[T]:
        """Runs `work`, which waits for a server, on a thread."""
        try:
            return self._control.submit(work)
        except RuntimeError as exc:
            self.check_usable()
            raise self._closed(_ENDING) from exc

    def submit_reading(self, work: Callable[[], object]) -> None:
        """Runs `work`, which reads an image and must not raise, on a thread."""
        try:
            self.reader.submit(work)
        except RuntimeError as exc:
            self.check_usable()
            raise self._closed(_ENDING) from exc

    # What is served

    def known_service(self, pool: bool) -> Service | None:
        """What `service` has found before, if it can still be so."""
        known = self._services.get(pool)
        if known is None:
            return None
        now_s, model = self.clock(), known.contract.model
        for server in self.balancer.servers:
            if server.promise(model, now_s) is not None:
                return known
        return None

    def service(self, pool: bool, deadline: Deadline) -> Service:
        """What the servers have under the client's name; waits for one that answers.

        Raises:
            ClientError: as `Client.embed`.
        """
        known = self.known_service(pool)
        if known is not None:
            return known
        failed_on: set[Server] = set()
        attempts = 0
        error: ClientError | None = None
        while True:
            self.check_usable()
            server = self.balancer.pick(self.clock(), failed_on)
            attempts += 1
            attempt, cut_short = self.attempt(deadline)
            try:
                service = self._read_service(server, pool, attempt, attempts)
            except CallError as exc:
                if cut_short and exc.code is Code.DEADLINE_EXCEEDED and not deadline.expired:
                    exc = self.no_answer(exc)
                if error is not None and exc.code is Code.DEADLINE_EXCEEDED:
                    raise after_attempts(error, attempts, deadline) from exc
                failed_on.add(server)
                error = self._wait_for_retry(server, pool, exc, attempts, failed_on, deadline)
                continue
            self._promised(server, service.contract)
            self.balancer.succeeded(server)
            self._services[pool] = service
            return service

    def attempt(self, deadline: Deadline) -> tuple[Deadline, bool]:
        """The deadline of one attempt of a call, and whether it is before the call's."""
        limit_s = self.options.attempt_timeout_s
        if limit_s is None:
            return deadline, False
        remaining_s = deadline.remaining_s()
        if remaining_s is not None and remaining_s <= limit_s:
            return deadline, False
        return Deadline.after(limit_s), True

    def no_answer(self, late: CallError) -> CallError:
        """The failure of an attempt that had less time than the call."""
        failed = CallError(Code.UNAVAILABLE, f"no answer in {self.options.attempt_timeout_s:g} s (attempt_timeout_s)")
        failed.__cause__ = without_frames(late)
        return failed

    def _promised(self, server: Server, contract: Contract) -> None:
        server.contracts[contract.model] = contract
        server.heard_s = self.clock()

    def any_service(self, deadline: Deadline) -> Service:
        """The pooled model where there is one, else the other."""
        try:
            return self.service(True, deadline)
        except (ModelNotFound, ModelNotReady) as pooled:
            try:
                return self.service(False, deadline)
            except (ModelNotFound, ModelNotReady):
                raise pooled from pooled.__cause__

    def verify(self, server: Server, contract: Contract, deadline: Deadline, attempts: int) -> None:
        """Checks that a server promises what the others do, before it gets its first request.

        Raises:
            CallError: it does not answer.
            ContractMismatch: it promises something else.
        """
        service = self._read_service(server, contract.output == OUTPUT["pooled"], deadline, attempts)
        if not contract.accepts(service.contract):
            raise ContractMismatch(
                f"the server at {server.transport.address} has another model {contract.model} than the call began "
                f"with: fingerprint {service.contract.fingerprint} in place of {contract.fingerprint}, output "
                f"{service.contract.dtype} {list(service.contract.shape)} in place of {contract.dtype} "
                f"{list(contract.shape)}, max_batch_size {service.contract.max_batch_size} in place of "
                f"{contract.max_batch_size}; their vectors must not be mixed",
                address=server.transport.address,
                model=contract.model,
                attempts=attempts,
            )
        self._promised(server, service.contract)

    def forget(self) -> None:
        """Another export may be served under the same name by now: what is served is read anew."""
        self._services.clear()
        for server in self.balancer.servers:
            server.contracts.clear()

    def fingerprint(self) -> str:
        """See `Client.fingerprint`."""
        self.check_usable()
        self.forget()
        contract = self.any_service(Deadline.after(self.settings.timeout_s)).contract
        if not contract.fingerprint:
            raise ContractMismatch(
                f"the configuration of model {contract.model} on the server at {self.address} has no fingerprint; "
                "export it with `vitriton export`",
                address=self.address,
                model=contract.model,
            )
        return contract.fingerprint

    def parameters(self) -> Mapping[str, str]:
        """See `Client.parameters`."""
        self.check_usable()
        return dict(self.any_service(Deadline.after(self.settings.timeout_s)).contract.parameters)

    def wait_ready(self, timeout_s: float | None) -> None:
        """See `Client.wait_ready`."""
        deadline = Deadline.after(timeout_s)
        self.forget()
        problem: ClientError | None = None
        while True:
            self.check_usable()
            latest = self._look(deadline)
            if latest is None:
                return
            # the last look has hardly any time, and so less to tell than the one before it
            if problem is None or not deadline.expired:
                problem = latest
            if deadline.expired:
                raise problem
            self._closing.wait(deadline.bounded_s(_POLL_S))

    def _read_service(self, server: Server, pool: bool, deadline: Deadline, attempts: int) -> Service:
        try:
            return self._read_promise(server, pool, deadline)
        except ContractMismatch as exc:
            exc.address, exc.model = server.transport.address, ensemble_name(self.settings.model, pool)
            exc.attempts = attempts
            raise

    def _read_promise(self, server: Server, pool: bool, deadline: Deadline) -> Service:
        transport = server.transport
        config = transport.model_config(ensemble_name(self.settings.model, pool), deadline.remaining_s())
        contract = read_contract(config, pool)
        expected = self.settings.expect_fingerprint
        if expected is not None and contract.fingerprint != expected:
            raise ContractMismatch(
                f"model {contract.model} on the server at {transport.address} has the fingerprint "
                f"{contract.fingerprint}, and {expected} was expected (expect_fingerprint): vectors of the two must "
                "not be mixed",
                address=transport.address,
                model=contract.model,
            )
        if self.settings.preprocess == "server":
            return Service(contract)
        from vitriton._images import pixels
        from vitriton.preprocessing import Memory

        spec = pixels.read_preprocess(contract)
        memory = Memory(spec.limits.max_decode_bytes)
        encoder = transport.model_config(encoder_name(contract.model), deadline.remaining_s())
        return Service(pixels.encoder_contract(contract, encoder, spec), partial(pixels.encode, spec, memory=memory))

    def _wait_for_retry(
        self, server: Server, pool: bool, failed: CallError, attempts: int, failed_on: set[Server], deadline: Deadline
    ) -> ClientError:
        """Returns, when the next attempt is due, the error of this one; raises it where there must be no other."""
        self.check_usable()
        failure = classify(failed.code, failed.message)
        if failure in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):
            error: ClientError = self._not_served(
                server,
                pool,
                self._index(server, deadline),
                known=failure is Failure.NOT_READY,
                status=failed.code.value,
            )
        else:
            error = to_error(failed, self._call(server, pool, deadline, attempts))
        if failure in SERVER_DOWN or failure is Failure.UNKNOWN_MODEL:
            self.balancer.failed(server, self.clock(), error)
        untried = len(failed_on) < len(self.balancer.servers)
        wait_s = self.backoff.wait_s(failure, attempts, 1.0)
        if untried and (failure in SERVER_DOWN or failure is Failure.UNKNOWN_MODEL):
            wait_s = 0.0
        if wait_s is None:
            raise error from failed
        _LOG.debug("configuration of %s: %s; again in %.2f s", error.model, error, wait_s)
        self._closing.wait(deadline.bounded_s(wait_s))
        if deadline.expired:
            raise after_attempts(error, attempts, deadline) from failed
        return error

    def _look(self, deadline: Deadline) -> ClientError | None:
        """What still stands between the caller and a model that is ready on all servers."""
        for server in self.balancer.servers:
            problem = self._look_at(server, deadline)
            if problem is not None:
                return problem
        return None

    def _look_at(self, server: Server, deadline: Deadline) -> ClientError | None:
        transport = server.transport
        wanted = {pool: ensemble_name(self.settings.model, pool) for pool in (True, False)}
        try:
            ready = [transport.is_model_ready(wanted[pool], deadline.remaining_s()) for pool in (True, False)]
            index = None if all(ready) else self._index(server, deadline)
        except CallError as exc:
            self.check_usable()
            call = self._call(server, True, deadline, 1)
            error = _unanswered(call) if exc.code is Code.DEADLINE_EXCEEDED else to_error(exc, call)
            if not isinstance(error, Unavailable):
                raise error from exc
            error.__cause__ = exc
            return error
        if is_ready(self.settings.model, ready, index):
            return None
        names = {status.name for status in index or ()}
        only_unpooled = wanted[False] in names and wanted[True] not in names
        problem = self._not_served(server, not only_unpooled, index, known=True)
        if isinstance(problem, ModelNotFound):
            raise problem
        return problem

    def _index(self, server: Server, deadline: Deadline) -> Sequence[ModelStatus] | None:
        """What the server has; None where it does not tell (a restricted server)."""
        try:
            return server.transport.repository_index(deadline.remaining_s())
        except CallError as exc:
            if classify(exc.code, exc.message) is Failure.RESTRICTED:
                return None
            raise to_error(exc, self._call(server, True, deadline, 1)) from exc

    def _not_served(
        self, server: Server, pool: bool, index: Sequence[ModelStatus] | None, *, known: bool, status: str | None = None
    ) -> ModelNotFound | ModelNotReady:
        return not_served(
            self.settings.model,
            pool,
            index,
            known=known,
            address=server.transport.address,
            status=status,
            attempts=1,
        )

    def _call(self, server: Server, pool: bool, deadline: Deadline, attempts: int) -> Call:
        return Call(
            address=server.transport.address,
            model=ensemble_name(self.settings.model, pool),
            timeout_s=deadline.timeout_s,
            expired=deadline.expired,
            attempts=attempts,
        )


def _unanswered(call: Call) -> Unavailable:
    return Unavailable(
        f"the server at {call.address} did not answer in {call.timeout_s:g} s; check that it runs, that this is its "
        f"{port_hint(call.address)}, and that no firewall is between",
        address=call.address,
        model=call.model,
        attempts=call.attempts,
    )
