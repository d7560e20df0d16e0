"""`vitriton serve` as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

READY = "model    "
_PATIENCE_S = 120.0


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of `vitriton serve`."""
    return [sys.executable, "-c", "from vitriton.cli import main; main()", "serve", *arguments]


class Launcher:
    """A running `vitriton serve`; killed when the block ends, if it is still there."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, *command(arguments)],
            env={**environment, "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, text: str, count: int = 1) -> None:
        """Returns once it has printed the text that often; fails when it ends or takes too long."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._ended() or self._count(text) >= count, _PATIENCE_S)
            assert done, f"still no {text!r} in:\n{''.join(self._lines)}"
            assert self._count(text) >= count, f"no {text!r} in:\n{''.join(self._lines)}"

    def wait(self) -> int:
        """Returns the exit code; fails, with what it printed and where its threads are, when it does not end."""
        try:
            code = self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
            self._reader.join(_PATIENCE_S)
            raise AssertionError(f"it does not end:\n{self.output}") from None
        self._reader.join()
        return code

    def address(self, service: str) -> str:
        """An address that it has printed."""
        match = re.search(rf"^{service} +(?:http://)?([^\s/]+)", self.output, re.MULTILINE)
        assert match is not None, self.output
        return match[1]

    def _count(self, text: str) -> int:
        return "".join(self._lines).count(text)

    def _ended(self) -> bool:
        return not self._reader.is_alive()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
