"""Both clients behind one interface, so that one test says what both do."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vitriton import AsyncClient, Client

KINDS = ("Client", "AsyncClient")


class BlockingAsyncClient:
    """An AsyncClient that is used as a Client, its event loop in a thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = _loop()
        self.client = AsyncClient(*args, **kwargs)

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.client.embed(*args, **kwargs))

    def embed_texts(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.client.embed_texts(*args, **kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._each(self.client.stream(*args, **kwargs))

    def stream_texts(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._each(self.client.stream_texts(*args, **kwargs))

    def _each(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    result = self._run(results.__anext__())
                except StopAsyncIteration:
                    return
                yield result
        finally:
            self._run(results.aclose())

    def wait_ready(self, **kwargs: Any) -> None:
        self._run(self.client.wait_ready(**kwargs))

    def describe(self, **kwargs: Any) -> Any:
        return self._run(self.client.describe(**kwargs))

    def stats(self) -> Any:
        return self.client.stats()

    def close(self) -> None:
        self._run(self.client.close())

    def __enter__(self) -> BlockingAsyncClient:
        self._run(self.client.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self.client)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_wrapped(coroutine), self._loop).result()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all tests, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="test-loop", daemon=True).start()
    return loop


async def _wrapped(awaitable: Any) -> Any:
    return await awaitable


def make_client(kind: str) -> Callable[..., Any]:
    """The class to use for a kind of client."""
    return Client if kind == "Client" else BlockingAsyncClient
