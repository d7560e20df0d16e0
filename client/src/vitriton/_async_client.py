"""The asynchronous client: runs calls (`_call.run`) in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from vitriton._call.asynchronous import AsyncMailbox, AsyncSource
from vitriton._call.modality import IMAGES, TEXTS
from vitriton._call.plan import (
    DType,
    Given,
    OnError,
    Plan,
    checked_timeout,
    deadline_of,
    plan_embed,
    plan_stream,
    take_inputs,
)
from vitriton._call.results import Floats, Result
from vitriton._call.run import Run
from vitriton._call.service import WaitFor
from vitriton._call.session import Core
from vitriton._call.settings import Preprocess, Settings
from vitriton._call.stats import Stats
from vitriton._deadline import Deadline
from vitriton._errors import ClientClosed, ClientError
from vitriton._images.sources import ImageLike
from vitriton._keywords import suggests_keywords
from vitriton._options import UNSET, Options, Unset, in_options
from vitriton._served.model import ModelInfo
from vitriton._wire.connection import TLS, Token
from vitriton._wire.transport import Transport

T = TypeVar("T")


@partial(suggests_keywords, elsewhere=in_options)
class AsyncClient:
    """Embeds images and texts with a model on a Triton server, for asyncio.

    It has the methods of `Client`, as coroutines; `Client` describes their arguments, results and errors. Requests wait
    in gRPC's own thread, or for HTTP in a pool of threads; other threads read files and fetch URLs. The event loop
    never waits for any of them. Several event loops and several tasks may use one client at a time.

    Args:
        address: the server's address: `host`, `host:port` or `scheme://host:port`, with grpc:// (the default),
            grpcs://, http:// or https://; the default port is Triton's, 8001 for gRPC and 8000 for HTTP. Several
            servers, in a sequence or separated by commas, take turns, and replace each other when one fails. So do the
            addresses behind one host name.
        model: the name that the model was exported under, without `_pooled` or `_unpooled`.
        timeout_s: the longest wait of a call for its first answer, and from each answer to the next, in seconds; None
            means no limit. `timeout_s` of a call replaces it by a total time.
        options: the client's limits.
        tls: the trusted certificates and the client's own, for grpcs:// and https://.
        token: the bearer token, sent with each request; a function is called for each request.
        headers: the headers to send with each request.
        preprocess: the place where images are decoded and resized: "server", or "client", which sends pixels to the
            encoder. The code is the same in both places.
        expect_fingerprint: the fingerprint that the model must have; the client embeds nothing with another.
        tracing: whether to make an OpenTelemetry span for each request and send its context; needs `vitriton[otel]`.
        transport: the transport to use; `address` is ignored, and the client closes the transport.

    Raises:
        ValueError: an argument is invalid; the text names it.
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
        self._core = Core(address, settings, transport, type(self).__name__, asynchronous=True)

    async def wait_ready(self, *, servers: WaitFor = "all", timeout_s: float | None = 60.0) -> None:
        """See `Client.wait_ready`."""
        self._core.check_usable()
        await self._blocking(partial(self._core.services.wait_ready, checked_timeout(timeout_s), servers))

    @overload
    async def embed(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> Floats: ...

    @overload
    async def embed(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["return"],
        dtype: DType = "float32",
    ) -> list[Result]: ...

    async def embed(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike] | ImageLike,
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "raise",
        dtype: DType = "float32",
    ) -> Floats | list[Result]:
        """See `Client.embed`. `images` may also be an async iterable. Cancelling the task cancels its requests."""
        default_s = self._core.begin_call()
        given = take_inputs(images, IMAGES, asynchronous=True)
        plan = plan_embed(given, pool, timeout_s, on_error, dtype, default_s)
        result: Floats | list[Result] = await self._embed(given, plan)
        return result

    def stream(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike],
        *,
        pool: bool = True,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "return",
        ordered: bool = True,
        dtype: DType = "float32",
    ) -> AsyncGenerator[Result, None]:
        """See `Client.stream`. `images` may also be an async iterable; another iterable must not block.

        A caller that leaves the stream early has to close it (`contextlib.aclosing`).

        Yields:
            A Result for each image.
        """
        default_s = self._core.begin_call()
        given = take_inputs(images, IMAGES, asynchronous=True)
        plan = plan_stream(given, pool, timeout_s, on_error, dtype, default_s, ordered=ordered, threaded=False)
        return self._stream(given, plan)

    @overload
    async def embed_texts(
        self,
        texts: AsyncIterable[str] | Iterable[str] | str,
        *,
        pool: Literal[True] = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> Floats: ...

    @overload
    async def embed_texts(
        self,
        texts: AsyncIterable[str] | Iterable[str] | str,
        *,
        pool: Literal[False],
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> list[Floats]: ...

    @overload
    async def embed_texts(
        self,
        texts: AsyncIterable[str] | Iterable[str] | str,
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["return"],
        dtype: DType = "float32",
    ) -> list[Result]: ...

    async def embed_texts(
        self,
        texts: AsyncIterable[str] | Iterable[str] | str,
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "raise",
        dtype: DType = "float32",
    ) -> Floats | list[Floats] | list[Result]:
        """See `Client.embed_texts`. `texts` may also be an async iterable."""
        default_s = self._core.begin_call()
        given = take_inputs(texts, TEXTS, asynchronous=True)
        plan = plan_embed(given, pool, timeout_s, on_error, dtype, default_s, prompt)
        result: Floats | list[Floats] | list[Result] = await self._embed(given, plan)
        return result

    def stream_texts(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "return",
        ordered: bool = True,
        dtype: DType = "float32",
    ) -> AsyncGenerator[Result, None]:
        """See `Client.stream_texts` and `stream`.

        Yields:
            A Result for each text.
        """
        default_s = self._core.begin_call()
        given = take_inputs(texts, TEXTS, asynchronous=True)
        plan = plan_stream(
            given, pool, timeout_s, on_error, dtype, default_s, ordered=ordered, threaded=False, prompt=prompt
        )
        return self._stream(given, plan)

    async def describe(self, *, timeout_s: float | Unset | None = UNSET) -> ModelInfo:
        """See `Client.describe`."""
        deadline = deadline_of(timeout_s, self._core.begin_call())
        return await self._blocking(partial(self._core.services.describe, deadline))

    def stats(self) -> Stats:
        """See `Client.stats`."""
        return self._core.counters.stats()

    async def close(self) -> None:
        """Ends running calls and closes the connections. May be called again."""
        await asyncio.get_running_loop().run_in_executor(None, self._core.close)

    async def __aenter__(self) -> AsyncClient:
        self._core.check_usable()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._core)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._core.arguments()), ()

    async def _embed(self, given: Given, plan: Plan) -> Any:
        mailbox = AsyncMailbox()
        run = await self._run(given, plan, mailbox)
        source = AsyncSource(given, run, mailbox)
        try:
            has_more = True
            while not run.finished:
                has_more = await self._turn(run, mailbox, source, wait=not has_more)
        finally:
            run.close()
            await source.close()
        return run.result()

    async def _stream(self, given: Given, plan: Plan) -> AsyncGenerator[Result, None]:
        mailbox = AsyncMailbox()
        run = await self._run(given, plan, mailbox)
        source = AsyncSource(given, run, mailbox, keep_error=True)
        try:
            has_more = True
            while not run.finished:
                try:
                    has_more = await self._turn(run, mailbox, source, wait=not has_more)
                except ClientError:
                    for result in run.ready():  # answers that came before it
                        yield result
                    raise
                for result in run.ready():
                    yield result
        finally:
            run.close()
            await source.close()
        if source.error is not None:  # raised after the results of the inputs before it
            raise source.error

    async def _run(self, given: Given, plan: Plan, mailbox: AsyncMailbox) -> Run:
        core, deadline = self._core, Deadline.after(plan.timeout_s)
        service = core.services.known(plan.kind)
        if service is None:
            service = await self._blocking(partial(core.services.get, plan.kind, deadline))
        return Run(core, given, plan, service, deadline, mailbox.put, reads_own=False)

    async def _turn(self, run: Run, mailbox: AsyncMailbox, source: AsyncSource, *, wait: bool) -> bool:
        """Processes events, inputs and actions, after a wait if `wait` is set; returns what `Run.fill` returns.

        The caller closes the run, so that no request is left running, whatever ends the call.
        """
        core = self._core
        try:
            if wait:
                core.lifetime.wake_on_end(mailbox)
                core.check_usable()  # another task may have closed it before
                await mailbox.wait(run.wait_s())
                core.check_usable()
            for event in mailbox.waiting():
                event()
            has_more = run.fill(source.take)
            last = run.step()
            if last is not None:
                await run.infer_async(last)
            return has_more
        except ClientClosed:
            raise
        except ClientError as exc:
            raise run.error_to_raise(exc) from exc.__cause__

    async def _blocking(self, work: Callable[[], T]) -> T:
        """Runs `work`, which waits for a server, on a thread of the client."""
        return await asyncio.wrap_future(self._core.run_control(work))
