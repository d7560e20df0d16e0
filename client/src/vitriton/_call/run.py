"""The execution of one call: performs the actions of its flow with threads and transports, and reports the outcomes.

A client (`_client`, `_async_client`) gives it inputs, waits for events, and passes on results. The client's thread
calls all methods; other threads call only `put_event`, which the client provides.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vitriton._call.actions import Cancel, Read, Send, Verify
from vitriton._call.flow import Flow
from vitriton._call.modality import Service
from vitriton._call.plan import Given, Plan
from vitriton._call.results import ArraySink, Result
from vitriton._call.session import Core
from vitriton._deadline import Deadline
from vitriton._errors import ClientError, InvalidInput, Unreadable, without_frames
from vitriton._images.reading import Encode, encoded, is_slow
from vitriton._wire.transport import CallError, Code, InferReply, InferRequest, Pending

_LOG = logging.getLogger("vitriton")
_CUT = "cut %d of %d texts to %d tokens, the most that the model %r takes (max_length)"

Event = Callable[[], None]


def no_event() -> None:
    """An event that only ends a wait."""


_NO_HEADERS: Mapping[str, str] = {}
_NO_DEADLINE = Deadline.after(None)
_CANCELLED = CallError(Code.CANCELLED, "canceled by this client")


class Run:
    """Performs the actions of a call's flow.

    Args:
        core: the state that the calls of a client share.
        given: the inputs of the call.
        plan: the plan of the call.
        service: the model to call.
        deadline: the end of the call, which began before this was made.
        put_event: a function that any thread may call; it queues an event, which the client's thread then calls.
        reads_own: whether the client's thread may read the caller's own objects (files, PIL images), which can block.
    """

    def __init__(
        self,
        core: Core,
        given: Given,
        plan: Plan,
        service: Service,
        deadline: Deadline,
        put_event: Callable[[Event], None],
        *,
        reads_own: bool,
    ) -> None:
        ends = deadline if plan.ends else None
        total = given.total if plan.ends else None  # the errors of a stream name no total
        self._contract = contract = service.contract
        prepare = plan.modality.preparing(service, core.settings, plan.prompt)
        self._flow = Flow(
            plan, total, contract, prepare, ends, core.options, core.balancer, core.counters, random.random
        )
        self._core = core
        self._plan = plan
        self._encode = service.encode
        self._deadline = ends or _NO_DEADLINE
        self._put_event = put_event
        self._reads_own = reads_own
        self._clock = core.clock
        self._tracer = core.tracer
        self._trace_context = core.tracer.context() if core.tracer is not None else None
        self._spans: dict[Send, Any] = {}
        self._sent: dict[Send, Pending] = {}
        self._closed = False

    @property
    def finished(self) -> bool:
        """Whether there are no more inputs, and each is answered or rejected."""
        return self._flow.finished

    def result(self) -> Any:
        """The result of the call; a warning says how many texts were cut, where the result itself does not."""
        flow, rules = self._flow, self._contract.texts
        if self._plan.array and flow.truncated and rules is not None:
            _LOG.warning(_CUT, flow.truncated, flow.count, rules.max_length, self._core.settings.model)
        return flow.sink.result(flow.count)

    def ready(self) -> list[Result]:
        """The results of a stream that are ready since the last call."""
        sink = self._flow.sink
        assert not isinstance(sink, ArraySink)  # a stream has none
        return sink.take()

    def wait_s(self) -> float | None:
        """The time until the next `step` is needed if no event comes first, in seconds; None means never."""
        return self._flow.wait_s(self._clock())

    # Inputs

    def fill(self, take: Callable[[Callable[[Any], None]], bool]) -> bool:
        """Takes inputs as long as there are some and the flow wants them.

        Args:
            take: a function that passes the next input to its argument and returns whether there was one; raises
                StopIteration at the end of the input.

        Returns:
            Whether to call this again after `step`, as a source that may block can have more.
        """
        flow = self._flow
        while flow.wants_input:
            try:
                if not take(self.give):
                    return False
            except StopIteration:
                self.end()
            if self._plan.eager:
                return flow.wants_input
        return False

    def give(self, given: Any) -> None:
        """Takes the next input; if this thread reads it, it is read when this returns."""
        self._flow.give(given, self._clock())
        if self._flow.actions:
            self._do()

    def end(self) -> None:
        """Ends the input: there are no more inputs."""
        self._flow.end()

    # Actions

    def step(self) -> Send | None:
        """Performs the actions that are due; returns the request that the client has to send and wait for, if any.

        Raises:
            ClientError: the call has failed.
        """
        self._flow.step(self._clock())
        last = self._flow.last_send
        if last is not None:
            self._flow.actions.clear()
            return last
        self._do()
        return None

    def infer(self, send: Send) -> None:
        """Sends a request and waits for its answer in this thread, which is faster than the queue of events."""
        try:
            reply = send.server.transport.infer(self._request(send), send.timeout_s)
        except CallError as exc:
            self._failed(send, exc)
        else:
            self._answered(send, reply)

    async def infer_async(self, send: Send) -> None:
        """Sends a request and waits for its answer in this task, if the transport supports that."""
        transport = self._core.awaitables.get(send.server)
        if transport is None:
            self._send(send)
            return
        try:
            reply = await transport.infer_async(self._request(send), send.timeout_s)
        except CallError as exc:
            self._failed(send, exc)
        else:
            self._answered(send, reply)

    def close(self) -> None:
        """Cancels the requests that are still running."""
        self._closed = True
        self._flow.close()
        self._do()

    def error_to_raise(self, error: ClientError) -> ClientError:
        """The error to raise to the caller, for the one that ended the call.

        Raises:
            ClientClosed: another thread or task closed the client, which caused the error.
        """
        self._core.check_usable()
        if not isinstance(error, InvalidInput):
            self._core.services.forget()
        return without_frames(error)

    def _do(self) -> None:
        actions = self._flow.actions
        while actions:
            action = actions.popleft()
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Read):
                self._read(action)
            elif isinstance(action, Verify):
                self._core.run_control(partial(self._verify_later, action, Deadline.after(action.timeout_s)))
            else:
                self._cancel(action)

    # Reading

    def _read(self, read: Read) -> None:
        if not self._reads_own or is_slow(read.given):
            self._core.submit_reading(partial(self._read_later, read.index, read.given))
            return
        data = self._core.reader.read(read.given, None, self._deadline)
        if self._encode is None or isinstance(data, Unreadable):
            self._input_read(read.index, data)
        else:
            self._flow.taken(read.index)
            self._core.submit_reading(partial(self._encode_later, read.index, data, self._encode))

    def _read_later(self, index: int, image: Any) -> None:
        """Runs on a thread."""
        if not self._closed:
            data = self._core.reader.read(image, self._encode, self._deadline)
            self._put_event(partial(self._input_read, index, data))

    def _encode_later(self, index: int, data: bytes, encode: Encode) -> None:
        """Runs on a thread."""
        if not self._closed:
            self._put_event(partial(self._input_read, index, encoded(data, encode)))

    def _input_read(self, index: int, data: bytes | Unreadable) -> None:
        self._flow.input_read(index, data, self._clock())

    # Verifying

    def _verify_later(self, verify: Verify, deadline: Deadline) -> None:
        """Checks a server's contract; runs on a thread."""
        error: CallError | ClientError | None = None
        try:
            self._core.services.verify(verify.server, self._contract, deadline, verify.number)
        except (CallError, ClientError) as exc:
            error = without_frames(exc)
        self._put_event(partial(self._verified, verify, error))

    def _verified(self, verify: Verify, error: CallError | ClientError | None) -> None:
        if isinstance(error, CallError):
            self._flow.failed(verify, error, self._clock())
        else:
            self._flow.verified(verify, error, self._clock())

    # Sending

    def _request(self, send: Send) -> InferRequest:
        batch, contract = send.batch, self._contract
        headers = _NO_HEADERS
        if self._tracer is not None:
            self._spans[send], headers = self._tracer.start(
                contract.model, contract.tower, send.server.address, len(batch.items), send.number, self._trace_context
            )
        self._core.counters.sent(batch.byte_size)
        return InferRequest(
            model=contract.model,
            input_name=contract.input,
            datatype=contract.datatype,
            item_shape=contract.item_shape,
            images=[item.data for item in batch.items],
            output_name=contract.output,
            beside=contract.beside,
            timeout_s=send.timeout_s,
            headers=headers,
        )

    def _send(self, send: Send) -> None:
        try:
            pending = send.server.transport.send(self._request(send), send.timeout_s)
        except CallError as exc:
            self._failed(send, exc)
            return
        self._sent[send] = pending
        pending.add_done_callback(lambda: self._put_event(partial(self._done, send, pending)))

    def _cancel(self, cancel: Cancel) -> None:
        pending = self._sent.pop(cancel.send, None)
        if pending is not None:
            pending.cancel()
        self._end_span(cancel.send, _CANCELLED)

    def _done(self, send: Send, pending: Pending) -> None:
        if self._sent.pop(send, None) is None:  # canceled
            return
        try:
            reply = pending.result()
        except CallError as exc:
            self._failed(send, exc)
        else:
            self._answered(send, reply)

    def _answered(self, send: Send, reply: InferReply) -> None:
        try:
            self._flow.answered(send, reply, self._clock())
        except ClientError as exc:
            self._end_span(send, exc)
            raise
        if self._tracer is not None:
            self._end_span(send, None)

    def _failed(self, send: Send, error: CallError) -> None:
        now_s = self._clock()
        if self._tracer is not None:
            self._end_span(send, self._flow.attempt_error(send, error, now_s))
        self._flow.failed(send, error, now_s)

    def _end_span(self, send: Send, error: Exception | None) -> None:
        if self._tracer is not None and send in self._spans:
            self._tracer.end(self._spans.pop(send), error)
