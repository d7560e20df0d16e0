"""What `vitriton search index` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.inputs import read_every
from vitriton._errors import InvalidOption

from vitriton_search.options import DEFAULT_STORE, ModelOptions

_IMAGES, _STORE, _OUTPUT = "Images", "Store", "Output"


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """The options of `vitriton search index`.

    Attributes:
        images: the images to index, and with `every` the videos: folders, files, URLs, and .parquet files of
            `vitriton embed`.
        list_file: a file with one path or URL per line, taken as it is; blank lines are skipped. - reads standard
            input.
        every: the time between two frames of a video that are indexed, such as 1s, 500ms or 2m. None: videos are
            skipped.
        columns: a .csv or .jsonl file with columns of your own, which `path` or `id` assigns to images; filters can use
            them.
        store: the store, made if it is not there: a folder for LanceDB, or the URL of another store.
        prune: remove the rows of files that do not exist any more, in the folders that are given.
        retry_errors: try all images again that could not be embedded.
        rebuild: discard all that is in the store, and embed the images again, also with another model.
        served: the served model that embeds.
        as_json: print a summary as JSON.
        quiet: print errors only.
    """

    images: Annotated[Sequence[str], typer.Argument(metavar="DIR|FILE|URL", show_default=False)] = ()
    list_file: Annotated[str | None, typer.Option("--from", metavar="FILE", rich_help_panel=_IMAGES)] = None
    every: Annotated[str | None, typer.Option(metavar="TIME", rich_help_panel=_IMAGES)] = None
    columns: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_IMAGES)] = None
    store: Annotated[str, typer.Option(metavar="STORE", rich_help_panel=_STORE)] = DEFAULT_STORE
    prune: Annotated[bool, typer.Option("--prune", rich_help_panel=_STORE)] = False
    retry_errors: Annotated[bool, typer.Option("--retry-errors", rich_help_panel=_STORE)] = False
    rebuild: Annotated[bool, typer.Option("--rebuild", rich_help_panel=_STORE)] = False
    served: ModelOptions = field(default_factory=ModelOptions)
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=_OUTPUT)] = False

    def __post_init__(self) -> None:
        """Checks what can be checked without a look at the disk.

        Raises:
            InvalidOption: an option is wrong.
        """
        if not (self.images or self.list_file is not None):
            raise InvalidOption("", "name images, folders or URLs, or give a list with `list_file`")
        if self.every is not None:
            read_every(self.every)

    @property
    def every_s(self) -> float | None:
        """The time between two frames of a video, in seconds; None: videos are skipped."""
        return None if self.every is None else read_every(self.every)
