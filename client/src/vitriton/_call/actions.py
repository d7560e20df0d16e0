"""What a call wants to have done: `flow` gives these, `run` does them and tells the flow what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vitriton._call.balance import Server
from vitriton._call.results import Item
from vitriton._deadline import Deadline
from vitriton._errors import ClientError


@dataclass(eq=False, repr=False, slots=True)
class Batch:
    """Images that travel together, in one request that may take several attempts.

    Attributes:
        items: the images that are still to be answered.
        byte_size: the size of these images, in bytes.
        deadline: the end of the request with all its attempts.
        turn: the batch's place in the line; a server that is busy sends it to the end.
        attempts: the number of attempts so far.
        failed_on: the servers that are not worth asking again as long as there are others.
        due_s: when the batch is sent again.
        cut_short: whether the running attempt has less time than the request.
        error: what the last attempt failed with, if that may be repeated.
        server: the server of the last attempt.
        attempt: what is being done with the batch; None while it waits.
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
    attempt: Send | Verify | None = None


@dataclass(eq=False, slots=True)
class Read:
    """Read an image: `Flow.taken` when the caller may have it back, `Flow.image_read` when there is something to send.

    Attributes:
        index: the image's place in what the caller gave, from 0.
        image: the image, as the caller gave it.
    """

    index: int
    image: Any


@dataclass(eq=False, slots=True)
class Verify:
    """Ask a server what it promises, and answer with `Flow.verified` or `Flow.failed`.

    Attributes:
        batch: the batch that waits for it.
        server: the server to ask.
        timeout_s: the longest that it may take, in seconds; None is no limit.
        number: which attempt of the batch it is, from 1.
    """

    batch: Batch
    server: Server
    timeout_s: float | None
    number: int


@dataclass(eq=False, slots=True)
class Send:
    """Send a batch, and answer with `Flow.answered` or `Flow.failed`.

    Attributes:
        batch: the images.
        server: the server to send them to.
        timeout_s: the longest that it may take, in seconds; None is no limit.
        number: which attempt of the batch it is, from 1.
    """

    batch: Batch
    server: Server
    timeout_s: float | None
    number: int


@dataclass(eq=False, slots=True)
class Cancel:
    """Give up an attempt; nothing is to be told.

    Attributes:
        send: the attempt.
    """

    send: Send


Action = Read | Verify | Send | Cancel
