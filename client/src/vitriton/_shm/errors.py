"""What a failure says about a shared-memory region. The texts are those of Triton's shared_memory_manager.cc."""

from __future__ import annotations

from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code

# The server has answered, and so has ended the work on the request.
_ANSWERED = frozenset(
    {
        Failure.QUEUE_FULL,
        Failure.QUEUE_TIMEOUT,
        Failure.RATE_LIMITED,
        Failure.UNKNOWN_MODEL,
        Failure.NOT_READY,
        Failure.BAD_REQUEST,
        Failure.UNKNOWN_REGION,
        Failure.RESTRICTED,
    }
)


def may_still_write(error: CallError) -> bool:
    """Whether the server may still be at work on a request that failed so: its region must be dropped."""
    return classify(error.code, error.message) not in _ANSWERED


def is_in_use(error: CallError) -> bool:
    """Triton 2.51 refuses to unregister what a running request refers to; newer ones do it when that has ended."""
    return error.code is Code.INTERNAL and "currently in use" in error.message


def is_passing(error: CallError) -> bool:
    """Whether a registration that failed so may succeed later."""
    down = error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
    return down and classify(error.code, error.message) is not Failure.RESTRICTED
