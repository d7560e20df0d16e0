"""`vitriton-health`: whether every model of a repository is served, for a container's health check.

It runs every few seconds, so it imports nothing that takes long.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

_EXPORTED = 'key: "fingerprint"'  # as in every config.pbtxt that `vitriton export` writes
_WITHOUT_WEIGHTS = "not-exported"
_ENSEMBLE = "ensemble_scheduling"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is not ready; 0 where all is, 1 where something is not."""
    parser = argparse.ArgumentParser(
        prog="vitriton-health", description="Tell whether Triton is ready and serves every model of a repository."
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="folder of the models")
    parser.add_argument("--host", default="127.0.0.1", help="where Triton is")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each question")
    given = parser.parse_args(arguments)
    try:
        names = expected(given.repository)
    except OSError as exc:
        print(f"{given.repository} cannot be read: {exc.strerror}", file=sys.stderr)
        return 1
    if not names:
        print(f"{given.repository} has no model", file=sys.stderr)
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


def expected(repository: Path) -> list[str]:
    """The models that clients can ask for, in alphabetical order.

    Of an export its ensembles, which are ready when their steps are; a step whose ensemble has been removed may be
    there for a while. Not an export without weights, which no server loads.
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
    """What of Triton and of the models is not ready."""
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
