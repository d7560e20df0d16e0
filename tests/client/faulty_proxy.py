"""A TCP proxy that does to connections what networks do, and can be told otherwise while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

_PIECE_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to each connection. Counts start anew when a fault is switched on.

    Attributes:
        delay_s: before each piece is passed on, either way, in seconds.
        request_bytes: that are passed on to the server before `ending`; None is no limit.
        response_bytes: that are passed on to the client before `ending`; None is no limit.
        answer: sent to the client in place of the server's, after its first bytes, before `ending`.
        ending: the connection is closed, or reset; or nothing is read or written any more, and it stays open.
    """

    delay_s: float = 0.0
    request_bytes: int | None = None
    response_bytes: int | None = None
    answer: bytes | None = None
    ending: Literal["close", "reset", "silence"] = "close"


HEALTHY = Fault()


class FaultyProxy:
    """Runs in a thread of its own, on a free port, as long as a `with` block.

    Args:
        upstream: `host:port` of the server.
        fault: from the start.
    """

    def __init__(self, upstream: str, fault: Fault = HEALTHY) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._fault = fault
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()  # all that there were, so that each is closed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy")
        self.connections = 0

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        self.refuse()
        self._run(self._abort())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """`host:port`; the same after `refuse` and `listen`."""
        return f"127.0.0.1:{self._port}"

    def switch(self, fault: Fault, *, drop: bool = False) -> None:
        """From now on `fault` happens, also to the connections that are open; `drop` ends these before."""
        self._run(self._switch(fault, drop))

    def refuse(self) -> None:
        """As if the server were gone: open connections are reset, new ones are refused."""
        self._run(self._refuse())

    def listen(self) -> None:
        """Takes connections again."""
        self._run(self._listen())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port, reuse_address=True)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._drop()

    async def _switch(self, fault: Fault, drop: bool) -> None:
        self._fault = fault
        if drop:
            await self._drop()

    async def _drop(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        for _ in range(10):  # in which they are closed, and what was just being accepted too
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers.add(writer)
        link = self._loop.create_task(self._carry(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        # One that is cancelled before it has begun never begins.
        link.add_done_callback(lambda _: None if writer.is_closing() else writer.transport.abort())

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ending = "reset"  # also when it is cancelled
        tasks: list[asyncio.Task[str]] = []
        opening = self._loop.create_task(asyncio.open_connection(*self._upstream))
        try:
            back, away = await asyncio.shield(opening)  # what is half open when this is cancelled is closed below
            self._writers.add(away)
            tasks = [
                self._loop.create_task(self._pump(reader, away, writer)),
                self._loop.create_task(self._pump(back, writer, None)),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ending = done.pop().result()
            if ending == "silence":
                await asyncio.Event().wait()
        except OSError:  # either side has gone
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _end(writer, reset=ending != "close")
            for opened in await asyncio.gather(opening, return_exceptions=True):
                if not isinstance(opened, BaseException):
                    _end(opened[1], reset=True)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> str:
        """Passes on one direction; `client` is where requests come from. Returns how the connection is to end."""
        fault, passed = self._fault, 0
        while data := await source.read(_PIECE_BYTES):
            if fault is not self._fault:
                fault, passed = self._fault, 0
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if client is not None and fault.answer is not None:
                client.write(fault.answer)
                await client.drain()
                return fault.ending
            limit = fault.request_bytes if client is not None else fault.response_bytes
            if limit is not None and passed + len(data) > limit:
                target.write(data[: max(0, limit - passed)])
                await target.drain()
                return fault.ending
            passed += len(data)
            target.write(data)
            await target.drain()
        return "close"


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        with contextlib.suppress(OSError):
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
