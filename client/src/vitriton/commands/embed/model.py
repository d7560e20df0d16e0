"""The default model of a run: the only one on the server that embeds images."""

from __future__ import annotations

from vitriton._console.failure import CommandFailed
from vitriton._console.server import ServerOptions
from vitriton._served.catalog import first_catalog


def only_model(server: ServerOptions, timeout_s: float) -> str:
    """Finds the only model of a server for images; returns the name that it was exported under.

    Raises:
        CommandFailed: the server has no model or several, or does not list its models.
        ClientError: the server does not answer.
    """
    transports = server.transports()
    try:
        catalog = first_catalog(transports, timeout_s)
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
