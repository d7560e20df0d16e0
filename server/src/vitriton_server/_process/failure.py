"""The reason why a tritonserver has ended, as an error for users."""

from __future__ import annotations

import signal

from vitriton_server._errors import AddressError, LauncherError, ModelLoadError
from vitriton_server._process.log import failed_models, machine_has_gpu, port_was_taken, refused_options, relevant

_LINES = 20  # of the log, in an error
# Signals of crashes; the others are sent on purpose.
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}


class StartCrashed(LauncherError):  # noqa: N818 - the name says what happened
    """tritonserver crashed before the models were ready; another start will often succeed."""


def start_failure(lines: list[str], exit_status: int | None, memory: str | None) -> LauncherError:
    """Returns the error for a start that has failed.

    Args:
        lines: the lines of the whole log.
        exit_status: the exit status of tritonserver, 128 + N for a signal N.
        memory: the part that memory had in it, from `MemoryWatch.verdict`.
    """
    last = last_lines(lines)
    if port_was_taken(lines):
        return AddressError("another process took one of the ports before Triton could; try again")
    refused = refused_options(lines)
    if refused is not None:
        return LauncherError(
            f"tritonserver does not take its options ({refused}): look at those after the `--` (triton_arguments; "
            "TRITON_ARGS of the compose files)"
        )
    reasons = failed_models(lines)
    if reasons:
        text = "; ".join(f"`{name}`: {reason}" for name, reason in reasons.items())
        return ModelLoadError(with_memory(f"Triton cannot load {text}", memory), last)
    text = f"tritonserver ended with {status_text(exit_status)} before the models were ready"
    if memory is None and _signal(exit_status) in _CRASHES:
        return StartCrashed(text, last)
    return LauncherError(with_memory(text, memory), last)


def last_lines(log: list[str]) -> list[str]:
    """Returns the last lines of a log that may explain a failure, for an error."""
    return relevant(log, has_gpu=machine_has_gpu())[-_LINES:]


def death(exit_status: int | None, memory: str | None) -> str:
    """Says why a tritonserver that was ready has ended without this library.

    Args:
        exit_status: the exit status of tritonserver, 128 + N for a signal N.
        memory: the part that memory had in it, from `MemoryWatch.verdict`.
    """
    was_killed = _signal(exit_status) is signal.SIGKILL
    text = f"tritonserver {'was killed' if was_killed else 'ended by itself'} with {status_text(exit_status)}"
    if was_killed and memory is None:
        return f"{text} by an unknown process"
    return with_memory(text, memory)


def with_memory(text: str, memory: str | None) -> str:
    """Returns a reason, with the part that memory had in it."""
    return text if memory is None else f"{text}: {memory}"


def status_text(exit_status: int | None) -> str:
    """Returns an exit status in words, with the name of its signal."""
    number = _signal(exit_status)
    return f"status {exit_status}" + (f" ({number.name})" if number is not None else "")


def _signal(exit_status: int | None) -> signal.Signals | None:
    try:
        return signal.Signals((exit_status or 0) - 128)
    except ValueError:
        return None
