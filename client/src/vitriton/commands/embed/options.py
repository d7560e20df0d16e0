"""What `vitriton embed` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitriton._console.completion import served_names
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions

if TYPE_CHECKING:
    from vitriton.commands.embed.outputs import Paths

_IMAGES, _MODEL, _OUTPUT = "Images", "Model", "Output"


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """The options of `vitriton embed`.

    Attributes:
        output: the file to write; its suffix (.parquet, .npy or .jsonl) selects the format. With .npy, a file that ends
            in .sources.jsonl lists the image of each row.
        images: the images to embed.
        list_file: a file with one path or URL per line, taken as it is; blank lines are skipped. - reads standard
            input.
        model: the name that the model was exported under. None: the only model on the server.
        pool: the kind of output: one vector for each image, or all tokens of each image.
        recursive: include the subfolders of each DIR.
        timeout_s: the longest time for each request, including its retries, in seconds.
        preprocess: the place where images are decoded and resized.
        expect_fingerprint: the fingerprint that the model must have; any other model is refused.
        errors: the file that lists the images that cannot be embedded. None: OUTPUT.errors.jsonl.
        overwrite: replace an existing output.
        resume: continue an interrupted run, or start again.
        access: the credentials, and the certificates to trust.
        as_json: print a summary as JSON.
        quiet: print errors only.
    """

    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", rich_help_panel=_OUTPUT)]
    images: Annotated[Sequence[str], typer.Argument(metavar="DIR|FILE|URL", show_default=False)] = ()
    list_file: Annotated[str | None, typer.Option("--from", metavar="FILE", rich_help_panel=_IMAGES)] = None
    url: Annotated[str, URL] = DEFAULT_ADDRESS
    model: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_MODEL, autocompletion=served_names)] = (
        None
    )
    pool: Annotated[bool, typer.Option("--pool/--no-pool", " /--unpooled", rich_help_panel=_MODEL)] = True
    recursive: Annotated[bool, typer.Option(rich_help_panel=_IMAGES)] = True
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 60.0
    preprocess: Annotated[Literal["server", "client"], typer.Option(rich_help_panel=_IMAGES)] = "server"
    expect_fingerprint: Annotated[str | None, typer.Option(metavar="FINGERPRINT", rich_help_panel=_MODEL)] = None
    errors: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_OUTPUT)] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", rich_help_panel=_OUTPUT)] = False
    resume: Annotated[bool, typer.Option(rich_help_panel=_OUTPUT)] = True
    access: Access = field(default_factory=Access)
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=_OUTPUT)] = False

    @property
    def server(self) -> ServerOptions:
        """The server that embeds."""
        return ServerOptions(address=self.url, access=self.access)

    @property
    def paths(self) -> Paths:
        """The files of the run."""
        from vitriton.commands.embed.outputs import Paths  # it imports numpy, for which --help need not wait

        return Paths(
            output=self.output, errors=self.errors or self.output.with_name(f"{self.output.name}.errors.jsonl")
        )
