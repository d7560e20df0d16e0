"""The contracts of a client's servers, read from their configurations."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from vitriton._call.balance import Balancer, Server
from vitriton._call.lifetime import Lifetime
from vitriton._call.modality import Service
from vitriton._call.retry import SERVER_DOWN, attempt_s, look_limit_s, no_answer
from vitriton._call.settings import Settings
from vitriton._deadline import Deadline
from vitriton._errors import ClientClosed, ClientError, ContractMismatch, ModelNotFound, ModelNotReady, Unavailable
from vitriton._repository.names import ENSEMBLES, KINDS, Kind, encoder_name, ensemble_name
from vitriton._served.catalog import read_index, read_model
from vitriton._served.contract import Contract, read_contract
from vitriton._served.failures import Call, after_attempts, not_served, silence, to_error
from vitriton._served.index import is_ready
from vitriton._served.model import ModelInfo
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code, ModelStatus

_LOG = logging.getLogger("vitriton")

WaitFor = Literal["all", "any"]

_POLL_S = 0.1  # time between two checks of a server that is starting
_FIRST_LOOK_S = 1.0  # time for each server in the first search for one that is ready
_PATIENCE_S = 4.0  # a server that is silent for less may only be slow


class Services:
    """Reads what the servers serve under the client's model name. Safe to share between threads.

    Methods that wait for a server block the calling thread.

    Args:
        settings: the client's settings.
        balancer: the balancer with the client's servers.
        lifetime: the client's lifetime.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, settings: Settings, balancer: Balancer, lifetime: Lifetime, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._balancer = balancer
        self._lifetime = lifetime
        self._clock = clock
        self._services: dict[Kind, Service] = {}  # an item is set or read in one step, so no lock is needed

    def known(self, kind: Kind) -> Service | None:
        """The service that `get` found before, if it may still be valid."""
        known = self._services.get(kind)
        if known is None:
            return None
        now_s, model = self._clock(), known.contract.model
        for server in self._balancer.servers:
            if server.known_contract(model, now_s) is not None:
                return known
        return None

    def get(self, kind: Kind, deadline: Deadline) -> Service:
        """The service under the client's model name; waits for a server that answers.

        Raises:
            ClientError: see `Client.embed`.
        """
        return self.known(kind) or self._find((kind,), deadline)

    def any_service(self, deadline: Deadline) -> Service:
        """The service of the first kind that the model has; see `get`."""
        return self._find(KINDS, deadline)

    def _find(self, kinds: Sequence[Kind], deadline: Deadline) -> Service:
        """The service of the first of `kinds` that a server has; waits for a server that answers."""
        failed_on: set[Server] = set()
        attempts = 0
        error: ClientError | None = None
        while True:
            self._lifetime.check_usable()
            server = self._balancer.pick(self._clock(), failed_on)
            attempts += 1
            left_s, limit_s = deadline.remaining_s(), self._settings.options.attempt_timeout_s
            servers = len(self._balancer.servers)
            timeout_s, cut_short = attempt_s(left_s, look_limit_s(left_s, limit_s, servers, len(failed_on)))
            try:
                service = self._read_first(server, kinds, Deadline.after(timeout_s), attempts)
            except CallError as exc:
                if cut_short and exc.code is Code.DEADLINE_EXCEEDED and not deadline.expired:
                    exc = no_answer(exc, timeout_s, limit_s)
                if error is not None and exc.code is Code.DEADLINE_EXCEEDED:
                    raise after_attempts(error, attempts, deadline) from exc
                failed_on.add(server)
                error = self._wait_for_retry(server, kinds, exc, attempts, failed_on, deadline)
                continue
            self._note_contract(server, service.contract)
            if server in failed_on:  # else it may be stopping: it still tells its configuration then
                self._balancer.succeeded(server)
            self._services[service.contract.kind] = service
            return service

    def verify(self, server: Server, contract: Contract, deadline: Deadline, attempts: int) -> None:
        """Checks that a server has the contract of the call, before it gets its first request.

        Raises:
            CallError: the server does not answer.
            ContractMismatch: the server has another contract.
        """
        service = self._read_service(server, contract.kind, deadline, attempts)
        if not contract.accepts(service.contract):
            raise ContractMismatch(
                f"model {self._settings.model} on the server at {server.address} is not the model that the call began "
                f"with: fingerprint {service.contract.fingerprint} in place of {contract.fingerprint}, output "
                f"{service.contract.dtype} {list(service.contract.shape)} in place of {contract.dtype} "
                f"{list(contract.shape)}, max_batch_size {service.contract.max_batch_size} in place of "
                f"{contract.max_batch_size}; vectors of the two must not be mixed",
                address=server.address,
                model=contract.model,
                attempts=attempts,
            )
        self._note_contract(server, service.contract)

    def forget(self) -> None:
        """Forgets all contracts: the servers may serve another export under the same name by now."""
        self._services.clear()
        for server in self._balancer.servers:
            server.contracts.clear()

    def describe(self, deadline: Deadline) -> ModelInfo:
        """See `Client.describe`."""
        self._lifetime.check_usable()
        servers = self._balancer.servers
        for attempts in itertools.count(1):
            self.forget()
            self.any_service(deadline)  # waits for a server that answers, and checks its fingerprint
            server = next((server for server in servers if server.contracts), servers[0])
            try:
                info = read_model(server.transport, self._settings.model, deadline)
            except CallError as exc:
                self._wait_for_retry(server, KINDS, exc, attempts, set(servers), deadline)
                continue
            if info.outputs:  # else it was unloaded just now
                break
        return replace(info, addresses=tuple(server.address for server in servers))

    def wait_ready(self, timeout_s: float | None, servers: WaitFor) -> None:
        """See `Client.wait_ready`."""
        if servers not in get_args(WaitFor):
            raise ValueError(f"servers is {servers!r}; it must be 'all' or 'any'")
        deadline = Deadline.after(timeout_s)
        self.forget()
        problem: ClientError | None = None
        look_s = _FIRST_LOOK_S
        while True:
            self._lifetime.check_usable()
            latest = self._look(servers, deadline, look_s)
            look_s *= 2  # gives a slow server more time
            if latest is None:
                return
            # the last check has hardly any time, so the problem that the one before it found says more
            if problem is None or not deadline.expired:
                problem = latest
            if deadline.expired:
                raise problem
            self._lifetime.wait(deadline.bounded_s(_POLL_S))

    def _note_contract(self, server: Server, contract: Contract) -> None:
        server.contracts[contract.model] = contract
        server.last_seen_s = self._clock()

    def _read_first(self, server: Server, kinds: Sequence[Kind], deadline: Deadline, attempts: int) -> Service:
        """Reads the first of `kinds` that a server has. That it lacks those before is no failure of the server."""
        *others, last = kinds
        for kind in others:
            try:
                return self._read_service(server, kind, deadline, attempts)
            except CallError as exc:
                if classify(exc.code, exc.message) is not Failure.UNKNOWN_MODEL:
                    raise
        return self._read_service(server, last, deadline, attempts)

    def _read_service(self, server: Server, kind: Kind, deadline: Deadline, attempts: int) -> Service:
        try:
            return self._read_configuration(server, kind, deadline)
        except ContractMismatch as exc:
            exc.address, exc.model = server.address, ensemble_name(self._settings.model, kind)
            exc.attempts = attempts
            raise

    def _read_configuration(self, server: Server, kind: Kind, deadline: Deadline) -> Service:
        transport = server.transport
        config = transport.model_config(ensemble_name(self._settings.model, kind), deadline.remaining_s())
        contract = read_contract(config, kind)
        expected = self._settings.expect_fingerprint
        if expected is not None and contract.fingerprint != expected:
            raise ContractMismatch(
                f"model {self._settings.model} on the server at {transport.address} has the fingerprint "
                f"{contract.fingerprint}, and {expected} was expected (expect_fingerprint): vectors of the two must "
                "not be mixed",
                address=transport.address,
                model=contract.model,
            )
        if self._settings.preprocess == "server" or contract.texts is not None:
            return Service(contract)
        from vitriton._images import pixels
        from vitriton.preprocessing import Memory

        spec = pixels.read_preprocess(contract)
        memory = Memory(spec.limits.max_decode_bytes)
        encoder = transport.model_config(encoder_name(contract.model), deadline.remaining_s())
        return Service(pixels.encoder_contract(contract, encoder, spec), partial(pixels.encode, spec, memory=memory))

    def _wait_for_retry(
        self,
        server: Server,
        kinds: Sequence[Kind],
        failed: CallError,
        attempts: int,
        failed_on: set[Server],
        deadline: Deadline,
    ) -> ClientError:
        """Waits until the next attempt is due, then returns this one's error; raises it if there must be no other."""
        self._lifetime.check_usable()
        failure = classify(failed.code, failed.message)
        error: ClientError | None = None
        if failure in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):
            known, status = failure is Failure.NOT_READY, failed.code.value
            try:
                index = read_index(server.transport, deadline)
            except CallError as exc:  # a Triton that stops unloads its models first
                failed, failure = exc, classify(exc.code, exc.message)
            else:
                error = self._not_served(server, kinds, index, known=known, status=status)
        if error is None:
            error = to_error(failed, self._call(server, kinds[0], deadline, attempts))
        error.__cause__ = failed
        untried = len(failed_on) < len(self._balancer.servers)
        wait_s = self._balancer.backoff.wait_s(failure, attempts, 1.0)
        if untried and (failure in SERVER_DOWN or failure is Failure.UNKNOWN_MODEL):
            wait_s = 0.0
        # a server that has the model, but not this output, is not down
        has_another_output = isinstance(error, ModelNotFound) and self._settings.model in error.available
        if failure in SERVER_DOWN or (failure is Failure.UNKNOWN_MODEL and not has_another_output):
            self._balancer.failed(server, self._clock(), error, None if wait_s is None else deadline)
        if wait_s is None:
            raise error
        _LOG.debug("configuration of %s: %s; again in %.2f s", error.model, error, wait_s)
        self._lifetime.wait(deadline.bounded_s(wait_s))
        if deadline.expired:
            raise after_attempts(error, attempts, deadline)
        return error

    def _look(self, servers: WaitFor, deadline: Deadline, look_s: float) -> ClientError | None:
        """A reason why the model is not ready, on "all" servers or on "any"; None if it is ready.

        Args:
            servers: the servers that have to be ready.
            deadline: the end of the wait.
            look_s: the time for each server, in seconds, so that a silent one does not hide the others.

        Raises:
            ClientError: waiting does not help: one server refuses where all are wanted, or every server does.
        """
        problems, refusals = [], []
        for server in self._balancer.servers:
            look_at_most_s = deadline.bounded_s(look_s)
            try:
                problem = self._look_at(server, Deadline.after(look_at_most_s))
            except ClientClosed:
                raise
            except ClientError as exc:
                refusals.append(exc)
                continue
            if problem is not None:
                problems.append(problem)
                if problem.status != Code.DEADLINE_EXCEEDED.value or look_at_most_s >= _PATIENCE_S:
                    self._balancer.failed(server, self._clock(), problem, deadline)
                continue
            self._balancer.succeeded(server)
            if servers == "any":
                return None
        if refusals and (servers == "all" or not problems):
            raise refusals[0]
        # of a server that refuses and one that does not answer, the first has more to say
        return next(iter([*refusals, *problems]), None)

    def _look_at(self, server: Server, deadline: Deadline) -> ClientError | None:
        try:
            ready = [kind for kind in KINDS if self._is_ready(server, kind, deadline)]
            index = None if len(ready) == len(KINDS) else read_index(server.transport, deadline)
        except CallError as exc:
            self._lifetime.check_usable()
            call = self._call(server, "pooled", deadline, 1)
            error = to_error(exc, call)
            if exc.code is Code.DEADLINE_EXCEEDED:
                error, exc = _unanswered(call), CallError(exc.code, f"no answer in {call.timeout_s:g} s")
            if not isinstance(error, Unavailable):
                raise error from exc
            error.__cause__ = exc
            return error
        if is_ready(self._settings.model, ready, index):
            return None
        problem = self._not_served(server, [kind for kind in KINDS if kind not in ready], index, known=True)
        if isinstance(problem, ModelNotFound):
            raise problem
        return problem

    def _is_ready(self, server: Server, kind: Kind, deadline: Deadline) -> bool:
        """Whether an ensemble is loaded. Its configuration counts: some web servers answer 200 to any path."""
        if not server.transport.is_model_ready(ensemble_name(self._settings.model, kind), deadline.remaining_s()):
            return False
        try:
            self._read_service(server, kind, deadline, 1)
        except CallError as exc:
            if classify(exc.code, exc.message) in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):  # unloaded just now
                return False
            raise
        return True

    def _not_served(
        self,
        server: Server,
        kinds: Sequence[Kind],
        index: Sequence[ModelStatus] | None,
        *,
        known: bool,
        status: str | None = None,
    ) -> ModelNotFound | ModelNotReady:
        """The error for a model of which a server serves none of `kinds`: about the first that its index has."""
        listed = {listed.name for listed in index or ()}
        kind = next((kind for kind in kinds if ensemble_name(self._settings.model, kind) in listed), kinds[0])
        return not_served(
            self._settings.model, kind, index, known=known, address=server.address, status=status, attempts=1
        )

    def _call(self, server: Server, kind: Kind, deadline: Deadline, attempts: int) -> Call:
        return Call(
            address=server.address,
            model=ensemble_name(self._settings.model, kind),
            timeout_s=deadline.timeout_s,
            expired=deadline.expired,
            attempts=attempts,
            tower=ENSEMBLES[kind].tower,
        )


def _unanswered(call: Call) -> Unavailable:
    return Unavailable(
        silence(call.address, call.timeout_s),
        address=call.address,
        model=call.model,
        status=Code.DEADLINE_EXCEEDED.value,
        attempts=call.attempts,
    )
