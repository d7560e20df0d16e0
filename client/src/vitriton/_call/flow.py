"""One call as a state machine. It has no thread, no socket, no clock and no random numbers.

Events are methods: `give` and `end` for the caller's inputs; `taken`, `input_read`, `verified`, `answered` and `failed`
for the outcomes of actions; `step` for the time. The flow appends actions to `actions`; `_call.run` takes and performs
them. One thread at a time may call the methods, and none of them waits.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

from vitriton._call.actions import Action, Batch, Cancel, Read, Send, Verify
from vitriton._call.balance import Balancer, Server
from vitriton._call.line import Line, Reading, Ready, first_failed
from vitriton._call.modality import Prepare
from vitriton._call.plan import Plan
from vitriton._call.results import Item
from vitriton._call.retry import SERVER_DOWN, attempt_s, look_limit_s, no_answer
from vitriton._call.stats import Counters
from vitriton._deadline import Deadline
from vitriton._errors import (
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    InputProblem,
    InvalidInput,
    ServerBusy,
    Unreadable,
    without_frames,
)
from vitriton._options import Options
from vitriton._served.contract import Contract
from vitriton._served.failures import INVALID, Call, after_attempts, deadline_exceeded, to_error
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code, InferReply

_LOG = logging.getLogger("vitriton")


class Flow:
    """Takes the events of one call and issues its actions.

    Args:
        plan: the plan of the call.
        total: the number of inputs; None if it is unknown.
        contract: the contract of the model to call.
        prepare: the function that turns an input into the bytes to send; see `Modality.preparing`.
        deadline: the end of the whole call, renewed by each answer with `plan.renews`; None if only its requests have
            deadlines.
        options: the client's limits.
        balancer: the balancer that picks a server for each request.
        counters: the client's counts.
        jitter: a function that returns a random number from 0 to 1, evenly distributed.

    Attributes:
        actions: the actions to perform, in order.
        sink: the results so far.
        count: the number of inputs taken so far.
        truncated: the number of texts so far that were cut.
    """

    def __init__(
        self,
        plan: Plan,
        total: int | None,
        contract: Contract,
        prepare: Prepare,
        deadline: Deadline | None,
        options: Options,
        balancer: Balancer,
        counters: Counters,
        jitter: Callable[[], float],
    ) -> None:
        self.actions: deque[Action] = deque()
        self.sink = plan.make_sink(contract, total)
        self.count = self.truncated = 0
        self._plan = plan
        self._total = total
        self._contract = contract
        self._modality = plan.modality
        self._prepare = prepare
        self._deadline = deadline
        self._request_s = plan.timeout_s if plan.renews else None
        self._options = options
        self._balancer = balancer
        self._counters = counters
        self._jitter = jitter
        self._settled = 0  # inputs answered or rejected
        self._reading = Reading()
        self._ready = Ready()
        self._sent_bytes = 0  # size of the inputs in requests
        self._line = Line()
        self._ended = False
        self._window = options.max_in_flight * contract.max_batch_size + options.read_ahead

    # State

    @property
    def finished(self) -> bool:
        """Whether there are no more inputs, and each is answered or rejected."""
        return self._ended and self._settled == self.count

    @property
    def wants_input(self) -> bool:
        """Whether the flow can take the next input now."""
        return (
            not self._ended
            and self._reading.exclusive is None
            and self.count - self._settled + self.sink.held < self._window
            and self._ready.has_memory(len(self._reading), self._sent_bytes, self._options)
        )

    @property
    def last_send(self) -> Send | None:
        """The one request left to send and wait for; None if anything else is left."""
        actions, line = self.actions, self._line
        if len(actions) != 1 or not self._ended or len(line.running) != 1:
            return None
        if line.waiting or self._ready.items or self._reading:
            return None
        action = actions[0]
        return action if isinstance(action, Send) else None

    def wait_s(self, now_s: float) -> float | None:
        """The time until the next `step` is needed if no event comes first, in seconds; None means never."""
        if self.actions:
            return 0.0
        next_s = self._line.next_s()
        if self._deadline is not None:
            next_s = min(next_s, self._deadline.ends_at)
        if self._ready.items and self._has_room():
            next_s = min(next_s, self._ready.since_s + self._options.max_linger_s)
        return None if next_s == math.inf else max(0.0, next_s - now_s)

    # Events

    def give(self, given: Any, now_s: float) -> None:
        """Takes the next input; raises InvalidInput if it ends the call."""
        index, source, data = self.count, self._modality.source(given), self._prepare(given)
        self.count += 1
        if data is None:
            self._reading.begin(index, source, given)
            self.actions.append(Read(index, given))
        else:
            self._add(index, source, data, now_s)

    def end(self) -> None:
        """Ends the input: there are no more inputs."""
        self._ended = True

    def taken(self, index: int) -> None:
        """The caller's object is no longer needed: the caller may change it."""
        self._reading.taken(index)

    def input_read(self, index: int, data: bytes | Unreadable, now_s: float) -> None:
        """An input was read, or could not be read; raises InvalidInput if it ends the call."""
        self._add(index, self._reading.end(index), data, now_s)

    def step(self, now_s: float) -> None:
        """Sends the requests that are due.

        Raises:
            ClientError: the call has failed.
        """
        self._check_deadlines(now_s)
        line = self._line
        if line.waiting:
            for batch in line.due(now_s):
                line.waiting.remove(batch)
                self._send(batch, now_s)
        while self._ready.items and self._has_room() and self._is_due(now_s):
            self._send(self._cut(now_s), now_s)

    def verified(self, verify: Verify, mismatch: ClientError | None, now_s: float) -> None:
        """A server's contract was read. It must agree with that of the call; if it does not, raises `mismatch`."""
        if verify.batch.attempt is not verify:  # canceled
            return
        if mismatch is not None:
            raise mismatch
        self._send_to(verify.batch, verify.server, now_s)

    def answered(self, send: Send, reply: InferReply, now_s: float) -> None:
        """A server has answered.

        Raises:
            ClientError: the call has failed.
        """
        batch, server = send.batch, send.server
        if batch.attempt is not send:  # canceled
            return
        batch.attempt = None
        try:
            answer = self._modality.answer(reply, self._contract, len(batch.items))
        except ContractMismatch as exc:
            exc.address, exc.attempts = server.address, batch.attempts
            raise
        count = len(batch.items)
        self.sink.add(batch.items, answer)
        self.truncated += answer.truncated
        server.last_seen_s = now_s
        if server.failures and send.sent_s >= server.failed_s:  # a server that stops answers earlier requests
            self._balancer.succeeded(server)
        self._counters.answered(self._modality.tower, count)
        self._settled += count
        self._sent_bytes -= batch.byte_size
        self._line.running.discard(batch)
        if self._request_s is not None:  # progress: renews the deadlines of later requests and of the call
            self._line.renew_behind(batch, now_s)
            if self._deadline is not None:
                self._deadline.renew(now_s)

    def failed(self, attempt: Send | Verify, error: CallError, now_s: float) -> None:
        """An attempt failed.

        Raises:
            ClientError: the call has failed.
        """
        batch, server = attempt.batch, attempt.server
        if batch.attempt is not attempt:  # canceled
            return
        error = self.attempt_error(attempt, error, now_s)
        failure = classify(error.code, error.message)
        batch.attempt = None
        shown = to_error(error, self._context(batch, server, now_s))
        shown.__cause__ = without_frames(error)
        if isinstance(shown, InvalidInput) and self._plan.returns_errors:
            self._drop_bad(batch, shown, now_s)
        else:
            self._retry_or_raise(attempt, failure, shown, now_s)

    def attempt_error(self, attempt: Send | Verify, error: CallError, now_s: float) -> CallError:
        """The error of an attempt; a timeout shorter than the request's own counts as an unreachable server."""
        batch = attempt.batch
        if error.code is Code.DEADLINE_EXCEEDED and batch.cut_short and not batch.deadline.is_over(now_s):
            return no_answer(error, attempt.timeout_s, self._options.attempt_timeout_s)
        return error

    def close(self) -> None:
        """Ends the call early. The remaining actions only cancel its requests."""
        self.actions.clear()
        if not self._line.is_empty:
            sent = [batch.attempt for batch in self._line.running if isinstance(batch.attempt, Send)]
            self.actions.extend(map(Cancel, sent))
            self._line.clear()

    def _add(self, index: int, source: str, data: bytes | Unreadable, now_s: float) -> None:
        if not isinstance(data, Unreadable):
            self._ready.add(Item(index, source, data), now_s)
            return
        self._check_deadlines(now_s)  # a missed deadline may be the reason
        self._reject(InputProblem(index, source, data.reason, data.code), data.cause)

    def _reject(self, problem: InputProblem, cause: BaseException | None, **context: Any) -> None:
        self._settled += 1
        self._counters.rejected(self._modality.tower)
        error = INVALID[self._modality.tower]([problem], self._total, **context)
        error.__cause__ = cause
        self.sink.reject(problem.index, problem.source, error)

    # Sending

    def _has_room(self) -> bool:
        return len(self._line.running) + len(self._line.waiting) < self._options.max_in_flight

    def _is_due(self, now_s: float) -> bool:
        """Whether to send the inputs that are ready: they fill a request, no more will come, or they waited enough."""
        ready, plan = self._ready, self._plan
        if len(ready.items) >= self._contract.max_batch_size or ready.byte_size >= self._options.max_request_bytes:
            return True
        if self._ended and not self._reading:
            return True
        if plan.eager and self._line.is_empty:
            return True
        if self.wants_input and not plan.awaited:  # the next input is given at once
            return False
        if not self.wants_input and not self._reading:
            return True
        return now_s >= ready.since_s + self._options.max_linger_s

    def _cut(self, now_s: float) -> Batch:
        items, byte_size = self._ready.cut(self._contract.max_batch_size, self._options.max_request_bytes)
        self._sent_bytes += byte_size
        deadline = self._deadline
        if deadline is None:
            deadline = Deadline.starting(now_s, self._request_s)
        elif self._request_s is not None:
            deadline = deadline.later(0.0)
        return Batch(items, byte_size, deadline, self._line.next_turn())

    def _send(self, batch: Batch, now_s: float) -> None:
        self._line.running.add(batch)
        server = batch.server = self._balancer.pick(now_s, batch.failed_on)
        batch.attempts += 1
        known = server.known_contract(self._contract.model, now_s)
        if known is self._contract or (known is not None and self._contract.accepts(known)):
            self._send_to(batch, server, now_s)
        else:
            batch.attempt = Verify(batch, server, self._attempt_s(batch, now_s, verifies=True), batch.attempts)
            self.actions.append(batch.attempt)

    def _send_to(self, batch: Batch, server: Server, now_s: float) -> None:
        batch.attempt = Send(batch, server, self._attempt_s(batch, now_s), batch.attempts, now_s)
        self.actions.append(batch.attempt)

    def _attempt_s(self, batch: Batch, now_s: float, *, verifies: bool = False) -> float | None:
        left_s = self._line.latest_end(batch, self._request_s).left_s(now_s)
        limit_s = self._options.attempt_timeout_s
        if verifies:
            limit_s = look_limit_s(left_s, limit_s, len(self._balancer.servers), len(batch.failed_on))
        timeout_s, batch.cut_short = attempt_s(left_s, limit_s)
        return timeout_s

    # Failures

    def _drop_bad(self, batch: Batch, error: InvalidInput, now_s: float) -> None:
        """Rejects the invalid inputs and sends the others again."""
        problems = {problem.index: problem for problem in error.errors}
        bad = [item for item in batch.items if item.index in problems]
        batch.items = [item for item in batch.items if item.index not in problems]
        bad_bytes = sum(len(item.data) for item in bad)
        batch.byte_size -= bad_bytes
        self._sent_bytes -= bad_bytes
        context = {"address": error.address, "model": error.model, "status": error.status, "attempts": batch.attempts}
        for item in bad:
            self._reject(problems[item.index], error.__cause__, **context)
        if batch.items:
            self._send(batch, now_s)
        else:
            self._line.running.discard(batch)

    def _retry_or_raise(self, attempt: Send | Verify, failure: Failure, error: ClientError, now_s: float) -> None:
        batch, server = attempt.batch, attempt.server
        batch.failed_on.add(server)
        untried = len(batch.failed_on) < len(self._balancer.servers)
        wait_s = self._balancer.backoff.wait_s(failure, batch.attempts, self._jitter())
        if failure is Failure.UNKNOWN_MODEL and untried:  # another server may have the model
            wait_s = 0.0
        if failure in SERVER_DOWN or failure is Failure.UNKNOWN_MODEL:
            self._balancer.failed(server, now_s, error, None if wait_s is None else batch.deadline)
        elif failure is not Failure.DEADLINE:  # the server has answered
            server.last_seen_s = now_s
        if isinstance(error, DeadlineExceeded):  # the server may be the first to notice, in its queue
            earlier = batch if batch.error is not None else self._line.failed_before(batch.deadline)
            raise error if earlier is None else self._too_late(earlier, now_s)
        if wait_s is None:
            raise error
        if untried and failure in SERVER_DOWN:
            wait_s = 0.0
        if isinstance(error, ServerBusy):
            batch.turn = self._line.next_turn()
        batch.error = error
        batch.due_s = now_s + wait_s
        self._line.running.discard(batch)
        self._line.waiting.append(batch)
        if isinstance(attempt, Send):
            self._counters.retried()
        _LOG.debug("request of %d inputs to %s: %s; again in %.2f s", len(batch.items), error.model, error, wait_s)

    # The time

    def _check_deadlines(self, now_s: float) -> None:
        deadline = self._deadline
        if self._request_s is None and deadline is not None and not deadline.is_over(now_s):
            return  # all requests share the call's deadline
        late = self._line.late(now_s)
        if late:
            raise self._too_late(first_failed(late) or late[0], now_s)
        if deadline is not None and deadline.is_over(now_s) and not self.finished:
            raise deadline_exceeded(self._context(None, None, now_s), during=self._occupation())

    def _occupation(self) -> str | None:
        """What the call waits for on the client's side; None if it waits for a server."""
        if not self._line.is_empty:
            return None
        if self._reading:
            return f"while {self._modality.tower}s were read"
        return None if self._ended else f"before the iterable of {self._modality.tower}s gave the next one"

    def _too_late(self, batch: Batch, now_s: float) -> ClientError:
        if batch.error is not None:
            return after_attempts(batch.error, batch.attempts, batch.deadline)
        return deadline_exceeded(self._context(batch, batch.server, now_s))

    def _context(self, batch: Batch | None, server: Server | None, now_s: float) -> Call:
        items = batch.items if batch is not None else []
        deadline = batch.deadline if batch is not None else self._deadline
        return Call(
            address=server.address if server is not None else self._balancer.address,
            model=self._contract.model,
            timeout_s=deadline.timeout_s if deadline is not None else None,
            expired=deadline is not None and deadline.is_over(now_s),
            renewed=deadline is not None and deadline.renewed,
            attempts=batch.attempts if batch is not None else 0,
            tower=self._modality.tower,
            indices=[item.index for item in items],
            sources=[item.source for item in items],
            total=self._total,
        )
