"""The default model of a run: the only one on the server that embeds such inputs."""

from __future__ import annotations

from vitriton._console.failure import CommandFailed
from vitriton._console.server import ServerOptions
from vitriton._deadline import Deadline
from vitriton._repository.names import Tower
from vitriton._served.catalog import wait_for_catalog

_GIVE = {"text": "give a file of them with --texts", "image": "name images or folders, without --texts"}


def only_model(server: ServerOptions, timeout_s: float, tower: Tower) -> str:
    """Finds the only model of a server with a tower, and waits for it to answer; returns the name that it has.

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
    names = [model.name for model in catalog.models if model.is_ready_for(tower)]
    if not catalog.listed:
        raise CommandFailed(f"the server at {catalog.address} does not list its models; name one with --model")
    if not names:
        other: Tower = "text" if tower == "image" else "image"
        others = [model.name for model in catalog.models if model.is_ready_for(other)]
        advice = f"it embeds {other}s with {', '.join(others)}: {_GIVE[other]}" if others else "see `vitriton models`"
        raise CommandFailed(
            f"the server at {catalog.address} has no model of `vitriton export` for {tower}s that is ready; {advice}"
        )
    if len(names) > 1:
        raise CommandFailed(
            f"the server at {catalog.address} has several models for {tower}s; choose one with --model: "
            f"{', '.join(names)}"
        )
    return names[0]
