"""One call as it runs: does what its flow wants, with threads and transports, and tells it what came of it.

A shell (`_client`, `_async_client`) gives it images, waits for events, and passes on what is ready. All methods are
called by the shell's thread; only `post`, which the shell gives, is called from others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vitriton._call.actions import Cancel, Read, Send, Verify
from vitriton._call.flow import Flow
from vitriton._call.plan import Images, Plan, Service
from vitriton._call.results import ArraySink, Floats, Result, ResultSink
from vitriton._call.session import Core
from vitriton._deadline import Deadline
from vitriton._errors import ClientError, InvalidImage, without_frames
from vitriton._images.failure import Unreadable
from vitriton._images.reading import Encode, encoded, is_slow
from vitriton._wire.transport import CallError, Code, InferReply, InferRequest, Pending

Event = Callable[[], None]

_NO_HEADERS: Mapping[str, str] = {}
_NO_DEADLINE = Deadline.after(None)
_GIVEN_UP = CallError(Code.CANCELLED, "given up by this client")


class Run:
    """See the module.

    Args:
        core: what the calls of a client share.
        images: the images of the call.
        plan: what the call is to do.
        service: the model that is called.
        deadline: the end of the call, which began before this was made.
        post: puts an event, to be called by the shell's thread, in the shell's queue.
        reads_own: whether the shell's thread may wait for the caller's own objects (files, PIL images) to be read.
    """

    def __init__(
        self,
        core: Core,
        images: Images,
        plan: Plan,
        service: Service,
        deadline: Deadline,
        post: Callable[[Event], None],
        *,
        reads_own: bool,
    ) -> None:
        ends = deadline if plan.ends else None
        total = images.total if plan.ends else None  # a stream does not tell how many there will be
        self._flow = Flow(plan, total, service, ends, core.options, core.balancer, core.counters, random.random)
        self._core = core
        self._plan = plan
        self._contract = service.contract
        self._encode = service.encode
        self._deadline = ends or _NO_DEADLINE
        self._post = post
        self._reads_own = reads_own
        self._clock = core.clock
        self._tracer = core.tracer
        self._trace_context = core.tracer.context() if core.tracer is not None else None
        self._spans: dict[Send, Any] = {}
        self._sent: dict[Send, Pending] = {}
        self._closed = False

    @property
    def finished(self) -> bool:
        """Whether all images were given and all are settled."""
        return self._flow.finished

    def result(self) -> Floats | list[Result]:
        """What came back: what is ready since the last time, or the one array of all."""
        sink = self._flow.sink
        return sink.take() if isinstance(sink, ResultSink) else sink.result(self._flow.count)

    def ready(self) -> list[Result]:
        """The results that are ready since the last time."""
        sink = self._flow.sink
        assert not isinstance(sink, ArraySink)  # of a stream
        return sink.take()

    def wait_s(self) -> float | None:
        """How long nothing can be done unless an event comes, in seconds; None is for ever."""
        return self._flow.wait_s(self._clock())

    # Images

    def fill(self, take: Callable[[Callable[[Any], None]], bool]) -> bool:
        """Takes images as long as there are some and they are wanted.

        Args:
            take: passes the next image to the function that it gets, and returns whether there was one; raises
                StopIteration when there are no more.

        Returns:
            Whether another may be there: a source that may block is asked again after `step`.
        """
        flow = self._flow
        while flow.wants_image:
            try:
                if not take(self.give):
                    return False
            except StopIteration:
                self.end()
            if self._plan.eager:
                return flow.wants_image
        return False

    def give(self, image: Any) -> None:
        """Takes the next image; one that is read in this thread is read when this returns."""
        self._flow.give(image, self._clock())
        if self._flow.actions:
            self._do()

    def end(self) -> None:
        """There are no more images."""
        self._flow.end()

    # What is to be done

    def step(self) -> Send | None:
        """Does what is due; returns the request, if there is one, that the shell is to send and has alone to wait for.

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
        """Sends a request, and waits for its answer in this thread: that saves the way through the queue of events."""
        try:
            reply = send.server.transport.infer(self._request(send), send.timeout_s)
        except CallError as exc:
            self._failed(send, exc)
        else:
            self._answered(send, reply)

    async def infer_async(self, send: Send) -> None:
        """The same in this task, where the transport can."""
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
        """Gives up what is still running."""
        self._closed = True
        self._flow.close()
        self._do()

    def ended_by(self, error: ClientError) -> ClientError:
        """What the caller is to hear of the error that ended the call.

        Raises:
            ClientClosed: the client was closed, by another thread or task: that is what happened, and the error is its
                result.
        """
        self._core.check_usable()
        if not isinstance(error, InvalidImage):
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
        if not self._reads_own or is_slow(read.image):
            self._core.submit_reading(partial(self._read_later, read.index, read.image))
            return
        data = self._core.reader.read(read.image, None, self._deadline)
        if self._encode is None or isinstance(data, Unreadable):
            self._image_read(read.index, data)
        else:
            self._flow.taken(read.index)
            self._core.submit_reading(partial(self._encode_later, read.index, data, self._encode))

    def _read_later(self, index: int, image: Any) -> None:
        """On a thread."""
        if not self._closed:
            data = self._core.reader.read(image, self._encode, self._deadline)
            self._post(partial(self._image_read, index, data))

    def _encode_later(self, index: int, data: bytes, encode: Encode) -> None:
        """On a thread."""
        if not self._closed:
            self._post(partial(self._image_read, index, encoded(data, encode)))

    def _image_read(self, index: int, data: bytes | Unreadable) -> None:
        self._flow.image_read(index, data, self._clock())

    # Verifying

    def _verify_later(self, verify: Verify, deadline: Deadline) -> None:
        """On a thread: what does this server promise?"""
        error: CallError | ClientError | None = None
        try:
            self._core.services.verify(verify.server, self._contract, deadline, verify.number)
        except (CallError, ClientError) as exc:
            error = without_frames(exc)
        self._post(partial(self._verified, verify, error))

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
                contract.model, send.server.address, len(batch.items), send.number, self._trace_context
            )
        self._core.counters.sent(batch.byte_size)
        return InferRequest(
            model=contract.model,
            input_name=contract.input,
            datatype=contract.datatype,
            item_shape=contract.item_shape,
            images=[item.data for item in batch.items],
            output_name=contract.output,
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
        pending.add_done_callback(lambda: self._post(partial(self._done, send, pending)))

    def _cancel(self, cancel: Cancel) -> None:
        pending = self._sent.pop(cancel.send, None)
        if pending is not None:
            pending.cancel()
        self._end_span(cancel.send, _GIVEN_UP)

    def _done(self, send: Send, pending: Pending) -> None:
        if self._sent.pop(send, None) is None:  # given up
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
            self._end_span(send, self._flow.as_seen(send, error, now_s))
        self._flow.failed(send, error, now_s)

    def _end_span(self, send: Send, error: Exception | None) -> None:
        if self._tracer is not None and send in self._spans:
            self._tracer.end(self._spans.pop(send), error)
