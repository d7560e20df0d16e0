"""The blocking client: a shell around `_call.run`, which waits in the caller's thread."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from vitriton._call.plan import DType, Images, OnError, Plan, checked_timeout, plan_embed, plan_stream, take_images
from vitriton._call.results import Floats, Result
from vitriton._call.run import Event, Run
from vitriton._call.service import WaitFor
from vitriton._call.session import Core
from vitriton._call.settings import Preprocess, Settings
from vitriton._call.stats import Stats
from vitriton._deadline import Deadline
from vitriton._errors import ClientClosed, ClientError
from vitriton._images.source_thread import SourceThread
from vitriton._images.sources import ImageLike
from vitriton._options import UNSET, Options, Unset
from vitriton._served.model import ModelInfo
from vitriton._wire.connection import TLS, Token
from vitriton._wire.transport import Transport

# A wait is cut into pieces of this: where a signal does not interrupt it (Windows, a signal that another thread takes),
# Ctrl-C is noticed after one.
_LONGEST_WAIT_S = 0.5


class Client:
    """Embeds images with a model on a Triton server.

    Safe to share between threads. Not usable in a process that was forked after it was made: it says so.

    Args:
        address: `host`, `host:port` or `scheme://host:port`, with grpc:// (the default), grpcs://, http:// or https://;
            without a port Triton's own, 8001 for gRPC and 8000 for HTTP. Several, in a sequence or with commas between
            them, take turns, and stand in for each other. So do the addresses behind one name.
        model: the name that the model was exported under, without `_pooled` or `_unpooled`.
        timeout_s: the longest that a call waits for its first answer, and from each answer for the next, in seconds;
            None is no limit. A call can be given a total time in its place.
        options: what the client may spend.
        tls: for grpcs:// and https://: whom to trust, and who the client is.
        token: sent with each request as `authorization: Bearer <token>`; a function is called each time.
        headers: sent with each request.
        preprocess: where images are decoded and resized: "server", or "client", which sends pixels to the encoder. The
            same code does it in both places.
        expect_fingerprint: the embedding space that the model must have; nothing is embedded in another.
        tracing: a span of OpenTelemetry for each request, its context in the headers; needs `vitriton[otel]`.
        transport: in place of the one that `address` says, which then is not read; the client closes it.

    Raises:
        ValueError: a parameter cannot be used; names it.
        ImportError: tracing is on, and OpenTelemetry is not installed.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str,
        timeout_s: float | None = 60.0,
        options: Options | None = None,
        tls: TLS | None = None,
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
        preprocess: Preprocess = "server",
        expect_fingerprint: str | None = None,
        tracing: bool = False,
        transport: Transport | None = None,
    ) -> None:
        settings = Settings(
            model=model,
            timeout_s=timeout_s,
            options=Options() if options is None else options,
            tls=tls,
            token=token,
            headers={} if headers is None else headers,
            preprocess=preprocess,
            expect_fingerprint=expect_fingerprint,
            tracing=tracing,
        )
        self._core = Core(address, settings, transport, type(self).__name__)

    def wait_ready(self, *, servers: WaitFor = "all", timeout_s: float | None = 60.0) -> None:
        """Waits until servers answer and have loaded the model, both of its outputs where it has both.

        Args:
            servers: "all" waits for every server, "any" for the first that is ready.
            timeout_s: the longest wait, in seconds; None is no limit.

        Raises:
            Unavailable: a server did not answer in that time.
            ModelNotFound: a server does not have the model (raised at once).
            ModelNotReady: a server did not load it in that time.
            AccessDenied: a server refuses the token (raised at once).
            ClientClosed: the client is closed, or was made before a fork.
        """
        self._core.check_usable()
        self._core.services.wait_ready(checked_timeout(timeout_s), servers)

    @overload
    def embed(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> Floats: ...

    @overload
    def embed(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["return"],
        dtype: DType = "float32",
    ) -> list[Result]: ...

    def embed(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "raise",
        dtype: DType = "float32",
    ) -> Floats | list[Result]:
        """Embeds images.

        Args:
            images: an iterable of, mixed freely: path (str or Path), http(s) URL, `data:` URI, bytes, binary file
                object or upload, PIL image, uint8 array or tensor (H, W, 3) or (3, H, W) RGB, dict with `bytes` or a
                `path`. One of these alone is a list of one. Paths, URLs, bytes and file objects hold an encoded file
                (JPEG, PNG, WebP, ...).
            pool: one vector an image, or all its tokens.
            timeout_s: total time of this call, in seconds, all included; None is no limit. Not given, the call has no
                total: the client's `timeout_s` starts anew with each answer.
            on_error: "raise": an image that cannot be used ends the call. "return": it costs only itself.
            dtype: "float32", or "served" for what the model returns (float16 where it was exported so).

        Returns:
            In input order: (N, D), or with pool=False (N, T, D), or (N, C, h, w) for convolutional models. No images
            give N = 0. With on_error="return" a list with a Result for each image.

        Raises:
            InvalidImage: an image cannot be used; names it by its index from 0. Ends the call.
            DeadlineExceeded: the time is over.
            Unavailable: no server answered in that time.
            ServerBusy, ModelNotFound, ModelNotReady, AccessDenied, InferenceFailed: the server did not do it.
            ContractMismatch: what the server has under this name is not a model of `vitriton export`, or not the one
                that was expected.
            TypeError: images is neither an image nor an iterable, or another parameter has the wrong type.
            ClientClosed: the client is closed, or was made before a fork.
        """
        core = self._core
        core.check_usable()
        given = take_images(images)
        plan = plan_embed(given, pool, timeout_s, on_error, dtype, core.settings.timeout_s)
        deadline = Deadline.after(plan.timeout_s)
        mailbox = _Mailbox()
        service = core.services.get(pool, deadline)
        run = Run(core, given, plan, service, deadline, mailbox.put, reads_own=True)
        source = _Source(given.items)
        try:
            has_more = True
            while not run.finished:
                has_more = self._turn(run, mailbox, source, wait=not has_more)
        finally:
            run.close()
            source.close()
        return run.result()

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "return",
        ordered: bool = True,
        dtype: DType = "float32",
    ) -> Generator[Result, None, None]:
        """Embeds an iterable that may be endless, in bounded memory.

        Images are taken from it some ahead of the results (`Options`): from a list in the thread that asks for results,
        from an iterator, which may block, in a thread of its own, so that a result never waits for the next image.
        Nothing is done before the first result is asked for. Closing the generator ends what is running.

        Args:
            images: as for `embed`.
            pool: as for `embed`.
            timeout_s: time of each request with its retries, in seconds, which starts anew with each answer to a
                request before it; None is no limit; not given, the client's. The whole has no limit.
            on_error: "return": an image that cannot be used gives a result with `error`. "raise": it ends the stream.
                What fails on the side of the server is always raised; it can be gone on with from the last index.
            ordered: results in input order, or as soon as they are there.
            dtype: as for `embed`.

        Yields:
            A Result for each image.

        Raises:
            As `embed`. What the iterable raises comes after the results of the images before it.
        """
        core = self._core
        core.check_usable()
        default_s = core.settings.timeout_s
        given = take_images(images)
        plan = plan_stream(given, pool, timeout_s, on_error, dtype, default_s, ordered=ordered, threaded=True)
        return self._stream(given, plan)

    def _stream(self, given: Images, plan: Plan) -> Generator[Result, None, None]:
        core = self._core
        deadline = Deadline.after(plan.timeout_s)
        mailbox = _Mailbox()
        service = core.services.get(plan.pool, deadline)
        run = Run(core, given, plan, service, deadline, mailbox.put, reads_own=True)
        source = (
            SourceThread(given.items, mailbox.wake, core.options.read_ahead)
            if plan.awaited
            else _Source(given.items, patient=True)
        )
        try:
            has_more = True
            while not run.finished:
                core.check_usable()  # also in a fork that goes on with a stream
                has_more = self._turn(run, mailbox, source, wait=not has_more)
                yield from run.ready()
        finally:
            run.close()
            source.close()
        if source.error is not None:  # after the results of the images before it
            raise source.error

    def _turn(self, run: Run, mailbox: _Mailbox, source: _Source | SourceThread, *, wait: bool) -> bool:
        """Does what can be done now, or with `wait` as soon as there is something; see `Run.fill` for what it returns.

        The caller closes the run, so that whatever ends the call, no request of it is left running.
        """
        core = self._core
        try:
            if wait:
                core.lifetime.wake_on_end(mailbox)
                core.check_usable()  # closed before that
                mailbox.wait(run.wait_s())
                core.check_usable()
            for event in mailbox.waiting():
                event()
            has_more = run.fill(source.take)
            last = run.step()
            if last is not None:
                run.infer(last)
            return has_more
        except ClientClosed:
            raise
        except ClientError as exc:
            raise run.ended_by(exc) from exc.__cause__

    def describe(self) -> ModelInfo:
        """What a server tells of the model: its outputs, its fingerprint, its limits, and what it was exported from.

        It is read each time: another export may be served under the same name by now. Outputs that are not loaded are
        left out.

        Raises:
            ContractMismatch: the model was not made by `vitriton export`, or is not the expected one.
            TransportError, ServerError: as `embed`.
        """
        return self._core.services.describe()

    def stats(self) -> Stats:
        """What this client has done so far."""
        return self._core.counters.stats()

    def close(self) -> None:
        """Ends what is running and closes the connections. May be called again."""
        self._core.close()

    def __enter__(self) -> Client:
        self._core.check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._core)


