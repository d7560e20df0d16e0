"""The options that several commands have: the served model that embeds, and the default store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer
from vitriton._console.completion import served_names
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions
from vitriton._errors import InvalidOption

DEFAULT_STORE = "photos.lance"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The served model whose vectors a store has.

    Attributes:
        model: the name that the model was exported under. None: the store's; if `search index` makes the store, the
            only model on the server.
        timeout_s: the longest time for each request, including its retries, in seconds.
        access: the credentials, and the certificates to trust.
    """

    url: Annotated[str, URL] = DEFAULT_ADDRESS
    model: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=SERVER, autocompletion=served_names)] = (
        None
    )
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 60.0
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        """Checks the bounds.

        Raises:
            InvalidOption: an option is wrong.
        """
        if not self.timeout_s > 0:
            raise InvalidOption("timeout_s", f"is {self.timeout_s:g}; it must be a number of seconds above 0")

    @property
    def server(self) -> ServerOptions:
        """The server."""
        return ServerOptions(address=self.url, access=self.access)
