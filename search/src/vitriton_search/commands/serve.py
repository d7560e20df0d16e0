"""`vitriton search serve`: the page, and the process that answers it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from vitriton._console.failure import Command
from vitriton._console.listening import listen, url_of
from vitriton._console.options import faults, flatten
from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption

from vitriton_search.commands.asking import STORE
from vitriton_search.options import DEFAULT_STORE, ModelOptions

_PAGE = "Page"

_HELP = (
    "Serve a page that shows a store.\n\n"
    "It searches by picture, by text where the model has a text tower, and for more like a result; it shows duplicates "
    "and a map. Without the model's server, everything works except searching by pictures and texts. The page serves "
    "only files of the store, and only to this machine; a --host for other machines needs --token-file."
)
_EXAMPLES = """
vitriton search serve
vitriton search serve --store photos.lance --url gpu-1:8001
vitriton search serve --host 0.0.0.0 --token-file token
"""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The options of `vitriton search serve`.

    Attributes:
        store: the store: a folder for LanceDB, or the URL of another store.
        host: the host name or address of this machine to listen on; any but a loopback address needs `token_file`.
        port: the port to listen on; 0 picks a free port.
        token_file: the file with the token that readers of the page need.
        server_name: another name under which readers reach the page, such as that of a proxy; repeat the option for
            more.
        thumbnails: the folder that thumbnails are kept in, up to 512 MiB. None: vitriton/thumbnails in ~/.cache.
        served: the served model that embeds pictures and texts to search for.
    """

    store: Annotated[str, STORE] = DEFAULT_STORE
    host: Annotated[str, typer.Option(metavar="HOST", rich_help_panel=_PAGE)] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, rich_help_panel=_PAGE)] = 8090
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_PAGE)] = None
    server_name: Annotated[Sequence[str], typer.Option(metavar="NAME", rich_help_panel=_PAGE)] = ()
    thumbnails: Annotated[Path | None, typer.Option(metavar="FOLDER", rich_help_panel=_PAGE)] = None
    served: ModelOptions = field(default_factory=lambda: ModelOptions(timeout_s=30.0))

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for option, wrong in faults(self):
            raise InvalidOption(option, wrong)
        if self.token_file is not None and (fault := file_fault(self.token_file)) is not None:
            raise InvalidOption("token_file", fault)


def register(group: typer.Typer) -> None:
    """Adds the command to the group `vitriton search`."""
    group.command("serve", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(serve))


def serve(options: PageOptions) -> None:
    """Serves the page; the help text is _HELP."""
    # Imported here to keep `vitriton --help` fast.
    from vitriton import Options

    from vitriton_search.page.app import Page
    from vitriton_search.page.bodies import MAX_UPLOAD_BYTES
    from vitriton_search.page.films import FilmFrames
    from vitriton_search.page.gate import PageToken, host_names
    from vitriton_search.page.process import is_loopback, run
    from vitriton_search.page.thumbnails import Thumbnails, cache_folder
    from vitriton_search.stores import open_store

    served = options.served
    served.server.check()
    token = None if options.token_file is None else PageToken.read(options.token_file)
    logging.getLogger("vitriton.search").setLevel(logging.INFO)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(listen(options.host, options.port)))
        if token is None and not is_loopback(listener):
            wrong = f"is {options.host}, which others can reach; give `token_file` as well, or leave it out"
            raise InvalidOption("host", wrong)
        store = stack.enter_context(open_store(options.store))
        client = stack.enter_context(
            served.server.client(
                model=served.model or store.space.model,
                timeout_s=served.timeout_s,
                expect_fingerprint=store.space.fingerprint,
                options=Options(refuse_paths=True, refuse_private_addresses=True, max_image_bytes=MAX_UPLOAD_BYTES),
            )
        )
        page = Page(
            store,
            client,
            Thumbnails(options.thumbnails or cache_folder()),
            stack.enter_context(FilmFrames()),
            name=_shown(options.store),
            hosts=host_names(options.host, options.server_name),
            token=token,
        )
        typer.echo(f"page  {url_of(listener)}/" + ("" if token is None else "  (add #token=TOKEN, or type the token)"))
        if not is_loopback(listener):
            typer.echo("warning: pictures and the token travel as they are; put a proxy with TLS in front", err=True)
        run(page.app, listener)


def _shown(store: str) -> str:
    """A store's URL as people read it: without a password, and without the way to a folder."""
    parts = urlsplit(store)
    if not parts.scheme or not parts.hostname:
        return Path(store.partition(":")[2] or store).name or store
    table = f" ({parts.query})" if parts.query.startswith("table=") else ""
    return f"{parts.hostname}{parts.path}{table}"
