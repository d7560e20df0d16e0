"""The output of `vitriton serve`, and its end by signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from vitriton._console.signals import ENDING
from vitriton._repository import disk
from vitriton._repository.names import ensemble_name

from vitriton_server._errors import LauncherError, ModelLoadError
from vitriton_server._process.log import is_error, is_problem, loaded_model, machine_has_gpu
from vitriton_server._rollout.repository import builds_engines, describe
from vitriton_server._server import TritonServer

_REMINDER_S = 10.0
_NAMED = 4  # models that still load: a reminder is one short line
_SAME_S = 1.0  # a terminal and a process in it may both send one signal
_DEFAULT_PORT = 8001  # of gRPC, where the client looks for a server
_END = b"\0"  # not the number of any signal


class Reporter:
    """Runs a server in the foreground: addresses go to standard output, all other messages to standard error.

    Args:
        verbose: whether to pass on the whole log of Triton, not only its warnings and errors.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._has_gpu = machine_has_gpu()
        self._output = _Lines(highlight=False, soft_wrap=True)
        self._messages = _Lines(stderr=True, highlight=False, soft_wrap=True)
        self._started_s = time.monotonic()
        self._announced = False
        self._errors: list[str] = []  # of Triton's log, until it is known whether the start fails
        self._loading: set[str] = set()
        self._models = 0
        self._builds_engines = False

    def line(self, line: str) -> None:
        """Handles a line of Triton's log."""
        if self._verbose or is_problem(line, has_gpu=self._has_gpu):
            if self._verbose or self._announced or not is_error(line):
                self._messages.print(line, style="dim", markup=False)
            else:
                self._errors.append(line)
            return
        model = None if self._announced else loaded_model(line)
        if model is not None:
            self._loading.discard(model)
            self._messages.print(f"  loaded {escape(model)} ({time.monotonic() - self._started_s:.1f} s)")

    def run(self, server: TritonServer, repository: Path) -> int:
        """Serves until Ctrl-C, SIGTERM, SIGHUP or the end of the server; returns the exit code."""
        handler = _Log(self._messages)
        logger = logging.getLogger("vitriton_server")
        logger.addHandler(handler)
        logging.getLogger("vitriton_server.rollout").setLevel(logging.INFO)
        try:
            with _Events() as events:
                return self._serve(server, repository, events)
        finally:
            logger.removeHandler(handler)

    def _serve(self, server: TritonServer, repository: Path, events: _Events) -> int:
        self._messages.print(f"Loading the models in {escape(str(repository))}")
        # without the models that nobody has exported yet, which are left out
        self._loading = {name for name, config in disk.models(repository).items() if not _is_unfilled(config)}
        self._models = len(self._loading)
        self._builds_engines = builds_engines(repository)
        with ThreadPoolExecutor(2) as pool:
            work = pool.submit(self._start_and_wait, server, repository)
            work.add_done_callback(lambda _: events.end())
            by_signal = events.wait()
            if by_signal:
                how = "requests in flight are answered first; a second signal, after one second, ends it at once"
                self._messages.print(f"Stopping: {how}")
            stopping = pool.submit(server.stop)
            stopping.add_done_callback(lambda _: events.end())
            at_once = self._wait_for_the_end(server, stopping, events)
            error = work.exception()
        if error is not None and not isinstance(error, LauncherError):
            raise error
        if error is not None and not by_signal:
            self._show(error)
            return 1
        if not stopping.result():
            why = "another signal came" if at_once else "the exit timeout is over (--exit-timeout)"
            self._messages.print(f"[bold red]Stopped[/], and requests in flight may not have been answered: {why}")
            return 1
        self._messages.print("Stopped")
        return 0

    def _wait_for_the_end(self, server: TritonServer, stopping: Future[bool], events: _Events) -> bool:
        """Waits for the end of the server; returns whether a second signal has ended it."""
        begun_s = time.monotonic()
        at_once = False
        while not stopping.done():
            if events.wait() and time.monotonic() - begun_s > _SAME_S and not at_once:
                at_once = True
                server.kill()
        return at_once

    def _start_and_wait(self, server: TritonServer, repository: Path) -> None:
        with self._reminders():
            server.start()
        self._announce(server, repository)
        server.wait()

    @contextlib.contextmanager
    def _reminders(self) -> Iterator[None]:
        """Says now and then which models are still loading."""
        ready = threading.Event()
        threading.Thread(target=self._remind, args=(ready,), name="vitriton-serve-loading", daemon=True).start()
        try:
            yield
        finally:
            ready.set()

    def _remind(self, ready: threading.Event) -> None:
        why = "; TensorRT builds engines for new graphs, which takes minutes" if self._builds_engines else ""
        while not ready.wait(_REMINDER_S):
            names = sorted(self._loading)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            what = f"{', '.join(names[:_NAMED])}{more}" if names else "Triton opens its ports"
            loaded = f"{self._models - len(names)} of {self._models} loaded"
            seconds = time.monotonic() - self._started_s
            self._messages.print(f"  still loading after {seconds:.0f} s, {loaded}: {escape(what)}{why}")

    def _show(self, error: LauncherError) -> None:
        self._messages.print(f"[bold red]error:[/] {escape(error.message)}")
        if isinstance(error, ModelLoadError) and not self._verbose:
            self._messages.print("`vitriton serve --verbose` shows Triton's log", style="dim")
        elif error.log and not self._verbose:
            self._messages.print("The last lines of Triton's log:", style="dim")
            for line in error.log:
                self._messages.print(f"  {line}", style="dim", markup=False)

    def _announce(self, server: TritonServer, repository: Path) -> None:
        self._announced = True
        for line in self._errors:
            self._messages.print(line, style="dim", markup=False)
        seconds = time.monotonic() - self._started_s
        self._messages.print(
            f"Triton {server.version} is ready after {seconds:.1f} s, bound to {server.ip}; Ctrl-C stops it"
        )
        self._output.print(f"gRPC     {server.grpc_address}")
        self._output.print(f"HTTP     http://{server.http_address}")
        self._output.print(f"metrics  http://{server.metrics_address}/metrics")
        served = describe(repository, server.models)
        for name, details in served:
            self._output.print("  ".join([f"model    {escape(name)}", *details]))
        self._show_next_step(server, [one.name for one in served if one.details])

    def _show_next_step(self, server: TritonServer, exports: Sequence[str]) -> None:
        """Shows the command that embeds with what is served."""
        if not exports:
            return
        url = "" if server.grpc_address == f"127.0.0.1:{_DEFAULT_PORT}" else f" --url {server.grpc_address}"
        model = "" if len(exports) == 1 else f" --model {exports[0]}"
        takes_images = any(ensemble_name(exports[0], kind) in server.models for kind in ("pooled", "unpooled"))
        inputs = "DIR" if takes_images else "--texts FILE"
        self._messages.print(f"Next: vitriton embed {inputs} -o vectors.npy{url}{model}", markup=False)


