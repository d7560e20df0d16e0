"""Checks with callers that never pause, for minutes, whether a service makes errors, grows, or becomes slow.

    python bench/soak.py --repository DIR --model NAME                    # serves it, and watches its memory
    python bench/soak.py --url localhost:8001 --model NAME [--pid PID]    # a running service

It prints a line a minute. Exit code 1: an error; memory or /dev/shm that grows by over 5 % after it has settled; or a
p99 of the last minute over 1.5 times that of the first (`--no-speed` skips this check, for a machine that is shared).
`--pid` is the tritonserver whose memory is watched, if it is on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from vitriton import Client, VitritonError
from vitriton_server import TritonServer

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
GROWTH = 0.05
SLOWER = 1.5
_SETTLED = 0.1  # of the whole time; by then every thread and buffer exists
_CALL_S = 300.0
_PAGE_BYTES = 4096
_TOLERANCE = 1e-3  # float32, in batches of other sizes


@dataclass(frozen=True)
class Usage:
    """The memory of a server, in bytes."""

    resident: int
    shared: int


@dataclass
class Window:
    """The measurements of a minute, or of a shorter last window.

    Attributes:
        seconds: the length in seconds.
        answers: the number of images with a correct embedding.
        errors: the number of images with an error or another image's embedding.
        p50_ms: the median latency.
        p99_ms: the 99th percentile of the latency.
        usage: the memory at the end; None if it is not watched.
    """

    seconds: float
    answers: int
    errors: int
    p50_ms: float
    p99_ms: float
    usage: Usage | None


@dataclass
class Result:
    """The result of the whole run.

    Attributes:
        windows: the windows, in order.
        settled: the memory after the start phase.
        errors: the texts of the first few errors.
    """

    windows: list[Window] = field(default_factory=list)
    settled: Usage | None = None
    errors: list[str] = field(default_factory=list)

    def complaints(self, *, speed: bool) -> list[str]:
        """The faults of the run; empty if there are none."""
        found = [f"{sum(window.errors for window in self.windows)} errors: {error}" for error in self.errors[:1]]
        last = self.windows[-1].usage
        if self.settled and last:
            for what in ("resident", "shared"):
                before, after = getattr(self.settled, what), getattr(last, what)
                if after > before * (1 + GROWTH):
                    found.append(f"{what} memory grew from {before} to {after} bytes")
        first_ms, last_ms = self.windows[0].p99_ms, self.windows[-1].p99_ms
        if speed and last_ms > SLOWER * first_ms:
            found.append(f"p99 was {first_ms:.0f} ms in the first minute and is {last_ms:.0f} ms in the last")
        return found


class Soak:
    """The callers and their measurements.

    Args:
        client: the client of the service.
        images: the encoded images, sent in turn.
        concurrency: the number of callers, each with one image at a time.
        usage: the function that returns the server's memory.
    """

    def __init__(
        self, client: Client, images: Sequence[bytes], concurrency: int, usage: Callable[[], Usage | None]
    ) -> None:
        self._client = client
        self._images = images
        self._concurrency = concurrency
        self._usage = usage
        self._expected = client.embed(list(images))  # (N, D) float32
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self._failed = 0
        self.result = Result()

    def run(self, seconds: float, window_s: float, show: Callable[[int, Window], None]) -> Result:
        """Keeps all callers busy for `seconds`; calls `show` after each window."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            callers = [threads.submit(self._call, number) for number in range(self._concurrency)]
            try:
                started = time.monotonic()
                settled = min(_SETTLED * seconds, window_s)
                time.sleep(settled)
                self.result.settled = self._usage()
                number = 0
                while (begun := time.monotonic()) < started + seconds:
                    number += 1
                    ends = min(started + number * window_s, started + seconds)
                    time.sleep(max(0.0, ends - begun))
                    self.result.windows.append(self._window(min(window_s, seconds - (number - 1) * window_s)))
                    show(number, self.result.windows[-1])
            finally:
                self._over.set()
            for caller in callers:
                caller.result()
        return self.result

    def _call(self, position: int) -> None:
        while not self._over.is_set():
            at = position % len(self._images)
            begun = time.monotonic()
            try:
                vector = self._client.embed(self._images[at])[0]
                wrong = "" if np.abs(vector - self._expected[at]).max() < _TOLERANCE else "another image's embedding"
            except VitritonError as exc:
                wrong = f"{type(exc).__name__}: {exc}"
            with self._lock:
                self._latencies.append(time.monotonic() - begun)
                if wrong:
                    self._failed += 1
                    self.result.errors.append(wrong)
                    del self.result.errors[5:]
            position += self._concurrency

    def _window(self, seconds: float) -> Window:
        with self._lock:
            latencies, self._latencies = self._latencies, []
            failed, self._failed = self._failed, 0
        p50, p99 = np.percentile(latencies or [0.0], (50, 99)) * 1e3
        return Window(seconds, len(latencies) - failed, failed, float(p50), float(p99), self._usage())


