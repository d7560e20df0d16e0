"""The command `vitriton embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vitriton._console import server
from vitriton._console.failure import Command

_HELP = (
    "Embed images into a file.\n\n"
    "A DIR gives the images in it, sorted by name. An interrupted run goes on when the same command is given again; "
    "until all is done, its progress is in OUTPUT.partial.\n\n"
    "Exit code: 0, all images are embedded; 1, it failed; 2, wrong options; 3, all is done, and some images could not "
    "be embedded; 130, interrupted."
)


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("embed", cls=Command, help=_HELP)(embed)


def embed(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Ends in .parquet, .npy or .jsonl; .npy gets a .sources.jsonl."
        ),
    ],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="DIR|FILE|URL", show_default=False, help="What to embed.")
    ] = None,
    list_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Paths and URLs to embed, one a line; - is standard input."),
    ] = None,
    url: server.Url = server.DEFAULT_ADDRESS,
    model: Annotated[
        str | None, typer.Option(help="Name that it was exported under.", show_default="the only one served")
    ] = None,
    pool: Annotated[
        bool, typer.Option("--pool/--no-pool", " /--unpooled", help="One vector an image, or all its tokens.")
    ] = True,
    recursive: Annotated[bool, typer.Option(help="Look into the folders in a DIR.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds for each request, tries included.")] = 60.0,
    preprocess: Annotated[
        Literal["server", "client"], typer.Option(help="Where images are decoded and resized.")
    ] = "server",
    expect_fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Refuse a model of another embedding space.")
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Images that cannot be embedded.", show_default="OUTPUT.errors.jsonl"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was interrupted, or start again.")] = True,
    ca_file: server.CaFile = None,
    cert_file: server.CertFile = None,
    key_file: server.KeyFile = None,
    token_env: server.TokenEnv = None,
    header: server.Header = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary for programs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
) -> None:
    """See _HELP."""
    # Imported here so that `vitriton --help` does not wait for it.
    from vitriton.commands.embed.outputs import FORMATS, Paths
    from vitriton.commands.embed.run import Request, run

    if not images and list_file is None:
        raise typer.BadParameter("name images, folders or URLs, or give a list with --from")
    if output.suffix not in FORMATS:
        raise typer.BadParameter(f"--output {output} must end in {', '.join(FORMATS)}")
    if not timeout > 0:
        raise typer.BadParameter(f"--timeout is {timeout:g}; it must be a number of seconds above 0")
    request = Request(
        images=images or [],
        list_file=list_file,
        recursive=recursive,
        paths=Paths(output=output, errors=errors or output.with_name(f"{output.name}.errors.jsonl")),
        server=server.Server(
            address=url,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            token_env=token_env,
            header=header,
        ),
        model=model,
        pool=pool,
        timeout_s=timeout,
        preprocess=preprocess,
        expect_fingerprint=expect_fingerprint,
        overwrite=overwrite,
        resume=resume,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(run(request))