def _is_unfilled(config: Any) -> bool:
    return config is not None and disk.fingerprint(config) == disk.NOT_EXPORTED


class _Lines(Console):
    """Prints as long as the output can be written.

    A closed pipe or terminal silences it. It raises nothing then, as it is called in threads on which the end of the
    server depends.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints, if the output is open."""
        try:
            super().print(*objects, **options)
        except OSError:  # a closed terminal is not a broken pipe
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Stops printing. rich itself would end the thread, and close standard output if standard error is broken."""
        self.quiet = True
        # The rest of the buffer must not fail when the program ends (see SIGPIPE in Python's module signal).
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


class _Log(logging.Handler):
    """Prints the launcher's log, a line for each message."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a message."""
        self._lines.print(self.format(record), markup=False)


class _Events:
    """Waits for a signal, or for `end()`, whichever comes first.

    An exception from the signal handler could hit a lock half released. A lock or a queue that a handler writes to may
    not wake the waiting thread, if the signal arrives in another thread or right after another signal. So the
    interpreter itself writes the number to a socket, whichever thread it is in.
    """

    def __enter__(self) -> _Events:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        # Under nohup, SIGHUP is ignored, and stays so.
        taken = [each for each in ENDING if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
        self._handlers_before = {number: signal.signal(number, lambda *_: None) for number in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._handlers_before.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._wakeup_before)
        self._read.close()
        self._write.close()

    def end(self) -> None:
        """Wakes `wait()`; may be called from any thread."""
        self._write.send(_END)

    def wait(self) -> bool:
        """Waits for the next event; returns whether a signal came first."""
        return self._read.recv(1) != _END
