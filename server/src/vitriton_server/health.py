"""`vitriton-health`: a container's health check, which tests whether every model of a repository is served.

It runs every few seconds, so it imports nothing slow.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

_EXPORTED = 'key: "fingerprint"'  # as in every config.pbtxt that `vitriton export` writes
_WITHOUT_WEIGHTS = "not-exported"
_ENSEMBLE = "ensemble_scheduling"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints which models are not ready; returns 0 if all are ready, else 1."""
    parser = argparse.ArgumentParser(
        prog="vitriton-health", description="Check that Triton is ready and serves every model of a repository."
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="folder of the models")
    parser.add_argument("--host", default="127.0.0.1", help="host of Triton")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each request")
    given = parser.parse_args(arguments)
    try:
        names = expected(given.repository)
    except OSError as exc:
        print(f"{given.repository} cannot be read: {exc.strerror}", file=sys.stderr)
        return 1
    if not names:
        print(f"{given.repository} has no model", file=sys.stderr)
        return 1
    if is_starting(given.http_port):
        print("the server is starting, and compares its models with their references", file=sys.stderr)
        return 1
    connection = http.client.HTTPConnection(given.host, given.http_port, timeout=given.timeout)
    try:
        missing = not_ready(connection, names)
    except (OSError, http.client.HTTPException) as exc:
        print(f"Triton does not answer on {given.host}:{given.http_port}: {exc!r}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if missing:
        print(f"not ready: {', '.join(missing)}", file=sys.stderr)
        return 1
    print(f"ready: {', '.join(names)}")
    return 0


def _lock(http_port: int) -> str:
    """The name of a socket that a server listens on while it starts. It is no file, and ends with the process."""
    return f"\0vitriton-serve-{http_port}-starting"


@contextlib.contextmanager
def starting(http_port: int) -> Iterator[None]:
    """Marks a server on this machine as not ready yet, although Triton itself answers already."""
    with socket.socket(socket.AF_UNIX) as listening:
        with contextlib.suppress(OSError):  # another server of this machine starts on the same port
            listening.bind(_lock(http_port))
            listening.listen()
        yield


def is_starting(http_port: int) -> bool:
    """Whether a server on this machine marks itself as not ready yet."""
    with socket.socket(socket.AF_UNIX) as connecting:
        return connecting.connect_ex(_lock(http_port)) == 0


def expected(repository: Path) -> list[str]:
    """Returns the models that clients can request, in alphabetical order.

    For an export these are its ensembles, which are ready when their steps are; a step may outlive its removed ensemble
    for a while. Exports without weights are left out, as no server loads them.
    """
    names = []
    for folder in sorted(repository.iterdir()):
        try:
            text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        is_step = _EXPORTED in text and _ENSEMBLE not in text
        if not is_step and _WITHOUT_WEIGHTS not in text:
            names.append(folder.name)
    return names


def not_ready(connection: http.client.HTTPConnection, names: Iterable[str]) -> list[str]:
    """Returns the names of those that are not ready, among Triton and the models."""
    paths = {"Triton": "/v2/health/ready"} | {name: f"/v2/models/{quote(name, safe='')}/ready" for name in names}
    missing = []
    for name, path in paths.items():
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            missing.append(name)
    return missing


if __name__ == "__main__":
    sys.exit(main())
