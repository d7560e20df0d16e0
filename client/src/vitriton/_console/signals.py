"""Ctrl-C, SIGTERM and SIGHUP end a command between two steps, never within one that must be whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells count it."""
        return 128 + self.number


def stopped_by(error: BaseException | None) -> Stopped | None:
    """The signal that an error comes from: an extension module that is being imported makes an ImportError of it."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error


class Signals:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise `Stopped` in the main thread; within `held`, at its end."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._waiting: int | None = None

    def __enter__(self) -> Signals:
        for number in ENDING:
            # One that is ignored stays so: that is how shells keep Ctrl-C from what runs in the background.
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
        """What is done within is done whole."""
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
