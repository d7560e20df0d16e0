"""The options that `vitriton embed` has with every engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer

from vitriton._console.completion import served_names
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions
from vitriton._errors import InvalidOption

# the groups of options in the help
IMAGES, TEXTS, MODEL, OUTPUT = "Images", "Texts", "Model", "Output"


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """What is embedded by which model, and what is said of it.

    Attributes:
        prompt: the name of the model's prompt to put before each text. None: the model's default prompt, if any.
        no_prompt: put no prompt before the texts, not even the model's default one.
        model: the name that the model was exported under. None: the only model on the server.
        timeout_s: the longest time for each request, including its retries, in seconds.
        preprocess: the place where images are decoded and resized.
        expect_fingerprint: the fingerprint that the model must have; any other model is refused.
        access: the credentials, and the certificates to trust.
        as_json: print a summary as JSON.
        quiet: print errors only.
    """

    prompt: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=TEXTS)] = None
    no_prompt: Annotated[bool, typer.Option("--no-prompt", rich_help_panel=TEXTS)] = False
    url: Annotated[str, URL] = DEFAULT_ADDRESS
    model: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=MODEL, autocompletion=served_names)] = (
        None
    )
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 60.0
    preprocess: Annotated[Literal["server", "client"], typer.Option(rich_help_panel=IMAGES)] = "server"
    expect_fingerprint: Annotated[str | None, typer.Option(metavar="FINGERPRINT", rich_help_panel=MODEL)] = None
    access: Access = field(default_factory=Access)
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT)] = False

    @property
    def server(self) -> ServerOptions:
        """The server that embeds, or the servers."""
        return ServerOptions(address=self.url, access=self.access)

    def check_model(self) -> None:
        """Checks these options without a request.

        Raises:
            InvalidOption: an option is wrong.
        """
        if self.prompt is not None and self.no_prompt:
            raise InvalidOption("", "give either `prompt` or `no_prompt`, not both")
        if not self.timeout_s > 0:
            raise InvalidOption("timeout_s", f"is {self.timeout_s:g}; it must be a number of seconds above 0")
        self.server.check()
