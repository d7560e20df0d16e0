"""One call of `embed`: images in, one array out, several requests in flight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitriton._batching import batches
from vitriton._contract import INPUT, Contract, read_reply
from vitriton._deadline import Deadline
from vitriton._errors import ImageProblem, InvalidImage
from vitriton._failures import Call, deadline_exceeded, to_error
from vitriton._fetch import UrlFetcher
from vitriton._options import Options
from vitriton._sources import SourceError, read_image, source_name
from vitriton._transport import CallError, InferRequest, Pending, Transport

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a call: its place in the caller's list, what it is called, and its encoded bytes."""

    index: int
    source: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class EmbedCall:
    """Everything that one call needs.

    Attributes:
        transport: to the server.
        fetcher: for URLs.
        contract: of the ensemble that is called.
        options: the client's bounds.
        deadline: of the whole call.
        total: images in the call, None where it is not known.
    """

    transport: Transport
    fetcher: UrlFetcher
    contract: Contract
    options: Options
    deadline: Deadline
    total: int | None

    def run(self, images: Iterable[Any]) -> Floats:
        """Embeds `images`. Whatever ends it, no request of it is left running.

        Returns:
            (N, D) or (N, T, D) float32, in input order.
        """
        sent: dict[int, tuple[list[Item], Pending]] = {}
        done: SimpleQueue[int] = SimpleQueue()
        chunks: dict[int, Floats] = {}

        def receive() -> None:
            # Whichever is done first: a failure ends the call at once, and a slow request holds no other one back.
            number = done.get()
            chunks[number] = self._receive(*sent[number])
            del sent[number]

        try:
            for number, batch in enumerate(self._batches(images)):
                while len(sent) == self.options.max_in_flight or not done.empty():
                    receive()
                pending = self._send(batch)
                sent[number] = batch, pending
                pending.add_done_callback(partial(done.put, number))
            while sent:
                receive()
        finally:
            for _, pending in sent.values():
                pending.cancel()
        if not chunks:
            return self.contract.empty()
        return chunks[0] if len(chunks) == 1 else np.concatenate([chunks[number] for number in range(len(chunks))])

    def _batches(self, images: Iterable[Any]) -> Iterator[list[Item]]:
        return batches(
            self._items(images),
            lambda item: len(item.data),
            max_items=self.contract.max_batch_size,
            max_bytes=self.options.max_request_bytes,
        )

    def _items(self, images: Iterable[Any]) -> Iterator[Item]:
        """Reads images one by one, as they are needed; the requests in flight go on meanwhile."""
        for index, image in enumerate(images):
            self._check_time()
            source = source_name(image)
            try:
                data = read_image(
                    image,
                    max_bytes=self.options.max_image_bytes,
                    fetch=lambda url: self.fetcher.fetch(url, self.deadline),
                )
            except SourceError as exc:
                self._check_time()
                raise InvalidImage([ImageProblem(index, source, str(exc))], self.total) from exc
            yield Item(index=index, source=source, data=data)

    def _send(self, batch: list[Item]) -> Pending:
        self._check_time()
        remaining_s = self.deadline.remaining_s()
        request = InferRequest(
            model=self.contract.model,
            input_name=INPUT,
            images=[item.data for item in batch],
            output_name=self.contract.output,
            timeout_s=remaining_s,
        )
        try:
            return self.transport.send(request, remaining_s)
        except CallError as exc:
            raise to_error(exc, self._context(batch)) from exc

    def _receive(self, batch: list[Item], pending: Pending) -> Floats:
        try:
            reply = pending.result()
        except CallError as exc:
            raise to_error(exc, self._context(batch)) from exc
        return read_reply(reply, self.contract, len(batch))

    def _check_time(self) -> None:
        if self.deadline.expired:
            raise deadline_exceeded(self._context([]))

    def _context(self, batch: list[Item]) -> Call:
        return Call(
            address=self.transport.address,
            model=self.contract.model,
            timeout_s=self.deadline.timeout_s,
            expired=self.deadline.expired,
            indices=[item.index for item in batch],
            sources=[item.source for item in batch],
            total=self.total,
        )
