"""One run of perf_analyzer, with an orderly end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence

from vitriton_bench._errors import BenchError
from vitriton_bench._perf_analyzer.program import PerfAnalyzer

_INTERRUPTED_S = 5.0


def call(analyzer: PerfAnalyzer, options: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Runs the program; returns its exit status and output. It has its own session, so Ctrl-C reaches it once."""
    with subprocess.Popen(
        [str(analyzer.executable), *options],
        env=analyzer.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        with _ended(process):
            try:
                said, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired as exc:
                raise BenchError(f"perf_analyzer did not end within {limit_s:.0f} s; does the server answer?") from exc
        return process.returncode, said


def last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return "; ".join((telling or lines)[-3:]) or "it said nothing"


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ensures that the process has ended after the block."""
    try:
        yield
    except BaseException:
        process.send_signal(signal.SIGINT)  # it lets the server answer the requests in flight
        try:
            process.communicate(timeout=_INTERRUPTED_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
