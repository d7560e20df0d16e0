"""The actions of a call: `flow` issues them, `run` performs them and reports each outcome to the flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vitriton._call.balance import Server
from vitriton._call.results import Item
from vitriton._deadline import Deadline
from vitriton._errors import ClientError


@dataclass(eq=False, repr=False, slots=True)
class Batch:
    """The inputs of one request, which may take several attempts.

    Attributes:
        items: the inputs without an answer so far.
        byte_size: the size of these inputs, in bytes.
        deadline: the end of the request with all its attempts.
        turn: the batch's place in the line; an answer from a busy server moves it to the end.
        attempts: the number of attempts so far.
        failed_on: the servers on which an attempt has failed; the others are tried first.
        due_s: the time of the next attempt, on the client's clock, in seconds.
        cut_short: whether the running attempt has less time than the request.
        error: the error of the last attempt, if it can be retried.
        server: the server of the last attempt.
        attempt: the running action for this batch; None while the batch waits.
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
    """Read an input. Call `Flow.taken` when the caller may change it, and `Flow.input_read` when its data is ready.

    Attributes:
        index: the input's index in the caller's input, from 0.
        given: the input, in the form that the caller gave.
    """

    index: int
    given: Any


@dataclass(eq=False, slots=True)
class Verify:
    """Read and check a server's contract, then call `Flow.verified` or `Flow.failed`.

    Attributes:
        batch: the batch that waits for the check.
        server: the server to check.
        timeout_s: the time limit, in seconds; None means no limit.
        number: the number of the batch's attempt, from 1.
    """

    batch: Batch
    server: Server
    timeout_s: float | None
    number: int


@dataclass(eq=False, slots=True)
class Send:
    """Send a batch, then call `Flow.answered` or `Flow.failed`.

    Attributes:
        batch: the inputs to send.
        server: the server to send them to.
        timeout_s: the time limit, in seconds; None means no limit.
        number: the number of the batch's attempt, from 1.
        sent_s: the time of this action, on the client's clock, in seconds.
    """

    batch: Batch
    server: Server
    timeout_s: float | None
    number: int
    sent_s: float


@dataclass(eq=False, slots=True)
class Cancel:
    """Cancel an attempt; the flow expects no event for it.

    Attributes:
        send: the attempt to cancel.
    """

    send: Send


Action = Read | Verify | Send | Cancel
