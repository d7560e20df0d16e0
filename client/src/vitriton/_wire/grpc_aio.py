"""The gRPC transport of the asynchronous client: requests stay in the event loop, without thread switches."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from vitriton._errors import without_frames
from vitriton._wire.address import Address
from vitriton._wire.channel import channel_options, channel_target
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.grpc import GrpcTransport, channel_credentials, infer_method, read_response, to_error, write_request
from vitriton._wire.transport import CallError, Code, InferReply, InferRequest, Pending

_CLOSE_S = 2.0


class AioGrpcTransport(GrpcTransport):
    """A `GrpcTransport` whose `send` is called in an event loop, on an asyncio channel of its own.

    All other methods block, and are called in other threads.
    """

    def __init__(self, address: Address, settings: ConnectionSettings) -> None:
        super().__init__(address, settings)
        self._where = address
        self._lock = threading.Lock()
        self._channels: dict[asyncio.AbstractEventLoop, tuple[Any, Any]] = {}
        self._closed = False

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """See `Transport`."""
        message = write_request(request)
        metadata = self._metadata(request.headers)
        infer = self._infer_in(asyncio.get_running_loop())
        return _AioPending(lambda: infer(message, timeout=timeout_s, metadata=metadata), request.beside)

    async def infer_async(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """See `Awaitable`."""
        message = write_request(request)
        metadata = self._metadata(request.headers)
        infer = self._infer_in(asyncio.get_running_loop())
        try:
            return read_response(await infer(message, timeout=timeout_s, metadata=metadata), request.beside)
        except asyncio.CancelledError:
            if self._closed:  # this cancels the call, not the task
                raise CallError(Code.CANCELLED, "the client is closed") from None
            raise
        except (grpc.RpcError, ValueError, grpc.aio.UsageError) as exc:
            raise to_error(exc) from exc

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            self._closed = True
            channels, self._channels = self._channels, {}
        for loop, (channel, _) in channels.items():
            if loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(channel.close(), loop)
                with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                    closing.result(_CLOSE_S)
        super().close()

    def _infer_in(self, loop: asyncio.AbstractEventLoop) -> Any:
        with self._lock:
            if self._closed:
                raise CallError(Code.CANCELLED, "the client is closed")
            if loop not in self._channels:
                for ended in [known for known in self._channels if known.is_closed()]:
                    del self._channels[ended]
                channel = self._open_channel()
                self._channels[loop] = channel, infer_method(channel)
            return self._channels[loop][1]

    def _open_channel(self) -> Any:
        target = channel_target(self._where)
        options = list(channel_options(self._where, self._settings).items())
        if not self._where.is_secure:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, channel_credentials(self._settings.tls), options=options)


class _AioPending:
    def __init__(self, call: Callable[[], Any], beside: tuple[str, ...]) -> None:
        self._beside = beside
        self._outcome: InferReply | CallError | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._task = asyncio.ensure_future(self._run(call))

    async def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._outcome = read_response(await call(), self._beside)
        except CallError as exc:
            self._outcome = without_frames(exc)
        except asyncio.CancelledError:
            self._outcome = CallError(Code.CANCELLED, "canceled by this client")
        except (grpc.RpcError, ValueError, grpc.aio.UsageError) as exc:
            self._outcome = to_error(exc)
        except Exception as exc:  # a bug in this module must not leave the waiting caller blocked for ever
            self._outcome = CallError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
            self._outcome.__cause__ = without_frames(exc)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def result(self) -> InferReply:
        if isinstance(self._outcome, CallError):
            raise self._outcome
        assert self._outcome is not None  # asked for when it is done
        return self._outcome

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        if self._outcome is None:
            self._callbacks.append(callback)
        else:
            callback()

    def cancel(self) -> None:
        self._task.cancel()