def usage_of(tritonserver: int) -> Usage:
    """The resident memory of a tritonserver on this machine and its python steps, and its regions in /dev/shm."""
    pids = [tritonserver]
    for task in Path(f"/proc/{tritonserver}/task").iterdir():
        pids += map(int, (task / "children").read_text().split())
    resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in pids)
    line = Path(f"/proc/{tritonserver}/cmdline").read_bytes().decode()
    prefixes = tuple(re.findall(r"shm-region-prefix-name=(\w+)", line)) or ("triton_python_backend_shm_region",)
    folder = Path(f"/proc/{tritonserver}/root/dev/shm")  # the container's own /dev/shm, if it runs in one
    regions = [path for path in folder.iterdir() if path.name.startswith(prefixes)]
    return Usage(resident, sum(path.stat().st_blocks * 512 for path in regions))


@contextlib.contextmanager
def service(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Usage | None]]]:
    """Yields the service's address, and the function that returns its memory."""
    if given.url is not None:
        yield given.url, lambda: usage_of(given.pid) if given.pid else None
        return
    with TritonServer(given.repository) as server:
        yield server.grpc_address, lambda: usage_of(server.pid)


def show(number: int, window: Window) -> None:
    """Prints a line of the table."""
    usage = window.usage
    memory = f"{usage.resident / 1e6:10.1f} {usage.shared / 1e6:10.1f}" if usage else f"{'-':>10} {'-':>10}"
    print(
        f"{number:6} {window.answers / window.seconds:10.1f} {window.errors:7} {window.p50_ms:8.0f} "
        f"{window.p99_ms:8.0f} {memory}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the soak, and prints its faults; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name that the model was exported under")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--repository", help="model repository to serve")
    where.add_argument("--url", help="address of a running service")
    parser.add_argument("--pid", type=int, help="process id of its tritonserver, if it is on this machine")
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--window", type=float, default=60.0, help="length of each window, in seconds")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--no-speed", dest="speed", action="store_false", help="do not judge the p99")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    given = parser.parse_args(arguments)
    images = [path.read_bytes() for path in sorted(given.images.iterdir()) if path.suffix in (".jpg", ".png", ".webp")]
    with service(given) as (address, usage), Client(address, model=given.model, timeout_s=_CALL_S) as client:
        soak = Soak(client, images, given.concurrency, usage)
        columns = ("window", "images/s", "errors", "p50 ms", "p99 ms", "RSS MB", "shm MB")
        print("{:>6} {:>10} {:>7} {:>8} {:>8} {:>10} {:>10}".format(*columns), flush=True)
        result = soak.run(given.seconds, given.window, show)
    complaints = result.complaints(speed=given.speed)
    if given.json is not None:
        document: dict[str, Any] = {
            "model": given.model,
            "concurrency": given.concurrency,
            "seconds": given.seconds,
            **asdict(result),
            "complaints": complaints,
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    for complaint in complaints:
        print(f"wrong: {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
