"""One call, as a machine that is fed images and events: it decides what to read, to send, to send again and to give up.

A shell (`_client`, `_async_client`) gives it images, waits for events, and passes on what is ready; the flow itself
waits for nothing but the last answer, where nothing else is left to do. All methods are called by one thread at a time;
only `post`, which the shell gives, is called from others.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from vitriton._call.balance import Server
from vitriton._call.results import Item, Sink
from vitriton._call.retry import SERVER_DOWN
from vitriton._deadline import Deadline
from vitriton._errors import (
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    ImageProblem,
    InvalidImage,
    ServerBusy,
    without_frames,
)
from vitriton._images.reading import Encode, Unreadable, encoded, is_slow
from vitriton._images.sources import source_name
from vitriton._served.contract import Contract, read_reply
from vitriton._served.failures import Call, after_attempts, deadline_exceeded, to_error
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code, InferReply, InferRequest, Pending

if TYPE_CHECKING:
    from vitriton._call.session import Core

_LOG = logging.getLogger("vitriton")

Event = Callable[[], None]

_NO_HEADERS: Mapping[str, str] = {}
_NO_DEADLINE = Deadline.after(None)
_GIVEN_UP = CallError(Code.CANCELLED, "given up by this client")


@dataclass(eq=False, kw_only=True)
class _Batch:
    """Images that travel together.

    Attributes:
        items: that are still to be answered.
        byte_size: of their images.
        deadline: of the request with all its attempts.
        turn: its place in the line of requests; a server that is busy sends it to the end.
        attempts: so far.
        failed_on: servers that are not worth asking again as long as there are others.
        due_s: when it is sent again.
        cut_short: whether the running attempt has less time than the request.
        error: of the last attempt that may be repeated.
        server: that has it now.
        pending: the running attempt; None before it is sent.
        span: of the running attempt, for tracing.
    """

    items: list[Item]
    byte_size: int
    deadline: Deadline
    turn: int
    attempts: int = 0
    failed_on: set[Server] = field(default_factory=set)
    due_s: float = 0.0
    cut_short: bool = False
    error: ClientError | None = None
    server: Server | None = None
    pending: Pending | None = None
    span: Any = None


_Last = tuple[_Batch, Server, Coroutine[Any, Any, InferReply]]


class Flow:
    """See the module.

    Args:
        core: what the calls of a client share.
        contract: of the model that is called.
        encode: makes pixels on this side; None leaves that to the server.
        sink: takes the results.
        post: puts an event, to be called by the shell's thread, in the shell's queue.
        deadline: of the whole call; with `timeout_s` it starts anew with each answer. None: the call has no end of its
            own.
        timeout_s: of each request, in seconds, counted anew from each answer to a request before it; None: a request
            has what the call has.
        total: images in the call, None where it is not known.
        returns_errors: whether an image that cannot be used costs only itself.
        inline: whether the shell's thread may wait for what it alone has to wait for: the caller's own objects (files,
            PIL images) to be read, the last request to be answered.
        eager: whether images are sent without waiting for others while no request is running: for a source that may
            block the shell.
        awaited: whether images come when they like, as events: those that are there wait for others only so long.
    """

    def __init__(
        self,
        core: Core,
        contract: Contract,
        encode: Encode | None,
        sink: Sink,
        post: Callable[[Event], None],
        *,
        deadline: Deadline | None,
        timeout_s: float | None,
        total: int | None,
        returns_errors: bool,
        inline: bool,
        eager: bool,
        awaited: bool,
    ) -> None:
        self._core = core
        self._options = core.options
        self._contract = contract
        self._encode = encode
        self._sink = sink
        self._post = post
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._total = total
        self._returns_errors = returns_errors
        self._inline = inline
        self._eager = eager
        self._awaited = awaited
        self._trace_context = core.tracer.context() if core.tracer is not None else None
        self._count = 0  # images taken from the caller
        self._settled = 0  # of them, answered or rejected
        self._reading: dict[int, str] = {}  # index → source
        self._exclusive = False  # an object of the caller is being read on a thread: no other may be asked for
        self._ready: deque[Item] = deque()
        self._ready_since_s = 0.0
        self._ready_bytes = 0
        self._held_bytes = 0  # ready, or with a server
        self._turns = itertools.count()
        self._running: set[_Batch] = set()
        self._waiting: list[_Batch] = []  # to be sent again
        self._ended = False
        self._closed = False
        self._last: _Last | None = None
        self._window = self._options.max_in_flight * contract.max_batch_size + self._options.read_ahead

    @property
    def count(self) -> int:
        """Images taken so far."""
        return self._count

    @property
    def finished(self) -> bool:
        """Whether all images were given and all are settled."""
        return self._ended and self._settled == self._count

    @property
    def wants_image(self) -> bool:
        """Whether the next image may be given now."""
        return (
            not self._ended
            and not self._exclusive
            and self._count - self._settled + self._sink.held < self._window
            and self._held_bytes < self._options.max_held_bytes
        )

    def give(self, image: Any) -> None:
        """Takes the next image."""
        index = self._count
        self._count += 1
        if type(image) is bytes and self._encode is None and len(image) <= self._options.max_image_bytes:
            self._add(Item(index, "bytes", image))
            return
        source = source_name(image)
        self._reading[index] = source
        if not is_slow(image) and self._inline:
            data = self._core.reader.read(image, None, self._read_deadline())
            if self._encode is None or isinstance(data, Unreadable):
                self._read(index, source, data)
            else:
                self._submit(partial(self._encode_later, index, source, data, self._encode))
            return
        self._exclusive = not is_slow(image) and not isinstance(image, bytes)
        self._submit(partial(self._read_later, index, source, image))

    def fill(self, take: Callable[[Callable[[Any], None]], bool]) -> bool:
        """Takes images as long as there are some and they are wanted.

        Args:
            take: passes the next image to the function that it gets, and returns whether there was one; raises
                StopIteration when there are no more.

        Returns:
            Whether another may be there: a source that may block is asked again after `step`.
        """
        while self.wants_image:
            try:
                if not take(self.give):
                    return False
            except StopIteration:
                self.end()
            if self._eager:
                return self.wants_image
        return False

    def end(self) -> None:
        """There are no more images."""
        self._ended = True

    def step(self) -> None:
        """Sends what is due.

        Raises:
            ClientError: the call has failed.
        """
        self._check_deadlines()
        if not (self._ready or self._waiting):
            return
        now_s = self._core.clock()
        if self._waiting:
            for batch in [batch for batch in self._waiting if batch.due_s <= now_s]:
                if len(self._running) == self._options.max_in_flight:
                    return
                self._waiting.remove(batch)
                self._send(batch)
        while self._ready and self._has_room() and self._is_due(now_s):
            self._send(self._cut())

    def _has_room(self) -> bool:
        return len(self._running) + len(self._waiting) < self._options.max_in_flight

    @property
    def has_last(self) -> bool:
        """Whether there is nothing else to do but `finish_last`."""
        return self._last is not None

    async def finish_last(self) -> None:
        """Waits for the last request, which saves the way through the shell's queue of events.

        Raises:
            ClientError: the call has failed.
        """
        assert self._last is not None  # has_last
        (batch, server, reply), self._last = self._last, None
        try:
            self._answered(batch, server, await reply)
        except CallError as exc:
            self._failed(batch, exc)

    def wait_s(self) -> float | None:
        """How long nothing can be done unless an event comes, in seconds; None is for ever."""
        now_s = self._core.clock()
        times = [batch.due_s for batch in self._waiting]
        times += [batch.deadline.ends_at for batch in (*self._running, *self._waiting)]
        if self._deadline is not None:
            times.append(self._deadline.ends_at)
        if self._ready and self._has_room():
            times.append(self._ready_since_s + self._options.max_linger_s)
        soonest_s = min(times, default=math.inf)
        return None if soonest_s == math.inf else max(0.0, soonest_s - now_s)

    def close(self) -> None:
        """Gives up what is still running."""
        self._closed = True
        if self._last is not None:
            self._last[2].close()
        for batch in self._running:
            if batch.pending is not None:
                batch.pending.cancel()
            self._end_attempt(batch, _GIVEN_UP)
        for batch in (*self._running, *self._waiting):
            batch.items, batch.error = [], None  # a frame may hold the batch for longer
        self._running.clear()
        self._waiting.clear()

    # Reading

    def _read_deadline(self) -> Deadline:
        return self._deadline or _NO_DEADLINE

    def _submit(self, work: Callable[[], object]) -> None:
        self._core.submit_reading(work)

    def _read_later(self, index: int, source: str, image: Any) -> None:
        """On a thread."""
        if not self._closed:
            data = self._core.reader.read(image, self._encode, self._read_deadline())
            self._post(partial(self._read, index, source, data))

    def _encode_later(self, index: int, source: str, data: bytes, encode: Encode) -> None:
        """On a thread."""
        if not self._closed:
            self._post(partial(self._read, index, source, encoded(data, encode)))

    def _read(self, index: int, source: str, data: bytes | Unreadable) -> None:
        if self._reading.pop(index, None) is not None and self._exclusive:
            self._exclusive = False
        if isinstance(data, Unreadable):
            self._check_deadlines()  # that may be why
            self._reject(index, source, data.reason, data.cause)
            return
        self._add(Item(index, source, data))

    def _add(self, item: Item) -> None:
        if not self._ready:
            self._ready_since_s = self._core.clock()
        self._ready.append(item)
        self._ready_bytes += len(item.data)
        self._held_bytes += len(item.data)

    def _reject(self, index: int, source: str, reason: str, cause: BaseException | None, **context: Any) -> None:
        self._settled += 1
        self._core.counters.rejected()
        error = InvalidImage([ImageProblem(index, source, reason)], self._total, **context)
        error.__cause__ = cause
        self._sink.reject(index, source, error)

    # Sending

    def _is_due(self, now_s: float) -> bool:
        """Whether a request is made of what there is: it is full, nothing else will come, or it has waited enough."""
        if len(self._ready) >= self._contract.max_batch_size or self._ready_bytes >= self._options.max_request_bytes:
            return True
        if self._ended and not self._reading:
            return True
        if self._eager and not self._running and not self._waiting:
            return True
        if self.wants_image and not self._awaited:  # another is given at once
            return False
        if not self.wants_image and not self._reading:
            return True
        return now_s >= self._ready_since_s + self._options.max_linger_s

    def _cut(self) -> _Batch:
        """As many images as fit into one request; at least one."""
        items: list[Item] = []
        used = 0
        while self._ready and len(items) < self._contract.max_batch_size:
            size = len(self._ready[0].data)
            if items and used + size > self._options.max_request_bytes:
                break
            used += size
            items.append(self._ready.popleft())
        self._ready_bytes -= used
        return _Batch(items=items, byte_size=used, deadline=self._request_deadline(), turn=next(self._turns))

    def _request_deadline(self) -> Deadline:
        if self._deadline is None:
            return Deadline.after(self._timeout_s)
        return self._deadline if self._timeout_s is None else self._deadline.later(0.0)

    def _send(self, batch: _Batch) -> None:
        now_s = self._core.clock()
        self._running.add(batch)
        batch.server = self._core.balancer.pick(now_s, batch.failed_on)
        batch.attempts += 1
        promised = batch.server.promise(self._contract.model, now_s)
        if promised is self._contract or (promised is not None and self._contract.accepts(promised)):
            self._send_to(batch, batch.server)
        else:
            attempt, batch.cut_short = self._core.attempt(self._latest_end(batch))
            self._core.submit_control(partial(self._verify, batch, batch.server, attempt, batch.attempts))

    def _verify(self, batch: _Batch, server: Server, attempt: Deadline, attempts: int) -> None:
        """On a thread: what does this server promise?"""
        error: Exception | None = None
        try:
            self._core.verify(server, self._contract, attempt, attempts)
        except (CallError, ClientError) as exc:
            error = without_frames(exc)
        self._post(partial(self._verified, batch, server, error))

    def _verified(self, batch: _Batch, server: Server, error: Exception | None) -> None:
        if batch not in self._running:
            return
        if error is None:
            self._send_to(batch, server)
        elif isinstance(error, CallError):
            self._failed(batch, error)
        else:
            raise error

    def _send_to(self, batch: _Batch, server: Server) -> None:
        attempt, batch.cut_short = self._core.attempt(self._latest_end(batch))
        timeout_s = attempt.remaining_s()
        headers: Mapping[str, str] = _NO_HEADERS
        if self._core.tracer is not None:
            batch.span, headers = self._core.tracer.start(
                self._contract.model, server.transport.address, len(batch.items), batch.attempts, self._trace_context
            )
        request = InferRequest(
            model=self._contract.model,
            input_name=self._contract.input,
            datatype=self._contract.datatype,
            item_shape=self._contract.item_shape,
            images=[item.data for item in batch.items],
            output_name=self._contract.output,
            timeout_s=timeout_s,
            headers=headers,
        )
        self._core.counters.sent(batch.byte_size)
        try:
            if self._is_last():
                if self._inline:
                    self._answered(batch, server, server.transport.infer(request, timeout_s))
                    return
                if server.awaitable is not None:
                    self._last = batch, server, server.awaitable.infer_async(request, timeout_s)
                    return
            batch.pending = pending = server.transport.send(request, timeout_s)
        except CallError as exc:
            self._failed(batch, exc)
            return
        pending.add_done_callback(lambda: self._post(partial(self._done, batch, pending)))

    def _latest_end(self, batch: _Batch) -> Deadline:
        """When the request's time is over if each request before it takes all of its own."""
        if self._timeout_s is None:
            return batch.deadline
        before = sum(other.turn < batch.turn for other in (*self._running, *self._waiting))
        return batch.deadline.later(before * self._timeout_s) if before else batch.deadline

    def _is_last(self) -> bool:
        """Whether nothing else can be done until the running request is answered."""
        return self._ended and len(self._running) == 1 and not (self._waiting or self._ready or self._reading)

    # Answers

    def _done(self, batch: _Batch, pending: Pending) -> None:
        if batch not in self._running or batch.pending is not pending:  # given up
            return
        assert batch.server is not None  # it has been sent
        try:
            reply = pending.result()
        except CallError as exc:
            self._failed(batch, exc)
            return
        self._answered(batch, batch.server, reply)

    def _answered(self, batch: _Batch, server: Server, reply: InferReply) -> None:
        try:
            rows = read_reply(reply, self._contract, len(batch.items))
        except ContractMismatch as exc:
            exc.address, exc.attempts = server.transport.address, batch.attempts
            self._end_attempt(batch, exc)
            raise
        self._sink.add(batch.items, rows)
        server.heard_s = self._core.clock()
        if server.failures:
            self._core.balancer.succeeded(server)
        self._core.counters.answered(len(batch.items))
        self._end_attempt(batch, None)
        self._settled += len(batch.items)
        self._held_bytes -= batch.byte_size
        self._running.discard(batch)
        if self._timeout_s is not None:
            self._renew(batch)

    def _renew(self, answered: _Batch) -> None:
        """An answer shows that the server works: the requests behind it have their time anew, and so has the call.

        Not those before it: one that is overtaken again and again would otherwise never be missed.
        """
        if self._deadline is not None:
            self._deadline.renew()
        for batch in (*self._running, *self._waiting):
            if batch.turn > answered.turn:
                batch.deadline.renew()

    def _end_attempt(self, batch: _Batch, error: Exception | None) -> None:
        if batch.span is not None and self._core.tracer is not None:
            self._core.tracer.end(batch.span, error)
        batch.span = batch.pending = None

    def _failed(self, batch: _Batch, failed: CallError) -> None:
        failure = classify(failed.code, failed.message)
        server = batch.server
        assert server is not None  # it has been sent
        if failure is Failure.DEADLINE and batch.cut_short and not batch.deadline.expired:
            failed, failure = self._core.no_answer(failed), Failure.UNREACHABLE
        self._end_attempt(batch, failed)
        error = to_error(failed, self._context(batch, server))
        error.__cause__ = without_frames(failed)
        if isinstance(error, InvalidImage) and self._returns_errors:
            self._drop_bad(batch, error)
            return
        self._retry_or_raise(batch, server, failure, error)

    def _drop_bad(self, batch: _Batch, error: InvalidImage) -> None:
        """Each bad image costs only itself: the others go again."""
        reasons = {problem.index: problem.reason for problem in error.errors}
        bad = [item for item in batch.items if item.index in reasons]
        batch.items = [item for item in batch.items if item.index not in reasons]
        bad_bytes = sum(len(item.data) for item in bad)
        batch.byte_size -= bad_bytes
        self._held_bytes -= bad_bytes
        for item in bad:
            self._reject(
                item.index,
                item.source,
                reasons[item.index],
                error.__cause__,
                address=error.address,
                model=error.model,
                status=error.status,
                attempts=batch.attempts,
            )
        if batch.items:
            self._send(batch)
        else:
            self._running.discard(batch)

    def _retry_or_raise(self, batch: _Batch, server: Server, failure: Failure, error: ClientError) -> None:
        now_s = self._core.clock()
        if failure in SERVER_DOWN or failure is Failure.UNKNOWN_MODEL:
            self._core.balancer.failed(server, now_s, error)
        elif failure is not Failure.DEADLINE:  # it has answered
            server.heard_s = now_s
        batch.failed_on.add(server)
        untried = len(batch.failed_on) < len(self._core.balancer.servers)
        wait_s = self._core.backoff.wait_s(failure, batch.attempts, random.random())
        if failure is Failure.UNKNOWN_MODEL and untried:  # a server that lacks the model does not stop the others
            wait_s = 0.0
        if isinstance(error, DeadlineExceeded):  # perhaps the server was the first to notice, in its queue
            tells = self._that_tells(
                [b for b in (batch, *self._running, *self._waiting) if b.deadline is batch.deadline]
            )
            raise error if tells.error is None else self._too_late(tells)
        if wait_s is None:
            raise error
        if untried and failure in SERVER_DOWN:
            wait_s = 0.0
        if isinstance(error, ServerBusy):
            batch.turn = next(self._turns)
        batch.error = error
        batch.due_s = now_s + wait_s
        self._running.discard(batch)
        self._waiting.append(batch)
        self._core.counters.retried()
        _LOG.debug("request of %d images to %s: %s; again in %.2f s", len(batch.items), error.model, error, wait_s)

    def _check_deadlines(self) -> None:
        if self._timeout_s is None and self._deadline is not None and not self._deadline.expired:
            return  # which all of its requests share
        late = [batch for batch in (*self._running, *self._waiting) if batch.deadline.expired]
        if late:
            raise self._too_late(self._that_tells(late))
        if self._deadline is not None and self._deadline.expired and not self.finished:
            raise deadline_exceeded(self._context(None, None), during=self._occupation())

    def _occupation(self) -> str | None:
        """What is waited for on this side; None where that is a server."""
        if self._running or self._waiting:
            return None
        if self._reading:
            return "while images were read"
        return None if self._ended else "before the iterable of images gave the next one"

    def _that_tells(self, late: list[_Batch]) -> _Batch:
        """Which of the requests that share a deadline tells why it was missed: one that failed before, if there is any.

        One that merely got no answer, perhaps to an attempt that had hardly any time, has less to tell.
        """
        return next((batch for batch in late if batch.error is not None), late[0])

    def _too_late(self, batch: _Batch) -> ClientError:
        if batch.error is not None:
            return after_attempts(batch.error, batch.attempts, batch.deadline)
        return deadline_exceeded(self._context(batch, batch.server))

    def _context(self, batch: _Batch | None, server: Server | None) -> Call:
        items = batch.items if batch is not None else []
        deadline = batch.deadline if batch is not None else self._read_deadline()
        return Call(
            address=server.transport.address if server is not None else self._core.address,
            model=self._contract.model,
            timeout_s=deadline.timeout_s,
            expired=deadline.expired,
            renewed=deadline.renewed,
            attempts=batch.attempts if batch is not None else 0,
            indices=[item.index for item in items],
            sources=[item.source for item in items],
            total=self._total,
        )
