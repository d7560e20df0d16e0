"""The progress of a run on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 10.0
_SILENT_S = 3.0


class Advance(Protocol):
    """Counts one more input."""

    def __call__(self, *, failed: bool) -> None:
        """Counts one more input; `failed` if it could not be embedded."""


@contextmanager
def progress(total: int | None, done: int, failed: int, *, noun: str = "image", quiet: bool) -> Iterator[Advance]:
    """Shows progress inside a `with` block.

    Args:
        total: the number of images of the run; None if it is not known.
        done: the number of images done by an earlier part of the run.
        failed: the number of these that could not be embedded.
        noun: the noun for one of the inputs that are counted.
        quiet: whether to show nothing.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if quiet:
        yield lambda *, failed: None
    elif console.is_terminal:
        with _bar(console, total, done, failed, noun) as advance:
            yield advance
    else:
        lines = Lines(total, done, failed, noun=noun)
        with _later(lines.say):
            yield lines.advance


@contextmanager
def step(title: str, *, quiet: bool = False) -> Iterator[None]:
    """Shows a step while it runs: with a spinner on a terminal, elsewhere by a line if it takes its time.

    Args:
        title: the step, in words.
        quiet: whether to show nothing.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield
    elif console.is_terminal:
        with console.status(title):
            yield
    else:
        with _later(lambda: typer.echo(f"{title} ...", err=True)):
            yield


@contextmanager
def _later(say: Callable[[], None]) -> Iterator[None]:
    """Says something if the block takes longer than a person waits without a sign, as a warning is one."""
    timer = threading.Timer(_SILENT_S, say)
    timer.daemon = True
    timer.start()
    logger, sign = logging.getLogger("vitriton"), _Ends(timer)
    logger.addHandler(sign)
    try:
        yield
    finally:
        logger.removeHandler(sign)
        timer.cancel()


class _Ends(logging.Handler):
    """Ends a timer at the first warning."""

    def __init__(self, timer: threading.Timer) -> None:
        super().__init__(logging.WARNING)
        self._timer = timer

    def emit(self, record: logging.LogRecord) -> None:
        self._timer.cancel()


class Lines:
    """Shows progress as lines, for a log file.

    Args:
        total: the number of images of the run; None if it is not known.
        done: the number of images done by an earlier part of the run.
        failed: the number of these that could not be embedded.
        write: the function that writes a line.
        clock: the monotonic clock, in seconds.
        noun: the noun for one of the inputs that are counted.
    """

    def __init__(
        self,
        total: int | None,
        done: int,
        failed: int,
        write: Callable[[str], None] = lambda line: typer.echo(line, err=True),
        clock: Callable[[], float] = time.monotonic,
        noun: str = "image",
    ) -> None:
        self._noun = noun
        self._total, self._done, self._failed = total, done, failed
        self._write, self._clock = write, clock
        self._began_with = done
        self._began_s = self._wrote_s = clock()

    def advance(self, *, failed: bool) -> None:
        """See `Advance`."""
        self._done += 1
        self._failed += failed
        if self._clock() - self._wrote_s >= _LINE_EVERY_S:
            self.say()

    def say(self) -> None:
        """Writes a line."""
        self._wrote_s = now_s = self._clock()
        left = None if self._total is None else self._total - self._done
        pace = _pace(self._done - self._began_with, left, now_s - self._began_s, self._noun)
        if self._total is None:
            share = count(self._done, self._noun)
        else:
            share = f"{self._done} of {self._total} {self._noun}s ({self._done / self._total:.0%})"
        self._write(", ".join([*filter(None, [share, pace]), count(self._failed, "error")]))


def duration(seconds: float) -> str:
    """A duration as text, like 2 h 05 min, 3 min 20 s or 8.1 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def count(number: int, what: str) -> str:
    """A number and its noun, like 1 error or 2 errors."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _pace(own: int, left: int | None, elapsed_s: float, noun: str) -> str:
    """The rate and the remaining time, by the inputs of this part of the run alone; empty before the first of them."""
    if not (own and elapsed_s > 0):
        return ""
    rate = own / elapsed_s
    return f"{rate:.1f} {noun}s/s" + ("" if left is None else f", {duration(left / rate)} left")


@contextmanager
def _bar(console: Console, total: int | None, done: int, failed: int, noun: str = "image") -> Iterator[Advance]:
    from rich import progress as bars
    from rich.text import Text

    class Pace(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            now = int(task.completed)
            return Text(_pace(now - done, None if total is None else total - now, task.elapsed or 0.0, noun))

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        Pace(),
        bars.TextColumn("{task.fields[errors]}"),
    )
    failures = failed
    with bars.Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=done, errors=count(failures, "error"))

        def advance(*, failed: bool) -> None:
            nonlocal failures
            failures += failed
            bar.update(task, advance=1, errors=count(failures, "error"))

        yield advance
