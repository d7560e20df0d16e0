"""What `vitriton doctor` is told of this distribution."""

from __future__ import annotations

from collections.abc import Iterator

from vitriton._console.diagnosis import Finding, size

from vitriton_server._errors import InstallationError
from vitriton_server._process.cores import usable_cores
from vitriton_server._process.locate import Host, locate
from vitriton_server._process.memory import limit_bytes, memory_warning


def findings(host: Host | None = None) -> Iterator[Finding]:
    """Finds the Triton that `vitriton serve` would run, what it needs, and the limits of this process.

    Args:
        host: the facts of a machine. None: this one.
    """
    host = host or Host.detect()
    try:
        yield Finding("Triton", str(locate(host).executable))
    except InstallationError as exc:
        yield Finding("Triton", "cannot run", f"vitriton serve cannot start: {exc.message}")
    yield Finding("libpython", str(host.libpython or "not found"))
    yield Finding("python of the steps", f"{host.python_bin / 'python3'}, numpy {host.numpy or 'not installed'}")
    yield Finding("usable cores", str(usable_cores()))
    limit = limit_bytes()
    yield Finding("memory limit", "none" if limit is None else size(limit), memory_warning(limit))
