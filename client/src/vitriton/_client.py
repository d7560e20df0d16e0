"""The blocking client: runs calls (`_call.run`) in the caller's thread."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, overload

from vitriton._call.blocking import Mailbox, Source, SourceThread
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


@partial(suggests_keywords, elsewhere=in_options)
class Client:
    """Embeds images and texts with a model on a Triton server.

    Safe to share between threads. A client does not survive a fork: in the child process it raises ClientClosed. A
    pickle or a copy of it is another client with the same arguments, which makes its own connections; a pickle holds
    the token.

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
        self._core = Core(address, settings, transport, type(self).__name__)

    def wait_ready(self, *, servers: WaitFor = "all", timeout_s: float | None = 60.0) -> None:
        """Waits until the servers answer and have loaded the model with all its outputs.

        Args:
            servers: the servers to wait for: "all", or "any" for the first that is ready.
            timeout_s: the longest wait, in seconds; None means no limit.

        Raises:
            Unavailable: a server did not answer in that time.
            ModelNotFound: a server does not have the model (raised at once).
            ModelNotReady: a server did not load it in that time.
            AccessDenied: a server refuses the token (raised at once).
            ContractMismatch: the model has another fingerprint than expect_fingerprint, or was not made by `vitriton
                export` (raised at once).
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
            images: the images, an iterable of any mix of: path (str or Path), http(s) URL, `data:` URI, bytes, binary
                file object or upload, PIL image, uint8 array or tensor (H, W, 3) or (3, H, W) RGB, dict with `bytes` or
                a `path`. A single image counts as a list of one. Paths, URLs, bytes and file objects hold an encoded
                file (JPEG, PNG, WebP, ...).
            pool: whether to return one vector for each image instead of all its tokens.
            timeout_s: the total time of the call, in seconds; None means no limit. If it is not given, the call has no
                total time, and each answer renews the client's `timeout_s`.
            on_error: the effect of an invalid image: "raise" ends the call, "return" gives a result with an error.
            dtype: the dtype of the result: "float32", or "served" for the model's own (float16 for such an export).

        Returns:
            The embeddings in input order: (N, D), or with pool=False (N, T, D), or (N, C, h, w) for convolutional
            models; N is 0 without images. With on_error="return", a list with a Result for each image.

        Raises:
            InvalidImage: an image cannot be used; the text has its index, from 0.
            DeadlineExceeded: the time is over.
            Unavailable: no server answered in that time.
            ServerBusy, ModelNotFound, ModelNotReady, AccessDenied, InferenceFailed: the server failed or refused.
            ContractMismatch: the model under this name was not made by `vitriton export`, or is not the expected one.
            TypeError: images is neither an image nor an iterable, or another argument has the wrong type.
            ClientClosed: the client is closed, or was made before a fork.
        """
        default_s = self._core.begin_call()
        given = take_inputs(images, IMAGES)
        plan = plan_embed(given, pool, timeout_s, on_error, dtype, default_s)
        result: Floats | list[Result] = self._embed(given, plan)
        return result

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

        The stream reads images ahead of the results, within the limits of `Options`. It reads a list in the thread that
        asks for results, and an iterator, which may block, in a separate thread, so that a result never waits for the
        next image. The stream starts when the first result is requested. Closing the generator ends running requests.

        Args:
            images: the images; see `embed`.
            pool: whether to return one vector for each image instead of all its tokens.
            timeout_s: the time limit of each request with its retries, in seconds; each answer to an earlier request
                renews it. None means no limit; the default is the client's. The whole stream has no limit.
            on_error: the effect of an invalid image: "return" gives a result with `error`, "raise" ends the stream.
                Failures of the server are always raised; the caller can continue after the last index.
            ordered: whether results come in input order instead of as soon as they are ready.
            dtype: the dtype of the embeddings; see `embed`.

        Yields:
            A Result for each image.

        Raises:
            ClientError: as from `embed`, after the results that were ready. An error of the iterable comes after the
                results of the inputs before it.
        """
        default_s = self._core.begin_call()
        given = take_inputs(images, IMAGES)
        plan = plan_stream(given, pool, timeout_s, on_error, dtype, default_s, ordered=ordered, threaded=True)
        return self._stream(given, plan)

    @overload
    def embed_texts(
        self,
        texts: Iterable[str] | str,
        *,
        pool: Literal[True] = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> Floats: ...

    @overload
    def embed_texts(
        self,
        texts: Iterable[str] | str,
        *,
        pool: Literal[False],
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["raise"] = "raise",
        dtype: DType = "float32",
    ) -> list[Floats]: ...

    @overload
    def embed_texts(
        self,
        texts: Iterable[str] | str,
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: Literal["return"],
        dtype: DType = "float32",
    ) -> list[Result]: ...

    def embed_texts(
        self,
        texts: Iterable[str] | str,
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "raise",
        dtype: DType = "float32",
    ) -> Floats | list[Floats] | list[Result]:
        """Embeds texts.

        The server cuts a text that has more tokens than the model takes. A warning in the log "vitriton" says how many
        texts were cut, or with on_error="return" each `Result`.

        Args:
            texts: the texts, an iterable of str. A single str counts as a list of one.
            pool: whether to return one vector for each text instead of all its tokens.
            prompt: the name of the model's prompt to put before each text; None means the model's default prompt, if it
                has one, and "" none.
            timeout_s: the total time of the call, in seconds; see `embed`.
            on_error: the effect of an invalid text: "raise" ends the call, "return" gives a result with an error.
            dtype: the dtype of the result; see `embed`.

        Returns:
            The embeddings in input order, (N, D); N is 0 without texts. With pool=False, a list of arrays (T, D), T
            being the number of tokens of the text. With on_error="return", a list with a Result for each text.

        Raises:
            InvalidText: a text cannot be used; the error has its index, from 0, and never its content.
            ValueError: the model has no prompt of that name, or the client has preprocess="client".
            ClientError: as from `embed`.
        """
        default_s = self._core.begin_call()
        given = take_inputs(texts, TEXTS)
        plan = plan_embed(given, pool, timeout_s, on_error, dtype, default_s, prompt)
        result: Floats | list[Floats] | list[Result] = self._embed(given, plan)
        return result

    def stream_texts(
        self,
        texts: Iterable[str],
        *,
        pool: bool = True,
        prompt: str | None = None,
        timeout_s: float | Unset | None = UNSET,
        on_error: OnError = "return",
        ordered: bool = True,
        dtype: DType = "float32",
    ) -> Generator[Result, None, None]:
        """Embeds an iterable of texts that may be endless, as `stream` does with images.

        Args:
            texts: the texts.
            pool: whether to return one vector for each text instead of all its tokens.
            prompt: the name of the model's prompt; see `embed_texts`.
            timeout_s: the time limit of each request with its retries, in seconds; see `stream`.
            on_error: the effect of an invalid text; see `stream`.
            ordered: whether results come in input order instead of as soon as they are ready.
            dtype: the dtype of the embeddings; see `embed`.

        Yields:
            A Result for each text. The errors are those of `embed_texts`.
        """
        default_s = self._core.begin_call()
        given = take_inputs(texts, TEXTS)
        plan = plan_stream(
            given, pool, timeout_s, on_error, dtype, default_s, ordered=ordered, threaded=True, prompt=prompt
        )
        return self._stream(given, plan)

    def describe(self, *, timeout_s: float | Unset | None = UNSET) -> ModelInfo:
        """Describes the model: its outputs, its fingerprint, its limits, and the checkpoint that was exported.

        Each call asks a server, as another export may have the same name by now. Unloaded outputs are missing.

        Args:
            timeout_s: the total time of the call, in seconds; None means no limit. The default is the client's
                `timeout_s`.

        Raises:
            ValueError: `timeout_s` is not above 0.
            ContractMismatch: the model was not made by `vitriton export`, or is not the expected one.
            TransportError, ServerError: see `embed`.
        """
        deadline = deadline_of(timeout_s, self._core.begin_call())
        return self._core.services.describe(deadline)

    def stats(self) -> Stats:
        """The client's counts so far."""
        return self._core.counters.stats()

    def close(self) -> None:
        """Ends running calls and closes the connections. May be called again."""
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

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._core.arguments()), ()

    def _embed(self, given: Given, plan: Plan) -> Any:
        mailbox = Mailbox()
        run = self._run(given, plan, mailbox)
        source = Source(given.items)
        try:
            has_more = True
            while not run.finished:
                has_more = self._turn(run, mailbox, source, wait=not has_more)
        finally:
            run.close()
            source.close()
        return run.result()

    def _stream(self, given: Given, plan: Plan) -> Generator[Result, None, None]:
        core, mailbox = self._core, Mailbox()
        run = self._run(given, plan, mailbox)
        source = (
            SourceThread(given.items, mailbox.wake, core.options.read_ahead)
            if plan.awaited
            else Source(given.items, keep_error=True)
        )
        try:
            has_more = True
            while not run.finished:
                core.check_usable()  # also in a fork that continues a stream
                try:
                    has_more = self._turn(run, mailbox, source, wait=not has_more)
                except ClientError:
                    yield from run.ready()  # answers that came before it
                    raise
                yield from run.ready()
        finally:
            run.close()
            source.close()
        if source.error is not None:  # raised after the results of the inputs before it
            raise source.error

    def _run(self, given: Given, plan: Plan, mailbox: Mailbox) -> Run:
        deadline = Deadline.after(plan.timeout_s)
        service = self._core.services.get(plan.kind, deadline)
        return Run(self._core, given, plan, service, deadline, mailbox.put, reads_own=True)

    def _turn(self, run: Run, mailbox: Mailbox, source: Source | SourceThread, *, wait: bool) -> bool:
        """Processes events, inputs and actions, after a wait if `wait` is set; returns what `Run.fill` returns.

        The caller closes the run, so that no request is left running, whatever ends the call.
        """
        core = self._core
        try:
            if wait:
                core.lifetime.wake_on_end(mailbox)
                core.check_usable()  # another thread may have closed it before
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
            raise run.error_to_raise(exc) from exc.__cause__
