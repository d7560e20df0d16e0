"""Ctrl-C, SIGTERM and SIGHUP end a command between steps, never within one that must complete."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code by the shells' convention."""
        return 128 + self.number


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or the signal behind an error: an extension module that is being imported raises another one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the program after Ctrl-C or a signal: with one line, which the interruption's text completes."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as exc:
        stopped = interruption(exc)
        if stopped is None:
            raise
        with suppress(OSError):  # the terminal may be gone
            print(f"interrupted{stopped}", file=sys.stderr, flush=True)
        sys.exit(stopped.exit_code if isinstance(stopped, Stopped) else 128 + signal.SIGINT)


class Signals:
    """Makes SIGINT, SIGTERM and SIGHUP raise `Stopped` in the main thread; inside `held`, at its end."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._waiting: int | None = None

    def __enter__(self) -> Signals:
        for number in ENDING:
            # An ignored signal stays ignored: that is how shells keep Ctrl-C from background jobs.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delays signals until the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            raise Stopped(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = number
        else:
            raise Stopped(number)
