"""The default model of a run: the only one on the server that embeds images."""

from __future__ import annotations

from vitriton._console.failure import CommandFailed
from vitriton._console.server import ServerOptions
from vitriton._deadline import Deadline
from vitriton._served.catalog import wait_for_catalog


def only_model(server: ServerOptions, timeout_s: float) -> str:
    """Finds the only model of a server for images, and waits for it to answer; returns the name that it has.

    Raises:
        CommandFailed: the server has no model or several, or does not list its models.
        ClientError: no server answers in that time.
    """
    transports = server.transports()
    try:
        catalog = wait_for_catalog(transports, Deadline.after(timeout_s))
    finally:
        for transport in transports:
            transport.close()
    names = [model.name for model in catalog.models if model.is_ready_for("image")]
    if not catalog.listed:
        raise CommandFailed(f"the server at {catalog.address} does not list its models; name one with --model")
    if not names:
        raise CommandFailed(
            f"the server at {catalog.address} has no model of `vitriton export` that is ready; see `vitriton models`"
        )
    if len(names) > 1:
        raise CommandFailed(
            f"the server at {catalog.address} has several models; choose one with --model: {', '.join(names)}"
        )
    return names[0]
