"""The progress of a job on standard error: how much, how fast, what is slowest, and when it ends."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import typer
from vitriton._console.progress import count, duration

from vitriton_ray._worker import Report

_LINE_EVERY_S = 10.0
_STAGES = {"reading_s": "reading", "embedding_s": "embedding", "writing_s": "writing"}


class Progress:
    """Shows progress inside a `with` block: on a terminal one line that changes, elsewhere a line now and then.

    Args:
        noun: the noun for a row.
        total: the number of rows of the job.
        done: the number of rows that an earlier run has done.
        quiet: whether to show nothing.
    """

    def __init__(self, noun: str, total: int, done: int, *, quiet: bool) -> None:
        self._noun = noun
        self._total = total
        self._before = done
        self.done = done
        self._quiet = quiet
        self._errors = 0
        self._bytes = 0
        self._stages = dict.fromkeys(_STAGES, 0.0)
        self._began_s = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Progress:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self._quiet:
            self._thread.join()

    def add(self, report: Report) -> None:
        """Counts a shard that is done."""
        self.done += report.rows
        self._errors += report.errors
        self._bytes += report.read_bytes
        for name in self._stages:
            self._stages[name] += getattr(report, name)

    def line(self) -> str:
        """The progress in words."""
        own, elapsed_s = self.done - self._before, time.monotonic() - self._began_s
        parts = [f"{self.done} of {self._total} {self._noun}s ({self.done / self._total:.0%})"]
        if own:
            rate = own / elapsed_s
            parts.append(f"{rate:.1f} {self._noun}s/s")
            if self._bytes:
                parts.append(f"{self._bytes / elapsed_s / 1e6:.1f} MB/s")
            parts.append(f"{duration((self._total - self.done) / rate)} left")
            slowest = max(self._stages, key=lambda name: self._stages[name])
            share = self._stages[slowest] / (sum(self._stages.values()) or 1.0)
            parts.append(f"slowest: {_STAGES[slowest]} ({share:.0%})")
        else:
            parts.append("waiting for the first workers")
        return ", ".join([*parts, count(self._errors, "error")])

    def _tell(self) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            with console.status(self.line()) as status:
                while not self._ended.wait(0.5):
                    status.update(self.line())
            return
        while not self._ended.wait(_LINE_EVERY_S):
            typer.echo(self.line(), err=True)
