"""The options of a verification."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.completion import exported_names
from vitriton._console.options import faults
from vitriton._console.server import SERVER, URL, ServerOptions
from vitriton._keywords import suggests_keywords
from vitriton._repository.names import Tower

from vitriton_export._errors import OptionError
from vitriton_export._options import check_min_cosine
from vitriton_export._verify.images import Folder, NamedInputs, TextLines

_MODEL, _REFERENCE, _IMAGES = "Model", "Reference", "Images and texts"


@suggests_keywords
@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `vitriton verify`: what to verify, and on which inputs.

    Attributes:
        name: the name that the model was exported under. None: the only model there.
        repository: the Triton model repository to read if no server is given; ONNX Runtime then runs the model on this
            machine. None: model_repository.
        server: the server to verify: an address, or an address with credentials and certificates.
        reference: the hub id or the folder of the checkpoint to compare with. None: the checkpoint that was exported.
        revision: the branch, tag or commit of the reference on the hub. None: the revision that was exported.
        images: a folder with your own images to compare. None: built-in test images.
        texts: a file with your own texts to compare, one on each line, in UTF-8; an empty line is an empty text.
            None: built-in test texts.
        limit: the largest number of images or texts to use, spread evenly over all of them. None: all.
        min_cosine: the lowest accepted cosine similarity of the outputs with the reference; between 0 and 1, both
            excluded. None: the limits for the model's precision.
        timeout_s: the longest time for each request to the server, in seconds.
    """

    name: Annotated[str | None, typer.Argument(metavar="NAME", autocompletion=exported_names)] = None
    repository: Annotated[str | os.PathLike[str] | None, typer.Option(metavar="PATH", rich_help_panel=_MODEL)] = None
    server: Annotated[str | ServerOptions | None, URL] = None
    reference: Annotated[str | None, typer.Option(metavar="MODEL|PATH", rich_help_panel=_REFERENCE)] = None
    revision: Annotated[str | None, typer.Option(metavar="REVISION", rich_help_panel=_REFERENCE)] = None
    images: Annotated[str | os.PathLike[str] | None, typer.Option(metavar="DIR", rich_help_panel=_IMAGES)] = None
    texts: Annotated[str | os.PathLike[str] | None, typer.Option(metavar="FILE", rich_help_panel=_IMAGES)] = None
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, rich_help_panel=_IMAGES)] = None
    min_cosine: Annotated[float | None, typer.Option(metavar="COSINE", rich_help_panel=_REFERENCE)] = None
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 60.0

    def __post_init__(self) -> None:
        """Refuses values that no verification can have."""
        for option, wrong in faults(self):
            raise OptionError(option, wrong)
        check_min_cosine(self.min_cosine)
        if not self.timeout_s > 0:
            raise OptionError("timeout_s", f"is {self.timeout_s:g}; it must be a number of seconds above 0")

    def inputs(self) -> dict[Tower, NamedInputs]:
        """Returns the user's own inputs, by the tower that takes them; empty for the built-in ones.

        Raises:
            OptionError: they are not there.
            ExportError: they cannot be read.
        """
        given: dict[Tower, NamedInputs] = {}
        if self.images is not None:
            given["image"] = Folder(Path(self.images), self.limit)
        if self.texts is not None:
            given["text"] = TextLines(Path(self.texts), self.limit)
        return given

    @property
    def folder(self) -> Path:
        """The repository."""
        return Path("model_repository" if self.repository is None else self.repository)