class _Source:
    """Takes images from an iterable in the caller's thread; see `SourceThread`."""

    def __init__(self, images: Iterable[Any], *, patient: bool = False) -> None:
        self._iterator = iter(images)
        self._patient = patient
        self.error: Exception | None = None

    def take(self, give: Callable[[Any], None]) -> bool:
        """Passes the next image to `give`; raises StopIteration when there is none.

        What the iterable raises comes through, or if it is patient, is kept as `error`.
        """
        try:
            image = next(self._iterator)
        except StopIteration:
            raise
        except Exception as exc:
            if not self._patient:
                raise
            self.error = exc
            raise StopIteration from exc
        give(image)
        return True

    def close(self) -> None:
        """Nothing is held."""


class _Mailbox:
    """Where other threads put events for the thread of a call."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._next: Event | None = None
        self.put = self._events.put

    def wake(self) -> None:
        """Ends a wait."""
        self.put(_nothing)

    def waiting(self) -> Iterator[Event]:
        """All events that are there."""
        if self._next is not None:
            event, self._next = self._next, None
            yield event
        while not self._events.empty():  # only one thread takes from it
            yield self._events.get_nowait()

    def wait(self, timeout_s: float | None) -> None:
        """Returns when there is an event, or when the time is over; perhaps earlier."""
        try:
            self._next = self._events.get(
                timeout=_LONGEST_WAIT_S if timeout_s is None else min(timeout_s, _LONGEST_WAIT_S)
            )
        except queue.Empty:
            return


def _nothing() -> None:
    pass
